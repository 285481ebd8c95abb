# qamserve_third_party_jinja: the Jinja engine of llama.cpp (MIT), fetched once by scripts/fetch_jinja.sh.
# -DQAMSERVE_JINJA_DIR=DIR uses a copy that is there already.
include_guard(GLOBAL)
if(DEFINED ENV{XDG_CACHE_HOME} AND NOT "$ENV{XDG_CACHE_HOME}" STREQUAL "")
  set(qamserve_jinja_default "$ENV{XDG_CACHE_HOME}/qamserve/jinja-0.3.36")
else()
  set(qamserve_jinja_default "$ENV{HOME}/.cache/qamserve/jinja-0.3.36")
endif()
set(QAMSERVE_JINJA_DIR "${qamserve_jinja_default}" CACHE PATH "Where the Jinja engine's sources lie or are put")
if(NOT EXISTS "${QAMSERVE_JINJA_DIR}/common/jinja/runtime.h")
  execute_process(COMMAND "${CMAKE_CURRENT_LIST_DIR}/../scripts/fetch_jinja.sh" "${QAMSERVE_JINJA_DIR}"
                  RESULT_VARIABLE qamserve_jinja_result)
  if(NOT qamserve_jinja_result EQUAL 0)
    message(FATAL_ERROR "scripts/fetch_jinja.sh failed. It needs python3 with pip and a package index that can be "
                        "reached; or give a copy with -DQAMSERVE_JINJA_DIR=DIR.")
  endif()
elseif(NOT EXISTS "${QAMSERVE_JINJA_DIR}/models/templates")
  # A copy from before templates came along. Only chat_reference_test needs them, and says so where they lack.
  execute_process(COMMAND "${CMAKE_CURRENT_LIST_DIR}/../scripts/fetch_jinja.sh" "${QAMSERVE_JINJA_DIR}"
                  RESULT_VARIABLE qamserve_jinja_result)
  if(NOT qamserve_jinja_result EQUAL 0)
    message(STATUS "no published chat templates to compare with: scripts/fetch_jinja.sh failed")
  endif()
endif()

# The engine includes ggml.h for one macro only; this stands in for the rest of ggml.
set(qamserve_jinja_shim "${CMAKE_BINARY_DIR}/jinja-shim")
file(CONFIGURE OUTPUT "${qamserve_jinja_shim}/ggml.h" CONTENT [[
#pragma once
#include <stdexcept>
#define GGML_ASSERT(x) do { if (!(x)) throw std::runtime_error("template engine: " #x); } while (0)
]] @ONLY)

file(GLOB qamserve_jinja_sources "${QAMSERVE_JINJA_DIR}/common/jinja/*.cpp")
add_library(qamserve_third_party_jinja STATIC ${qamserve_jinja_sources} "${QAMSERVE_JINJA_DIR}/common/json.cpp"
            "${QAMSERVE_JINJA_DIR}/common/unicode.cpp")
target_compile_options(qamserve_third_party_jinja PRIVATE -w)
# Its nodes assert the types of their parts, which a bad template gets wrong: without asserts they say so by exceptions
# when they run. Public, since the nodes are made in its headers.
target_compile_definitions(qamserve_third_party_jinja PUBLIC NDEBUG)
# The bundled nlohmann is for the engine's own sources alone. It keeps its symbols in a namespace that names its
# version, so it can be linked beside the system's; one translation unit must never see both.
target_include_directories(qamserve_third_party_jinja SYSTEM BEFORE
  PRIVATE "${QAMSERVE_JINJA_DIR}/vendor" "${qamserve_jinja_shim}"
  PUBLIC "${QAMSERVE_JINJA_DIR}/common")
