"""Rows of docs/benchmarks.json as a table for a terminal."""
import re

import results
from keys import KEYS

COLUMNS = ["key", "ours", "peer", "ratio", "bar", "", "GB/s", "% of peak"]
PEER_WIDTH = 68
# As the measurements word them in a row's note.
RATE = re.compile(r"([\d.]+) GB/s")
PEAK = re.compile(r"([\d.]+) % of (?:read bandwidth|the [a-zA-Z ]*peak)")
# Keys that are a share of read bandwidth themselves.
IS_SHARE = re.compile(r"(?:bandwidth|read|roofline)_fraction$")
MOST_RATES = 2


def short_peer(text):
    """A peer's name and figure without versions and settings; of one that is still long, beginning and end."""
    text = re.sub(r" \([^()]*\)", "", text or "")
    text = text.partition("; llama-cpp-python")[0]
    if len(text) <= PEER_WIDTH:
        return text
    end = PEER_WIDTH // 2
    return f"{text[:PEER_WIDTH - end - 1]}…{text[-end:]}"


def rates(key, row):
    """(GB/s, % of peak) of a row, as texts; "" where it has none."""
    note = row.get("note") or ""
    moved, peak = RATE.findall(note)[:MOST_RATES], PEAK.findall(note)[:MOST_RATES]
    if KEYS[key].unit == "GB/s":
        moved = [results.number(row["value"])]
    if IS_SHARE.search(key):
        peak = [f"{100 * row['value']:.0f}"]
    return ", ".join(moved), ", ".join(peak)


def cells(key, row):
    if row is None:
        return [key, "not measured", "", "", KEYS[key].bar(), "", "", ""]
    ratio = "" if row.get("ratio") is None else f"{row['ratio']:.3g}"
    return [key, f"{results.number(row['value'])} {KEYS[key].unit}", short_peer(row.get("peer")), ratio, KEYS[key].bar(),
            results.verdict(key, row["value"]).strip("*"), *rates(key, row)]


def render(rows, keys):
    """A line for each of `keys`, those without a row as well, below a head."""
    lines = [COLUMNS] + [cells(key, rows.get(key)) for key in keys]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines) + "\n"
