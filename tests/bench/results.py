"""docs/benchmarks.json and the page that is rendered from it."""
import collections
import json
import string

from keys import ATTEMPTS, KEYS, LEAST_ATTEMPTS

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
            "machine": "; ".join(filter(None, [context.machine, figure.device])), "commit": context.commit, "date": context.date}


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


def hardware(entry):
    """The machine without what programs were compiled with, and without a GPU."""
    return entry["machine"].split("; ")[0]


def machine_marks(entries):
    """(the machine of most rows, letters of the others by machine, in the order of the rows)."""
    counts = collections.Counter(map(hardware, entries))
    if not counts:
        return "", {}
    most = counts.most_common(1)[0][0]
    return most, dict(zip([machine for machine in counts if machine != most], string.ascii_lowercase))


def machine_legend(most, marks):
    if not marks:
        return []
    others = "; ".join(f"({letter}) {machine}" for machine, letter in marks.items())
    return ["", f"Measured on {most}, but where a letter follows the value: {others}."]


def short_of_bars(rows):
    """What was tried for the rows that fail."""
    failing = [key for key in KEYS if key in rows and KEYS[key].passes(rows[key]["value"]) is False]
    if not failing:
        return []
    lines = ["", "## Short of their bars", "",
             f"A figure that stays short is reported as it is after {LEAST_ATTEMPTS} attempts, each different and measured; one with "
             "fewer is still being worked on. These are the attempts, with what was measured at the time: often a kernel by "
             "itself, and not the row's ratio.", ""]
    for key in failing:
        made = ATTEMPTS.get(key, [])
        state = "" if len(made) >= LEAST_ATTEMPTS else f", {len(made)} of {LEAST_ATTEMPTS} attempts so far"
        lines.append(f"* `{key}`: {number(rows[key]['value'])}, bar {KEYS[key].bar()}{state}")
        lines += [f"  {at}. {one.done} (commit {one.commit}): {one.brought} ({one.measured})" for at, one in enumerate(made, 1)]
    return lines


def not_measured(rows):
    """What would measure the keys that have no figure."""
    keys = [key for key in KEYS if key not in rows]
    if not keys:
        return []
    lines = ["", "## Not yet measured", "", "Each of these is measured by `./run bench KEY`."]
    if any(key.startswith("gpu.") for key in keys):
        nothing = not any(key.startswith("gpu.") for key in rows)
        lines[-1] += (
            f" Those of `gpu.` need a GPU{': **nothing has been measured on one yet**' if nothing else ''}. Where there is a GPU with "
            "its driver and nothing else, `FOLDER/run.sh` of what `scripts/bundle_gpu.sh FOLDER` makes measures the same, and `./run "
            "bench --import FOLDER/results` makes rows of what it printed. Only `gpu.prefill.` wants more: a libcublas, which it "
            "looks for in the Python package `nvidia-cublas`, in a CUDA toolkit and in `LD_LIBRARY_PATH`; without one it counts "
            "them as not measured.")
    return [*lines, "", *(f"* `./run bench {key}` (bar: {KEYS[key].bar()})" for key in keys)]


def render(rows):
    lines = ["# Benchmarks", "",
             "Measured by `./run bench`, rendered from [benchmarks.json](benchmarks.json); do not edit. `./run bench KEY` "
             "measures one again, `./run bench --table` prints all of it for a terminal. Only what was measured is here.", ""]
    present = [key for key in KEYS if key in rows]
    with_bar = [key for key in present if KEYS[key].kind]
    passed = sum(KEYS[key].passes(rows[key]["value"]) for key in with_bar)
    all_bars = sum(1 for key in KEYS.values() if key.kind)
    lines += [f"{passed} of {all_bars} bars are met, {all_bars - len(with_bar)} not yet measured.", "",
              "| key | value | unit | bar | | beside | ratio | what it is |", "|---|---|---|---|---|---|---|---|"]
    most, marks = machine_marks([rows[key] for key in present])
    for key, spec in KEYS.items():
        if key not in rows:
            lines.append(f"| `{key}` | not yet measured | {spec.unit} | {spec.bar()} | | | | {cell(spec.about)} |")
            continue
        entry = rows[key]
        mark = f" ({marks[hardware(entry)]})" if hardware(entry) in marks else ""
        ratio = "" if entry.get("ratio") is None else f"{entry['ratio']:.3g}"
        about = spec.about + (f"; {entry['note']}" if entry.get("note") else "")
        lines.append(f"| `{key}` | {number(entry['value'])}{mark} | {spec.unit} | {spec.bar()} | {verdict(key, entry['value'])} | "
                     f"{cell(entry.get('peer'))} | {ratio} | {cell(about)} |")
    lines += machine_legend(most, marks)
    lines += short_of_bars(rows)
    lines += not_measured(rows)
    lines += ["", "## Commands", "",
              "In them `$MODELS` is `~/.cache/qamserve/models` (`scripts/fetch_model.py` gets them), `$WORK` is "
              "`~/.cache/qamserve/bench` (artifacts, texts made from WikiText-2, the peer's files), `$PEER` is the folder that "
              "`scripts/build_peer.sh` prints, `$PEER_AVX2` the one that it prints with `--isa avx2`, and `$QAMSERVE_WIKITEXT2` holds WikiText-2. The "
              "calibration text `$WORK/valid.txt` is `valid.tokens` without ` <unk>`. `$WORK/peers` is made by "
              "`tests/bench/measure_peers.py`: a virtual environment of `tests/bench/peers/requirements.txt`, the "
              "checkpoint in Hugging Face's form, token ids of the texts. What is in `$WORK` is made once and used again; a row "
              "says how. Servers of a row run one at a time, and all of its commands as often as the row has rounds. Where a row "
              "begins with `scripts/bundle_gpu.sh`, its `run.sh` ran the rest.", ""]
    for key in present:
        entry = rows[key]
        lines += [f"### {key}", "", f"{entry['date']}, commit {entry['commit']}, {entry['machine']}", "", "```sh",
                  *entry["command"].split(" ; "), "```", ""]
    return "\n".join(lines).rstrip() + "\n"
