#!/usr/bin/env bash
# Fetches the Jinja engine that chat templates are rendered with: the folder common/jinja of llama.cpp (MIT), with the
# JSON and UTF-8 helpers it includes, out of the source archive of the PyPI package llama-cpp-python; and the chat
# templates of published models that lie there, which a test renders. Nothing of the archive is run.
# Usage: fetch_jinja.sh [DIR]     default DIR: ${XDG_CACHE_HOME:-~/.cache}/qamserve/jinja-0.3.36 ; run again, it does nothing.
# Needs: python3 with pip (for the address of the package index), about 80 MB to download once.
set -euo pipefail
VERSION=0.3.36
SHA256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/qamserve/jinja-$VERSION}
[ -f "$dir/COMPLETE" ] && [ -d "$dir/models/templates" ] && exit 0
echo "fetching the Jinja engine (llama-cpp-python $VERSION) into $dir" >&2
mkdir -p "$(dirname "$dir")"
work=$(mktemp -d "$dir.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 - "$VERSION" "$SHA256" "$work" <<'PYTHON'
import hashlib, html.parser, os, shutil, subprocess, sys, tarfile, urllib.parse, urllib.request

version, sha256, work = sys.argv[1:]
name = f"llama_cpp_python-{version}.tar.gz"


def pip_setting(key, default):
    if os.environ.get("PIP_" + key.upper().replace("-", "_")):
        return os.environ["PIP_" + key.upper().replace("-", "_")]
    for section in ("install", "download", "global"):
        answer = subprocess.run([sys.executable, "-m", "pip", "config", "get", f"{section}.{key}"], capture_output=True, text=True)
        if answer.returncode == 0 and answer.stdout.strip():
            return answer.stdout.strip()
    return default


class Links(html.parser.HTMLParser):
    found = None

    def handle_starttag(self, tag, attributes):
        href = dict(attributes).get("href") or ""
        if tag == "a" and urllib.parse.urlsplit(href).path.endswith("/" + name):
            self.found = href


def find(index):
    page = index.rstrip("/") + "/llama-cpp-python/"
    with urllib.request.urlopen(page, timeout=120) as answer:
        links = Links()
        links.feed(answer.read().decode("utf-8"))
        if links.found is None:
            sys.exit(f"{page} does not list {name}")
        return urllib.parse.urljoin(answer.url, links.found)


certificates = pip_setting("cert", "")
if certificates and not os.environ.get("SSL_CERT_FILE"):
    os.environ["SSL_CERT_FILE"] = certificates
archive = os.path.join(work, name)
with urllib.request.urlopen(find(pip_setting("index-url", "https://pypi.org/simple")), timeout=120) as source, open(archive, "wb") as out:
    shutil.copyfileobj(source, out)
digest = hashlib.sha256()
with open(archive, "rb") as f:
    for block in iter(lambda: f.read(1 << 20), b""):
        digest.update(block)
if digest.hexdigest() != sha256:
    sys.exit(f"{name}: SHA-256 is {digest.hexdigest()}, expected {sha256}")

root = f"llama_cpp_python-{version}/vendor/llama.cpp/"
wanted = ("common/jinja/", "models/templates/", "common/json.", "common/unicode.", "vendor/nlohmann/json", "LICENSE", "licenses/LICENSE-jsonhpp")
with tarfile.open(archive) as tar:
    for member in tar:
        path = member.name[len(root):] if member.name.startswith(root) else ""
        if not member.isfile() or ".." in path or not path.startswith(wanted):
            continue
        target = os.path.join(work, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with tar.extractfile(member) as source, open(target, "wb") as out:
            shutil.copyfileobj(source, out)
os.remove(archive)
for needed in ("common/jinja/runtime.h", "models/templates", "common/json.cpp", "common/unicode.cpp", "vendor/nlohmann/json.hpp", "LICENSE"):
    if not os.path.exists(os.path.join(work, needed)):
        sys.exit(f"{name} lacks {needed}")
PYTHON
touch "$work/COMPLETE"
# A copy from before there were templates in it gets them; what was compiled stays as it is.
if [ -f "$dir/COMPLETE" ] && [ ! -d "$dir/models" ]; then
  mv -T "$work/models" "$dir/models" || [ -d "$dir/models" ]
  exit 0
fi
# Two builds may fetch at once: whoever is first wins, the other's copy is the same.
if ! mv -T "$work" "$dir" 2>/dev/null; then
  [ -f "$dir/COMPLETE" ] || { rm -rf "$dir"; mv -T "$work" "$dir"; }
fi
