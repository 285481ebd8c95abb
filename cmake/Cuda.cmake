# QAMSERVE_CUDA: whether core/kernels/cuda is built. AUTO takes a CUDA compiler where there is one that can build this;
# ON insists on it. Sets QAMSERVE_HAS_CUDA. Nothing here needs a GPU or a driver, neither to build nor to start.
include_guard(GLOBAL)
set(QAMSERVE_CUDA AUTO CACHE STRING "Build the CUDA kernels: AUTO (where there is an nvcc), ON or OFF")
set_property(CACHE QAMSERVE_CUDA PROPERTY STRINGS AUTO ON OFF)
# Machine code for A100 and H100/H200, and of the latter the portable form for what comes after them.
set(CMAKE_CUDA_ARCHITECTURES "80-real;90" CACHE STRING "GPU architectures to build for")
# The first nvcc that compiles C++20.
set(qamserve_cuda_minimum 12.0)

set(QAMSERVE_HAS_CUDA FALSE)
if(NOT QAMSERVE_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "QAMSERVE_CUDA is '${QAMSERVE_CUDA}'; it must be AUTO, ON or OFF")
endif()

# Sets `reason` to why there are no CUDA kernels; empty if there can be.
function(qamserve_find_cuda reason)
  set(nvcc "${CMAKE_CUDA_COMPILER}")
  if(NOT nvcc)
    # check_language looks on the PATH only; toolkits put nvcc beside it.
    find_program(QAMSERVE_NVCC NAMES "$ENV{CUDACXX}" nvcc HINTS ENV CUDA_PATH ENV CUDA_HOME PATHS /usr/local/cuda
                 PATH_SUFFIXES bin)
    set(nvcc "${QAMSERVE_NVCC}")
  endif()
  if(NOT nvcc)
    set(${reason} "there is no nvcc" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE text ERROR_QUIET RESULT_VARIABLE result)
  if(NOT result EQUAL 0 OR NOT text MATCHES "release ([0-9]+\\.[0-9]+)")
    set(${reason} "${nvcc} does not run" PARENT_SCOPE)
    return()
  endif()
  if(CMAKE_MATCH_1 VERSION_LESS qamserve_cuda_minimum)
    set(${reason} "${nvcc} is ${CMAKE_MATCH_1}, the first that will do is ${qamserve_cuda_minimum}" PARENT_SCOPE)
    return()
  endif()
  # Compiles a first program, without ending the configuration if it fails (an nvcc that refuses this g++, say).
  set(ENV{CUDACXX} "${nvcc}")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(${reason} "" PARENT_SCOPE)
  else()
    set(${reason} "${nvcc} does not compile a first program (see CMakeFiles/CMakeError.log)" PARENT_SCOPE)
  endif()
endfunction()

if(NOT QAMSERVE_CUDA STREQUAL "OFF")
  qamserve_find_cuda(qamserve_no_cuda)
  if(NOT qamserve_no_cuda)
    set(QAMSERVE_HAS_CUDA TRUE)
  elseif(QAMSERVE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "QAMSERVE_CUDA is ON, but ${qamserve_no_cuda}. Install the CUDA toolkit, "
                        "${qamserve_cuda_minimum} or later (nvcc and the static runtime; no driver), and put nvcc on "
                        "the PATH or name it with -DCMAKE_CUDA_COMPILER; or configure with -DQAMSERVE_CUDA=OFF.")
  else()
    message(STATUS "CUDA kernels: none, since ${qamserve_no_cuda}")
  endif()
endif()

if(QAMSERVE_HAS_CUDA)
  if(QAMSERVE_CCACHE)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  message(STATUS "CUDA kernels: nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
endif()
