#!/usr/bin/env python3
"""A random artifact of every kind decodes and reads prompts. usage: random_artifact_test.py BUILD"""
import json
import pathlib
import subprocess
import sys
import tempfile

SHAPE = ["--layers", 2, "--hidden", 256, "--intermediate", 448, "--heads", 4, "--kv-heads", 2, "--vocab", 640]


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def main():
    programs = pathlib.Path(sys.argv[1]) / "tests/bench"
    weights = {}
    with tempfile.TemporaryDirectory() as folder:
        for codec, pair_bits in (("joint", 11), ("trellis", 8), ("int8", 16), ("full", 16)):
            model = pathlib.Path(folder) / codec
            run(programs / "random_artifact", "--out", model, "--codec", codec, "--pair-bits", pair_bits, *SHAPE)
            for how in (["--tokens", 4, "--batch", 3], ["--prefill", 20]):
                result = json.loads(run(programs / "decode_bench", "--model", model, *how, "--repetitions", 1, "--threads", 1,
                                        "--sample"))
                assert result["median_tokens_per_second"] > 0, result
            weights[codec] = result["bytes_per_token"]
    # Heads of 16 bits and embeddings are the same in all.
    assert weights["trellis"] < weights["joint"] < weights["int8"] < weights["full"], weights


if __name__ == "__main__":
    main()
