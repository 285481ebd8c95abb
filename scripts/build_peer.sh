#!/usr/bin/env bash
# Builds the peer that ./run bench compares with: llama.cpp's command line tools, from the source archive of the PyPI
# package llama-cpp-python, which carries the whole tree. About 10 minutes on 2 cores, once; prints the folder of the
# tools, last. What is there already is not built again.
# usage: build_peer.sh [DIR]     default: ${XDG_CACHE_HOME:-~/.cache}/peers/llama.cpp
set -euo pipefail

readonly VERSION=0.3.36
readonly TOOLS=(llama-bench llama-perplexity llama-quantize llama-tokenize llama-server)
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/peers/llama.cpp}
bin=$folder/build/bin

complete() {
  local tool
  for tool in "${TOOLS[@]}"; do [ -x "$bin/$tool" ] || return 1; done
}

if ! complete; then
  echo "building llama.cpp (llama-cpp-python $VERSION) in $folder" >&2
  mkdir -p "$folder/download"
  python3 -m venv "$folder/venv"
  # The archive's build backend is wanted by pip even to download it.
  "$folder/venv/bin/pip" install --quiet scikit-build-core
  "$folder/venv/bin/pip" download --quiet --no-deps --no-build-isolation --no-binary :all: -d "$folder/download" \
    "llama-cpp-python==$VERSION"
  tar -xzf "$folder/download/llama_cpp_python-$VERSION.tar.gz" -C "$folder" --strip-components=3 \
    "llama_cpp_python-$VERSION/vendor/llama.cpp"
  # Native: the peer gets every instruction this CPU has, as ours does.
  cmake -S "$folder" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_UI=OFF >&2
  cmake --build "$folder/build" -j "${QAMSERVE_JOBS:-$(nproc)}" --target "${TOOLS[@]}" >&2
  complete || { echo "error: the build of llama.cpp in $folder left no tools" >&2; exit 1; }
fi
echo "$bin"
