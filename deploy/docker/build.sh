#!/usr/bin/env bash
# usage: build.sh OUT [CMAKE_FLAG...]     called by the Dockerfile, where the repository is /src
# Builds qamserve and qamctl and leaves in OUT: bin/ with both, stripped; packages, the Debian packages that own the
# libraries they load, one a line, so that the image installs these and nothing else.
set -euo pipefail
out=${1:?usage: build.sh OUT [CMAKE_FLAG...]}
shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# Empty arguments of the Dockerfile are not to be taken for settings.
for name in PIP_INDEX_URL PIP_CERT; do [ -n "${!name:-}" ] || unset "$name"; done
cmake -S . -B build -G Ninja -DQAMSERVE_BUILD_TESTS=OFF "$@"
# 1.5 GiB for each compiler, as ./run has it.
jobs=${JOBS:-}
if [ -z "$jobs" ]; then
  jobs=$(($(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo) / 1572864))
  [ "$jobs" -ge 1 ] || jobs=1
  [ "$jobs" -le "$(nproc)" ] || jobs=$(nproc)
fi
cmake --build build -j "$jobs" --target qamserve qamctl
mkdir -p "$out/bin"
for program in server/qamserve client/qamctl; do
  strip -o "$out/bin/${program#*/}" "build/$program"
done
# dpkg knows a library by /lib or by /usr/lib, whichever its package said.
folder=$(gcc -print-multiarch)
ldd "$out"/bin/* | awk '$3 ~ /^\// { print $3 }' | sort -u | while read -r library; do
  dpkg-query -S "*/$folder/$(basename "$(realpath "$library")")" | cut -d: -f1
done | sort -u >"$out/packages"
[ -s "$out/packages" ] || { echo "error: no package owns the libraries of qamserve" >&2; exit 1; }
cat "$out/packages"
