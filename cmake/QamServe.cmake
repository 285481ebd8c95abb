# Compiler settings and the two helpers that every folder uses: qamserve_library and qamserve_test.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")

find_program(QAMSERVE_CCACHE ccache)
if(QAMSERVE_CCACHE)
  # Paths below the source folder count relative to it, so that a clone elsewhere finds what another one compiled.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1
      ${QAMSERVE_CCACHE})
endif()
find_program(QAMSERVE_MOLD mold)
if(QAMSERVE_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

include(Cuda)

set(qamserve_options -Wall -Wextra -Wno-missing-field-initializers -fno-omit-frame-pointer
  # Two machines must give the same bytes: a*b+c is fused only where the code says fma.
  -ffp-contract=off)
if(QAMSERVE_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "QAMSERVE_FUZZ needs clang, whose libFuzzer it uses: -DCMAKE_CXX_COMPILER=clang++")
  endif()
  # Everything is built to be watched; only the fuzzers themselves are linked with libFuzzer's main.
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=address,undefined)
endif()
if(QAMSERVE_WERROR)
  list(APPEND qamserve_options -Werror)
endif()
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:${qamserve_options}>")
if(QAMSERVE_HAS_CUDA)
  # CMake 3.25 knows no C++20 for this compiler: it ends where the standard is required and drops it in silence where it
  # is not, so the flag is written out.
  set(CMAKE_CUDA_STANDARD_REQUIRED OFF)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>")
  endif()
  # The host half of a .cu file gets the options of the others but -Wextra, which nvcc's own stubs do not pass.
  add_compile_options(
    "$<$<COMPILE_LANGUAGE:CUDA>:--fmad=false;-Xcompiler=-Wall,-fno-omit-frame-pointer,-ffp-contract=off>")
  if(QAMSERVE_WERROR)
    add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings;-Xcompiler=-Werror>")
  endif()
endif()
include_directories(${PROJECT_SOURCE_DIR})

find_package(absl CONFIG REQUIRED)
find_package(fmt CONFIG REQUIRED)
find_package(Eigen3 3.3 REQUIRED NO_MODULE)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.10 REQUIRED)

# qamserve_library(NAME SOURCES... [LIBS ...]): one static library a folder, called qamserve_<NAME>.
function(qamserve_library name)
  cmake_parse_arguments(A "" "" "SOURCES;LIBS" ${ARGN})
  add_library(qamserve_${name} STATIC ${A_SOURCES})
  target_link_libraries(qamserve_${name} PUBLIC ${A_LIBS})
endfunction()

# qamserve_test(NAME SOURCES... [LIBS ...] [LABEL unit|slow|gpu|fault] [TIMEOUT s]): one gtest program, one ctest entry.
function(qamserve_test name)
  cmake_parse_arguments(A "" "LABEL;TIMEOUT" "SOURCES;LIBS" ${ARGN})
  if(NOT A_LABEL)
    set(A_LABEL unit)
  endif()
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE ${A_LIBS} GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS ${A_LABEL} TIMEOUT ${A_TIMEOUT})
endfunction()
