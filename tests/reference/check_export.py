#!/usr/bin/env python3
"""Checks `qamctl artifacts export` with other engines: our logits of the artifact's codes against transformers on the
Hugging Face export and, for the GGUF export, llama-perplexity's figure against ours on the same windows.
Needs: pip install torch transformers (a CPU build is enough); llama.cpp's tools for --peer (scripts/build_peer.sh).

  check_export.py --qamctl build/client/qamctl --logits build/tests/reference/logits_main \\
      --tokenize build/tests/reference/tokenize_main --text $QAMSERVE_WIKITEXT2/wiki.test.raw \\
      [--peer ~/.cache/peers/llama.cpp/build/bin] [--dtype f32] ARTIFACT...

ARTIFACT is a downloaded artifact's folder. Of the first --windows windows of --window tokens of the text it prints, from
transformers and from llama.cpp, the perplexity beside ours and, from transformers, the mean KL divergence of our
distribution from theirs and how often the likeliest token is the same; from llama-tokenize how many ids differ. The
second half of each window is scored, as llama-perplexity does. The exit status is 1 if a perplexity differs by more
than --limit, or ids differ.
"""
import argparse
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np


def run(*command):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {(result.stderr or result.stdout)[-2000:]}")
    return result


def tokens_of(args, model):
    out = run(args.tokenize, model, args.text).stdout
    return [int(line) for line in out.split()]


def windows_of(args, ids, bos):
    """As llama-perplexity cuts them: BOS goes before the text and then in place of each window's first token."""
    ids = ids if bos is None else [bos] + ids
    windows = [ids[i * args.window:(i + 1) * args.window] for i in range(args.windows)]
    if len(windows[-1]) < args.window:
        sys.exit(f"{args.text} has fewer than {args.windows} windows of {args.window} tokens")
    return [([bos] + w[1:]) if bos is not None else w for w in windows]


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def our_log_probabilities(args, model, window, folder):
    out = pathlib.Path(folder) / "logits.bin"
    run(args.logits, model, out, *window)
    return log_softmax(np.fromfile(out, dtype="<f4").reshape(len(window), -1))


def scored(window):
    """Positions whose next token counts: the second half."""
    return np.arange(len(window) // 2, len(window) - 1)


def compare_transformers(args, artifact, export, windows, folder):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32, attn_implementation="eager").eval()
    ours, theirs, divergence, same, n = 0.0, 0.0, 0.0, 0, 0
    for window in windows:
        a = our_log_probabilities(args, artifact, window, folder)
        with torch.no_grad():
            b = log_softmax(model(torch.tensor([window])).logits[0].float().numpy())
        at = scored(window)
        next_token = np.array(window)[at + 1]
        ours -= a[at, next_token].sum()
        theirs -= b[at, next_token].sum()
        divergence += (np.exp(b[at]) * (b[at] - a[at])).sum()
        same += int((a[at].argmax(axis=1) == b[at].argmax(axis=1)).sum())
        n += len(at)
    return {"ours": math.exp(ours / n), "theirs": math.exp(theirs / n), "kl": divergence / n, "same_best": same / n}


def compare_llama(args, export):
    # It ends without waiting for its own log, so the last line of a short run is missing now and then.
    for _ in range(5):
        out = run(args.peer / "llama-perplexity", "-m", export, "-f", args.text, "-c", args.window, "--chunks",
                  args.windows, "-b", args.window, "-t", args.threads, "--no-warmup", "--no-escape")
        found = re.search(r"Final estimate: PPL = ([0-9.]+)", out.stdout + out.stderr)
        if found:
            return float(found.group(1))
    sys.exit("llama-perplexity printed no final estimate")


def ids_of_llama(args, export):
    out = run(args.peer / "llama-tokenize", "-m", export, "-f", args.text, "--ids", "--log-disable", "--no-bos",
              "--no-escape")
    return json.loads(out.stdout)


def check(args, artifact):
    good = True
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        hf, gguf = pathlib.Path(folder) / "hf", pathlib.Path(folder) / "model.gguf"
        for form, out in (("hf", hf), ("gguf", gguf)):
            run(args.qamctl, "artifacts", "export", artifact, "--format", form, "--dtype", args.dtype, "--out", out)
        ids = tokens_of(args, artifact)
        empty = pathlib.Path(folder) / "empty"
        empty.touch()
        bos = run(args.tokenize, artifact, empty, "--add-special").stdout.split()
        windows = windows_of(args, ids, int(bos[0]) if bos else None)
        r = compare_transformers(args, artifact, hf, windows, folder)
        difference = r["theirs"] / r["ours"] - 1
        good = good and abs(difference) <= args.limit
        print(f"{artifact}: perplexity {r['ours']:.5f}, transformers on the export {r['theirs']:.5f} "
              f"({100 * difference:+.4f} %), mean KL {r['kl']:.3g}, same best token {100 * r['same_best']:.2f} %")
        if args.peer:
            theirs = compare_llama(args, gguf)
            difference = theirs / r["ours"] - 1
            good = good and abs(difference) <= args.limit
            other = ids_of_llama(args, gguf)
            differ = sum(a != b for a, b in zip(ids, other)) + abs(len(ids) - len(other))
            good = good and differ == 0
            print(f"{artifact}: llama.cpp on the export {theirs:.5f} ({100 * difference:+.4f} %), {differ} of {len(ids)} "
                  "ids differ")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qamctl", required=True, type=pathlib.Path)
    parser.add_argument("--logits", required=True, help="our program of tests/reference/logits_main.cc")
    parser.add_argument("--tokenize", required=True, help="our program of tests/reference/tokenize_main.cc")
    parser.add_argument("--text", required=True)
    parser.add_argument("--peer", type=pathlib.Path, help="folder of llama-perplexity and llama-tokenize")
    parser.add_argument("--dtype", default="f32", choices=["bf16", "f16", "f32"])
    parser.add_argument("--window", type=int, default=512, help="tokens")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=1e-3, help="of the perplexity, relative")
    parser.add_argument("--work", help="folder for the exports (default: that of temporary files)")
    parser.add_argument("artifacts", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    return 0 if all([check(args, artifact) for artifact in args.artifacts]) else 1


if __name__ == "__main__":
    sys.exit(main())
