#!/bin/sh
# usage: run.sh [GTEST_FILTER]
# Tests and measures what scripts/bundle_gpu.sh put beside this file. Tests first: a figure of a kernel that is wrong is
# worth nothing. Status 0: all ran and passed; 1: something failed; 2: nothing failed, but something was not measured;
# 77: there is no GPU. The last line says so in words. results/ then holds what was printed, and what is to be known of
# it in about.txt: `./run bench --import FOLDER/results` makes rows of docs/benchmarks.json of it.
#
# Prompts are compared with cuBLAS, which is no part of the folder. It is found where the loader finds it, in the Python
# package nvidia-cublas (`pip install nvidia-cublas`) and in a CUDA toolkit in /usr/local; for one elsewhere name the
# folder with libcublas.so.13 or .12: LD_LIBRARY_PATH=/elsewhere/lib ./run.sh
cd "$(dirname "$0")" || exit
mkdir -p results
about=results/about.txt
failed='' skipped='' not_measured='' passed=0

# note NAME STATUS: counts what ended so.
note() {
  echo "status $1 $2" >>$about
  case $2 in
    0) passed=$((passed + 1)) ;;
    77) skipped="$skipped $1" ;;
    *) failed="$failed $1" ;;
  esac
}

# find_cublas: prints the folder of a libcublas that the loader would not find by itself.
find_cublas() {
  ldconfig -p 2>/dev/null | grep -q 'libcublas\.so' && return
  packages=$(python3 -c 'import site, sysconfig
print(sysconfig.get_path("purelib"), site.getusersitepackages(), sep="\n")' 2>/dev/null)
  { echo "$packages" | while read -r folder; do [ -n "$folder" ] && ls -d "$folder"/nvidia/*/lib; done
    ls -d /usr/local/cuda*/lib64; } 2>/dev/null |
    while read -r folder; do
      ls "$folder"/libcublas.so.1[23] >/dev/null 2>&1 && echo "$folder" && break
    done
}

# tell_machine [GTEST_FILTER]: what figures are signed with, one thing a line.
tell_machine() {
  cat built.txt
  echo "date $(date -u +%Y-%m-%d)"
  echo "cpu $(sed -n 's/^model name[[:space:]]*: *//p' /proc/cpuinfo | head -n 1)"
  echo "cores $(getconf _NPROCESSORS_ONLN)"
  echo "memory_kib $(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
  echo "flags $(sed -n 's/^\(flags\|Features\)[[:space:]]*: *//p' /proc/cpuinfo | head -n 1)"
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>&1 | sed 's/^/gpu /'
  echo "filter ${1:-*}"
}

tell_machine "$@" >$about
export LD_LIBRARY_PATH="$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
cublas=$(find_cublas)
[ -n "$cublas" ] && export LD_LIBRARY_PATH="$LD_LIBRARY_PATH:$cublas"

for test in ./cuda_*_test; do
  name=${test#./}
  "$test" --gtest_filter="${1:-*}" >"results/$name.log" 2>&1
  status=$?
  cat "results/$name.log"
  # Tests that need a GPU skip one by one; some of a program may need none.
  [ $status -eq 0 ] && grep -q 'no GPU: ' "results/$name.log" && status=77
  note "$name" $status
done

# measure NAME PROGRAM [OPTIONS]: its lines go to results/NAME.jsonl.
measure() {
  name=$1
  shift
  echo "command $name $*" >>$about
  "$@" >"results/$name.jsonl"
  status=$?
  cat "results/$name.jsonl"
  note "$name" $status
  # What a bench left out, in its own words.
  if [ $status -eq 0 ] && grep -q '"kind":"not_measured"' "results/$name.jsonl"; then
    not_measured="$not_measured, not measured: $(sed -n 's/.*"kind":"not_measured","what":"\([^"]*\)".*/\1/p' "results/$name.jsonl")"
  fi
}

measure gpu_bench ./gpu_bench --tokens 1 8 16
measure gpu_bench_down ./gpu_bench --tokens 1 8 16 --rows 4096 --cols 14336
measure gpu_layers_bench ./gpu_layers_bench
measure gpu_quantize_bench ./gpu_quantize_bench
# A model of 7 G weights at 5.5 bits, and the same with 16: 20 GB that go again.
WORK=$(mktemp -d "${TMPDIR:-/tmp}/qamserve-gpu-XXXXXX") || exit
trap 'rm -rf "$WORK"' EXIT
for codec in joint full; do
  case $skipped in *gpu_bench*) note "decode_$codec" 77; continue ;; esac
  # shellcheck disable=SC2016  # as a reader would type it
  echo "command decode_$codec ./random_artifact --out \$WORK/$codec --codec $codec ;" \
    "./decode_bench --model \$WORK/$codec --device cuda:0 --tokens 128 --repetitions 5 --sample" >>$about
  ./random_artifact --out "$WORK/$codec" --codec $codec &&
    ./decode_bench --model "$WORK/$codec" --device cuda:0 --tokens 128 --repetitions 5 --sample >"results/decode_$codec.json"
  status=$?
  [ $status -eq 0 ] && cat "results/decode_$codec.json"
  note "decode_$codec" $status
  rm -rf "${WORK:?}/$codec"
done

echo "$passed passed${failed:+, failed:$failed}${skipped:+, skipped for want of a GPU:$skipped}$not_measured"
[ -n "$failed" ] && exit 1
[ -n "$skipped" ] && exit 77
[ -n "$not_measured" ] && exit 2
exit 0
