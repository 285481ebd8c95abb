#!/usr/bin/env bash
# Builds the peer that ./run bench compares with: llama.cpp's command line tools, from the source archive of the PyPI
# package llama-cpp-python, which carries the whole tree. About 10 minutes on 2 cores, once; prints the folder of the
# tools, last. What is there already is not built again.
# usage: build_peer.sh [--isa native|avx2] [DIR]     default: native, ${XDG_CACHE_HOME:-~/.cache}/peers/llama.cpp
# native has every instruction set of this CPU but AMX; avx2 has AVX2, FMA and F16C, and only llama-bench.
set -euo pipefail

readonly VERSION=0.3.36
isa=native
if [ "${1:-}" = --isa ]; then
  isa=${2:?--isa needs native or avx2}
  shift 2
fi
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/peers/llama.cpp}
case $isa in
  native)
    build=$folder/build
    tools=(llama-bench llama-perplexity llama-quantize llama-tokenize llama-server)
    flags=(-DGGML_NATIVE=ON)
    # This version's AMX products end llama-server with SIGILL (a tile instruction on a thread that never loaded a tile
    # configuration).
    if grep -qw amx_tile /proc/cpuinfo; then
      without="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
      flags+=("-DCMAKE_C_FLAGS=$without" "-DCMAKE_CXX_FLAGS=$without")
    fi
    ;;
  avx2)
    build=$folder/build-avx2
    tools=(llama-bench)
    flags=(-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_BMI2=ON -DGGML_FMA=ON -DGGML_F16C=ON)
    ;;
  *) echo "error: --isa is '$isa'; there are native and avx2" >&2; exit 1 ;;
esac
bin=$build/bin
# Both builds compile most files alike.
if command -v ccache >/dev/null; then
  flags+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DGGML_CCACHE=OFF)
fi

complete() {
  local tool
  for tool in "${tools[@]}"; do [ -x "$bin/$tool" ] || return 1; done
}

if ! complete; then
  echo "building llama.cpp (llama-cpp-python $VERSION, $isa) in $build" >&2
  if [ ! -f "$folder/CMakeLists.txt" ]; then
    mkdir -p "$folder/download"
    python3 -m venv "$folder/venv"
    # The archive's build backend is wanted by pip even to download it.
    "$folder/venv/bin/pip" install --quiet scikit-build-core
    "$folder/venv/bin/pip" download --quiet --no-deps --no-build-isolation --no-binary :all: -d "$folder/download" \
      "llama-cpp-python==$VERSION"
    tar -xzf "$folder/download/llama_cpp_python-$VERSION.tar.gz" -C "$folder" --strip-components=3 \
      "llama_cpp_python-$VERSION/vendor/llama.cpp"
  fi
  cmake -S "$folder" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "${flags[@]}" -DLLAMA_CURL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_UI=OFF >&2
  cmake --build "$build" -j "${QAMSERVE_JOBS:-$(nproc)}" --target "${tools[@]}" >&2
  complete || { echo "error: the build of llama.cpp in $build left no tools" >&2; exit 1; }
fi
echo "$bin"
