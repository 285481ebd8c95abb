#!/usr/bin/env bash
# usage: scripts/bundle_gpu.sh FOLDER
# Builds the GPU tests and benches and puts them into FOLDER with the libraries that they need. FOLDER/run.sh
# [GTEST_FILTER] then tests and measures on a machine that has a GPU, its driver and a C++ library as new as this
# machine's, and nothing else of ours; results are in FOLDER/results.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:?usage: scripts/bundle_gpu.sh FOLDER}
build=${BUILD:-build}
# Below tests/core.
tests=(kernels/cuda_device_test kernels/cuda_trellis_test kernels/cuda_matmul_test kernels/cuda_forward_ops_test
       model/cuda_model_test quantize/cuda/cuda_encoder_test quantize/cuda/cuda_quantize_test)

grep -q '^CMAKE_CUDA_COMPILER:' "$build/CMakeCache.txt" 2>/dev/null ||
  { echo "error: $build/ is not configured with CUDA kernels (see QAMSERVE_CUDA in cmake/Cuda.cmake)" >&2; exit 1; }
cmake --build "$build" --target "${tests[@]##*/}" gpu_bench gpu_quantize_bench decode_bench
mkdir -p "$folder/lib"
for test in "${tests[@]}"; do cp "$build/tests/core/$test" "$folder/"; done
cp "$build"/tests/bench/{gpu_bench,gpu_quantize_bench,decode_bench} "$folder/"
strip "$folder"/cuda_*_test "$folder"/*_bench
# The C and C++ libraries are the other machine's: its driver brings libraries that need them.
for program in "$folder"/cuda_*_test "$folder"/*_bench; do ldd "$program"; done |
  awk '$3 ~ /^\// { print $3 }' | sort -u | grep -Ev '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s)\.so' |
  xargs -I{} cp -L {} "$folder/lib/"
cat >"$folder/run.sh" <<'RUN'
#!/bin/sh
# Tests first: a figure of a kernel that is wrong is worth nothing.
cd "$(dirname "$0")" || exit
mkdir -p results
export LD_LIBRARY_PATH="$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
status=0
for test in ./cuda_*_test; do
  log=results/${test#./}.log
  "$test" --gtest_filter="${1:-*}" >"$log" 2>&1 || status=1
  cat "$log"
done
for bench in gpu_bench gpu_quantize_bench; do
  "./$bench" >"results/$bench.jsonl" || status=1
  cat "results/$bench.jsonl"
done
exit $status
RUN
chmod +x "$folder/run.sh"
du -sh "$folder"
