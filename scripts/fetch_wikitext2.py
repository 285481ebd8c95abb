#!/usr/bin/env python3
"""Finds WikiText-2 in a folder, or fetches it there; checked by SHA-256 either way.

usage: fetch_wikitext2.py [--check-only] DIR

Afterwards DIR holds wiki.test.raw (evaluation) and valid.tokens (calibration; rare words are "<unk>"). Exit status 1:
it is not there and could not be fetched; nothing half-written stays.
"""
import argparse
import hashlib
import io
import pathlib
import sys
import urllib.request
import zipfile

FILES = {
    "wiki.test.raw": {
        "sha256": "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
        "url": "https://huggingface.co/datasets/ggml-org/ci/resolve/main/wikitext-2-raw-v1.zip",
        "member": "wikitext-2-raw/wiki.test.raw",
    },
    "valid.tokens": {
        "sha256": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        "url": "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/valid.txt",
        "member": None,
    },
}
MAX_DOWNLOAD_BYTES = 64 << 20
TIMEOUT_S = 30


def fetch(source):
    with urllib.request.urlopen(source["url"], timeout=TIMEOUT_S) as answer:
        data = answer.read(MAX_DOWNLOAD_BYTES)
    if source["member"] is None:
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(source["member"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--check-only", action="store_true", help="do not fetch")
    arguments = parser.parse_args()

    for name, source in FILES.items():
        path = arguments.folder / name
        if path.exists():
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found == source["sha256"]:
                continue
            print(f"      {path} has SHA-256 {found}, expected {source['sha256']}", file=sys.stderr)
            if arguments.check_only:
                return 1
        elif arguments.check_only:
            print(f"      {path} is not there", file=sys.stderr)
            return 1
        try:
            data = fetch(source)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            print(f"      {name} could not be fetched from {source['url']}: {error}", file=sys.stderr)
            return 1
        if hashlib.sha256(data).hexdigest() != source["sha256"]:
            print(f"      {source['url']} no longer has the expected {name}", file=sys.stderr)
            return 1
        arguments.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(name + ".partial")
        partial.write_bytes(data)
        partial.replace(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
