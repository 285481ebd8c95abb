#!/usr/bin/env bash
# usage: scripts/bundle_gpu.sh FOLDER
# Builds the GPU tests and benches and puts them into FOLDER with the libraries that they need. FOLDER/run.sh
# [GTEST_FILTER] then tests and measures on a machine that has a GPU, its driver and a C++ library as new as this
# machine's, and nothing else of ours (for prompts also a libcublas: tests/bench/gpu_run.sh says where it is looked for);
# results are in FOLDER/results, of which `./run bench --import FOLDER/results` makes rows. FOLDER.tar.gz is all of it, to
# carry.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:?usage: scripts/bundle_gpu.sh FOLDER}
build=${BUILD:-build}
# Below tests/core.
tests=(kernels/cuda_device_test kernels/cuda_trellis_test kernels/cuda_matmul_test kernels/cuda_forward_ops_test
       kernels/cuda_sample_ops_test model/cuda_model_test quantize/cuda/cuda_encoder_test quantize/cuda/cuda_quantize_test)
benches=(gpu_bench gpu_layers_bench gpu_quantize_bench decode_bench random_artifact)

grep -q '^CMAKE_CUDA_COMPILER:' "$build/CMakeCache.txt" 2>/dev/null ||
  { echo "error: $build/ is not configured with CUDA kernels (see QAMSERVE_CUDA in cmake/Cuda.cmake)" >&2; exit 1; }
cmake --build "$build" --target "${tests[@]##*/}" "${benches[@]}"
mkdir -p "$folder/lib"
programs=()
for program in "${tests[@]/#/core/}" "${benches[@]/#/bench/}"; do
  cp "$build/tests/$program" "$folder/"
  programs+=("$folder/${program##*/}")
done
strip "${programs[@]}"
# The C and C++ libraries are the other machine's: its driver brings libraries that need them.
for program in "${programs[@]}"; do ldd "$program"; done |
  awk '$3 ~ /^\// { print $3 }' | sort -u | grep -Ev '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s)\.so' |
  xargs -I{} cp -L {} "$folder/lib/"
# What figures are signed with, and what measures them.
python3 tests/bench/gpu_bundle.py "$build" >"$folder/built.txt"
cp tests/bench/gpu_run.sh "$folder/run.sh"
chmod +x "$folder/run.sh"
# To carry it: a third of its size.
tar -czf "$folder.tar.gz" -C "$(dirname "$folder")" "$(basename "$folder")"
du -sh "$folder" "$folder.tar.gz"
