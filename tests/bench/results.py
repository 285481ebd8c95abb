"""docs/benchmarks.json and the page that is rendered from it."""
import json

from keys import KEYS

FIELDS = ["key", "value", "unit", "peer", "ratio", "note", "command", "machine", "commit", "date"]


def load(path):
    """Rows by key; a file that is not there has none."""
    if not path.exists():
        return {}
    return {row["key"]: row for row in json.loads(path.read_text())}


def row(key, figure, context):
    # Six digits say more than any of these figures can be repeated to.
    short = lambda number: None if number is None else float(f"{number:.6g}")
    return {"key": key, "value": short(figure.value), "unit": KEYS[key].unit, "peer": figure.peer or None,
            "ratio": short(figure.ratio), "note": figure.note or None, "command": figure.command,
            "machine": context.machine, "commit": context.commit, "date": context.date}


def save(path, rows):
    """Rows in the order of KEYS; rows of keys that are no more are dropped."""
    ordered = [rows[key] for key in KEYS if key in rows]
    write_atomically(path, json.dumps(ordered, indent=2, ensure_ascii=False) + "\n")


def write_atomically(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def number(value):
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.1f} M"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def verdict(key, value):
    return {True: "pass", False: "**FAIL**", None: ""}[KEYS[key].passes(value)]


def cell(text):
    return str(text or "").replace("|", "\\|")


def not_measured(keys):
    """What would measure the keys that have no figure."""
    if not keys:
        return []
    lines = ["", "## Not measured", "",
             "Each of these is measured by `./run bench KEY`. Those of `gpu.` need a GPU: **nothing has been measured on one "
             "yet**. Where there is a GPU with its driver and nothing else, `FOLDER/run.sh` of what `scripts/bundle_gpu.sh "
             "FOLDER` makes measures the same.", ""]
    return lines + [f"* `./run bench {key}` (bar: {KEYS[key].bar()})" for key in keys]


def render(rows):
    lines = ["# Benchmarks", "",
             "Measured by `./run bench`, rendered from [benchmarks.json](benchmarks.json); do not edit. `./run bench KEY` "
             "measures one again. Only what was measured is here.", ""]
    present = [key for key in KEYS if key in rows]
    with_bar = [key for key in present if KEYS[key].kind]
    passed = sum(KEYS[key].passes(rows[key]["value"]) for key in with_bar)
    all_bars = sum(1 for key in KEYS.values() if key.kind)
    lines += [f"{passed} of {all_bars} bars are met, {all_bars - len(with_bar)} not measured.", "",
              "| key | value | unit | bar | | beside | ratio | what it is |", "|---|---|---|---|---|---|---|---|"]
    for key, spec in KEYS.items():
        if key not in rows:
            word = "not yet measured" if key.startswith("gpu.") else "not measured"
            lines.append(f"| `{key}` | {word} | {spec.unit} | {spec.bar()} | | | | {cell(spec.about)} |")
            continue
        entry = rows[key]
        ratio = "" if entry.get("ratio") is None else f"{entry['ratio']:.3g}"
        about = spec.about + (f"; {entry['note']}" if entry.get("note") else "")
        lines.append(f"| `{key}` | {number(entry['value'])} | {spec.unit} | {spec.bar()} | {verdict(key, entry['value'])} | "
                     f"{cell(entry.get('peer'))} | {ratio} | {cell(about)} |")
    lines += not_measured([key for key in KEYS if key not in rows])
    lines += ["", "## Commands", "",
              "In them `$MODELS` is `~/.cache/qamserve/models`, `$WORK` is `~/.cache/qamserve/bench` (artifacts, texts made "
              "from WikiText-2, the peer's files), `$PEER` is the folder that `scripts/build_peer.sh` prints, "
              "`$PEER_AVX2` the one that it prints with `--isa avx2`, and `$QAMSERVE_WIKITEXT2` holds WikiText-2. The "
              "calibration text `$WORK/valid.txt` is `valid.tokens` without ` <unk>`. `$WORK/peers` is made by "
              "`tests/bench/measure_peers.py`: a virtual environment of `tests/bench/peers/requirements.txt`, the "
              "checkpoint in Hugging Face's form, token ids of the texts.", ""]
    for key in present:
        entry = rows[key]
        lines += [f"### {key}", "", f"{entry['date']}, commit {entry['commit']}, {entry['machine']}", "", "```sh",
                  *entry["command"].split(" ; "), "```", ""]
    return "\n".join(lines).rstrip() + "\n"
