#!/usr/bin/env bash
# usage: scripts/bundle_gpu.sh FOLDER
# Builds the GPU tests and benches and puts them into FOLDER with the libraries that they need. FOLDER/run.sh
# [GTEST_FILTER] then tests and measures on a machine that has a GPU, its driver and a C++ library as new as this
# machine's, and nothing else of ours; results are in FOLDER/results. FOLDER.tar.gz is all of it, to carry.
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
cat >"$folder/run.sh" <<'RUN'
#!/bin/sh
# usage: run.sh [GTEST_FILTER]
# Tests first: a figure of a kernel that is wrong is worth nothing. Status 0: all ran and passed; 1: something failed; 77:
# there is no GPU, which the last line then says.
cd "$(dirname "$0")" || exit
mkdir -p results
export LD_LIBRARY_PATH="$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
failed='' skipped='' passed=0

# note NAME STATUS: counts what ended so.
note() {
  case $2 in
    0) passed=$((passed + 1)) ;;
    77) skipped="$skipped $1" ;;
    *) failed="$failed $1" ;;
  esac
}

for test in ./cuda_*_test; do
  name=${test#./}
  "$test" --gtest_filter="${1:-*}" >"results/$name.log" 2>&1
  status=$?
  cat "results/$name.log"
  # Tests that need a GPU skip one by one; some of a program may need none.
  [ $status -eq 0 ] && grep -q 'no GPU: ' "results/$name.log" && status=77
  note "$name" $status
done
# measure NAME PROGRAM [OPTIONS]
measure() {
  name=$1
  shift
  "$@" >"results/$name.jsonl"
  note "$name" $?
  cat "results/$name.jsonl"
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader >results/driver.txt 2>&1
measure gpu_bench ./gpu_bench
measure gpu_bench_down ./gpu_bench --rows 4096 --cols 14336 --tokens 1 16
measure gpu_layers_bench ./gpu_layers_bench
measure gpu_quantize_bench ./gpu_quantize_bench
# A model of 7 G weights at 5.5 bits, and the same with 16: 20 GB that go again.
work=$(mktemp -d "${TMPDIR:-/tmp}/qamserve-gpu-XXXXXX") || exit
trap 'rm -rf "$work"' EXIT
for codec in joint full; do
  case $skipped in *gpu_bench*) note "decode_$codec" 77; continue ;; esac
  ./random_artifact --out "$work/$codec" --codec $codec &&
    ./decode_bench --model "$work/$codec" --device cuda:0 --tokens 128 --repetitions 5 --sample >"results/decode_$codec.json"
  note "decode_$codec" $?
  cat "results/decode_$codec.json"
  rm -rf "${work:?}/$codec"
done

echo "$passed passed${failed:+, failed:$failed}${skipped:+, skipped for want of a GPU:$skipped}"
[ -n "$failed" ] && exit 1
[ -n "$skipped" ] && exit 77
exit 0
RUN
chmod +x "$folder/run.sh"
# To carry it: a third of its size.
tar -czf "$folder.tar.gz" -C "$(dirname "$folder")" "$(basename "$folder")"
du -sh "$folder" "$folder.tar.gz"
