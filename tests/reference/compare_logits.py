#!/usr/bin/env python3
"""Compares the logits of our forward pass with those of transformers, an implementation that is independent of ours.
Needs: pip install torch transformers, and for .gguf files gguf accelerate. A CPU build is enough.

  compare_logits.py --logits build/tests/core/model/logits_main MODEL...
  compare_logits.py --logits build/tests/core/model/logits_main --tiny build/tests/support/make_tiny_model

MODEL is a Hugging Face directory or a GGUF file. With --tiny, random models of every architecture are written and
compared. For each it prints the largest absolute difference over all positions and the logits' own deviation; the exit
status is 1 if a difference passes --limit times the deviation.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM

TINY = [("llama", ""), ("llama", "rope-linear"), ("llama", "rope-llama3"), ("mistral", ""), ("qwen2", ""), ("qwen3", ""),
        ("gemma3", ""), ("gemma3", "rope-linear")]


def theirs(path, tokens):
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    if path.suffix == ".gguf":
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **options)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, **options)
    with torch.no_grad():
        return model.eval()(torch.tensor([tokens])).logits[0].float().numpy()


def ours(program, path, tokens, folder):
    out = pathlib.Path(folder) / "logits.bin"
    subprocess.run([program, path, out, *map(str, tokens)], check=True)
    return np.fromfile(out, dtype="<f4").reshape(len(tokens), -1)


def compare(args, name, path, folder):
    vocab = args.vocab
    tokens = [int(t) for t in np.random.default_rng(1).integers(3, vocab, args.tokens)]
    a, b = theirs(path, tokens), ours(args.logits, path, tokens, folder)
    if a.shape != b.shape:
        print(f"{name}: shapes differ: {a.shape}, {b.shape}")
        return False
    difference, deviation = float(np.abs(a - b).max()), float(a.std())
    agreement = float((a.argmax(axis=1) == b.argmax(axis=1)).mean())
    print(f"{name}: max difference {difference:.3g}, deviation of the logits {deviation:.3g}, same best token "
          f"{100 * agreement:.1f} %")
    return difference <= args.limit * deviation


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", required=True, help="our program of tests/reference/logits_main.cc")
    parser.add_argument("--tiny", help="the program make_tiny_model")
    parser.add_argument("--tokens", type=int, default=96, help="random tokens to feed")
    parser.add_argument("--vocab", type=int, default=320, help="random tokens are below this")
    parser.add_argument("--limit", type=float, default=1e-4, help="of the logits' deviation")
    parser.add_argument("models", nargs="*", type=pathlib.Path)
    args = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for path in args.models:
            good = compare(args, str(path), path, folder) and good
        for architecture, variant in TINY if args.tiny else []:
            path = pathlib.Path(folder) / f"{architecture}-{variant or 'plain'}"
            subprocess.run([args.tiny, architecture, path, variant], check=True)
            good = compare(args, path.name, path, folder) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
