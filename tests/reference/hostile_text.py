#!/usr/bin/env python3
"""Writes a text that is hard for tokenizers, the same bytes every time.

Usage: hostile_text.py OUT [--valid]
It holds emoji and ZWJ sequences, many scripts, combining marks, every kind of white space and line end, long runs,
digits of many scripts, special tokens of the common models written as text, random mixes of all of these and, unless
--valid, invalid UTF-8: stray and missing continuation bytes, overlong forms, surrogates.
"""
import random
import sys
import unicodedata

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>", "<jupyter_start>", "<empty_output>",
    "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "[multimodal]", "<unused0>", "<unused99>", "<start_of_turn>",
    "<end_of_turn>", "<s>", "</s>", "<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<0x0A>", "<0xE2>",
    "<|im_start", "|im_end|>", "<<|im_end|>>", "<|im_start|><|im_end|>", "[INST]", "[/INST]", "<h1>", "</table>",
]
TEXTS = [
    "Hello, world! It's they're I'VE WE'LL he'd 'S 'tis 'Re",
    "👩‍👩‍👧‍👦 👨🏽‍🚀 🏳️‍🌈 🇩🇪🇫🇷 ☃️ ❤️‍🔥 1️⃣ 😀😃😄",
    "漢字とカタカナとひらがな 한국어 텍스트 中文，標點。「引號」",
    "العربية مع تشكيل: مُحَمَّد עברית עם ניקוד: שָׁלוֹם",
    "हिन्दी में लिखा हुआ ไทยไม่มีช่องว่าง ქართული հայերեն",
    "Ελληνικά Кириллица Ünïcödé naïve coöperate ſtraße ﬁne ŉ ǆ İstanbul",
    "e\u0301 a\u0308\u0323 Z\u0351\u036b\u0343\u036a\u0302 \u1100\u1161\u11a8 \u212b \u2126 \u00c5",
    "1234567890 3.14159 1,000,000 0x1F 12 345 ½ ² Ⅷ ٣٤٥ ४५६ 一二三 𝟙𝟚𝟛",
    "\u180e\u180ea\u180e b\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f",
    "\u00a0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000x\u0085y",
    "tab\tnew\nret\rcrlf\r\nmix\n\r\n\r\rv\x0bf\x0c\x1c\x1d\x1e\x1fnul\x00del\x7f",
    "\u2581\u2581lower\u2581block \u2581 \u2581",
    "if (a && b) { return x[i]->y->z; } /* ... */ #!/bin/sh $HOME \\n \\u0041 'a''b'\"\"",
    "http://example.com/a?b=c&d=%20#frag user@example.com ...!!!???---___===",
    "\ue000\uf8ff\ufffd\ufffe\uffff\U000e0001\U000e0041\U0010ffff\U0001f600",
]
INVALID = [
    b"\x80", b"\xbf\xbf", b"\xc3(", b"\xc3", b"\xe2\x96", b"\xe2\x96 ", b"\xe2(\xa1", b"\xf0\x9f\x98", b"\xf0\x9f", b"\xff\xfe",
    b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xed\xb0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf8\x88\x80\x80\x80",
    b"\xfc", b"a\xccb", b"\xe4\xb8\n\xad", b"<|im_\xffend|>", b"\xc3<|im_end|>", b"\xe2<bos>", b"\xef\xbf", b" \xe2\x80 \x99s",
]


def assigned(rng, n):
    out = []
    while len(out) < n:
        c = chr(rng.randrange(0x20, 0x20000))
        if unicodedata.category(c) not in ("Cn", "Cs", "Co"):
            out.append(c)
    return "".join(out)


def build(valid):
    rng = random.Random(20240229)
    parts = [t.encode() for t in TEXTS]
    parts += [(a + s + b).encode() for s in SPECIAL for a, b in (("", ""), (" ", " "), ("x", "y"), ("\n", "\n"))]
    parts += [b" " * n + b"x" for n in (1, 2, 3, 7, 8, 31, 32, 33, 64, 200)]
    parts += [b"\n" * n + b"x" for n in (1, 2, 3, 30, 31, 32, 33, 100)]
    parts += [b"\t" * 40, b"\r\n" * 50, b" \n" * 40, b"\n " * 40, b" \t" * 20 + b"z", ("\u3000" * 9 + "。").encode()]
    parts += [b"a" * 5000, b"ab" * 3000, b"0" * 3001, b"=" * 2000, "é".encode() * 1500, "漢".encode() * 1500, "👍".encode() * 700]
    # Runs in which overlapping pairs have the same merge rank.
    parts += [("\u2581" * n).encode() for n in (2, 3, 5, 17, 99)] + [("-" * n + "." * n).encode() for n in range(1, 40)]
    parts += [assigned(rng, 60).encode() for _ in range(300)]
    if not valid:
        parts += INVALID
    pool = list(parts)
    for _ in range(1500):
        picks = [rng.choice(pool)[:40] if valid is False else rng.choice(pool).decode()[:20].encode() for _ in range(rng.randrange(2, 6))]
        parts.append(rng.choice([b"", b" ", b"\n", b"  "]).join(picks))
    rng.shuffle(parts)
    return b"\n".join(parts)


def main():
    with open(sys.argv[1], "wb") as f:
        f.write(build("--valid" in sys.argv))


if __name__ == "__main__":
    main()
