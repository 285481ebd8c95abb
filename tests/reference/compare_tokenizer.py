#!/usr/bin/env python3
"""Counts token ids that differ between our tokenizer and references, over whole files.

Usage: compare_tokenizer.py [options] TOKENIZE_MAIN LLAMA_TOKENIZE MODEL TEXT...
  --no-special   special tokens written in the text stay text
  --hf           also compare with PyPI tokenizers reading the tokenizer.json that ours wrote (texts that are valid
                 UTF-8 only)
  --json         one JSON object instead of lines
  -              as LLAMA_TOKENIZE: leave that comparison out
A mismatch is an id replaced, inserted or deleted. The last line is the sum; the exit status is 1 if it is not 0.
"""
import argparse
import difflib
import json
import subprocess
import sys
import tempfile


def ours(binary, model, text, special, directory):
    command = [binary, model, text, "--write-tokenizer", directory] + ([] if special else ["--no-special"])
    return [int(x) for x in subprocess.run(command, check=True, capture_output=True).stdout.split()]


def llama(binary, model, text, special):
    # --no-escape: else backslashes of the file would be read as escapes.
    command = [binary, "-m", model, "-f", text, "--ids", "--log-disable", "--no-bos", "--no-escape"]
    command += [] if special else ["--no-parse-special"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def hugging_face(directory, text, special):
    import tokenizers

    with open(text, "rb") as f:
        try:
            content = f.read().decode("utf-8")
        except UnicodeDecodeError:
            return None
    tokenizer = tokenizers.Tokenizer.from_file(directory + "/tokenizer.json")
    tokenizer.encode_special_tokens = not special
    return tokenizer.encode(content, add_special_tokens=False).ids


def count(a, b):
    """Ids replaced, inserted or deleted; walks in step and realigns after a difference, so that it stays fast."""
    total, i, j, window = 0, 0, 0, 400
    while i < len(a) or j < len(b):
        if i < len(a) and j < len(b) and a[i] == b[j]:
            i, j = i + 1, j + 1
            continue
        x, y = a[i:i + window], b[j:j + window]
        matcher = difflib.SequenceMatcher(None, x, y, autojunk=False)
        block = next((m for m in matcher.get_matching_blocks() if m.size >= 4), None)
        da, db = (block.a, block.b) if block else (len(x), len(y))
        if (da, db) == (0, 0):
            da = db = 1
        total += max(da, db)
        i, j = i + da, j + db
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-special", action="store_true")
    parser.add_argument("--hf", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("tokenize_main")
    parser.add_argument("llama_tokenize")
    parser.add_argument("model")
    parser.add_argument("texts", nargs="+")
    args = parser.parse_args()
    special = not args.no_special
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for text in args.texts:
            mine = ours(args.tokenize_main, args.model, text, special, directory)
            references = []
            if args.llama_tokenize != "-":
                references.append(("llama-tokenize", llama(args.llama_tokenize, args.model, text, special)))
            if args.hf:
                references.append(("tokenizers", hugging_face(directory, text, special)))
            for name, ids in references:
                if ids is not None:
                    rows.append({"text": text, "reference": name, "ids": len(ids), "mismatches": count(mine, ids)})
    total = sum(r["mismatches"] for r in rows)
    if args.json:
        print(json.dumps({"mismatches": total, "comparisons": rows}))
    else:
        for r in rows:
            print(f"{r['text']}: {r['mismatches']} of {r['ids']} ids differ from {r['reference']}")
        print(total)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
