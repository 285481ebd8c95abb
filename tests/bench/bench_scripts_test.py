#!/usr/bin/env python3
"""Checks the benchmark scripts: bars, selection of keys, the page, and that measurements cover every key once."""
import json
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import measure
import results
from context import Context
from keys import KEYS, Key, select


class FakeContext:
    machine, commit, date = "a machine, 2 cores", "0123456789ab", "2020-01-02"


def row(key, value, **more):
    return results.row(key, measure.Figure(value, "a ; b", **more), FakeContext())


class Bars(unittest.TestCase):
    def test_each_kind_passes_and_fails(self):
        self.assertTrue(Key("", "", "<=", 1).passes(1))
        self.assertFalse(Key("", "", "<=", 1).passes(1.01))
        self.assertTrue(Key("", "", ">=", 2).passes(2))
        self.assertFalse(Key("", "", ">=", 2).passes(1.99))
        self.assertTrue(Key("", "", "within", 10, 0.1).passes(9.01))
        self.assertFalse(Key("", "", "within", 10, 0.1).passes(8.9))
        self.assertFalse(Key("", "", "within", 10, 0.1).passes(11.1))
        self.assertIsNone(Key("", "").passes(3))

    def test_not_a_number_never_passes(self):
        for kind in ("<=", ">=", "within"):
            self.assertFalse(Key("", "", kind, 1, 0.1).passes(float("nan")))


class Selection(unittest.TestCase):
    def test_prefixes(self):
        self.assertEqual(select(["smollm2.joint.5.5"]), ["smollm2.joint.5.5.kl"])
        self.assertEqual(select([]), list(KEYS))
        with self.assertRaises(ValueError):
            select(["smollm3"])

    def test_measurements_give_every_key_once(self):
        given = [key for keys, _ in measure.measurements() for key in keys]
        self.assertEqual(sorted(given), sorted(KEYS))


class Results(unittest.TestCase):
    def test_only_new_keys_are_replaced(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "benchmarks.json"
            results.save(path, {"smollm2.joint.5.5.kl": row("smollm2.joint.5.5.kl", 0.04)})
            rows = results.load(path)
            rows["smollm2.quantize.seconds"] = row("smollm2.quantize.seconds", 50)
            results.save(path, rows)
            saved = {entry["key"]: entry for entry in json.loads(path.read_text())}
        self.assertEqual(saved["smollm2.joint.5.5.kl"]["value"], 0.04)
        self.assertEqual(saved["smollm2.quantize.seconds"]["value"], 50)
        for entry in saved.values():
            self.assertEqual(set(entry), set(results.FIELDS))

    def test_page_has_bars_verdicts_and_commands(self):
        page = results.render({"smollm2.quantize.seconds": row("smollm2.quantize.seconds", 61),
                               "smollm2.joint.5.5.kl": row("smollm2.joint.5.5.kl", 0.04)})
        lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
        self.assertIn("**FAIL**", lines["smollm2.quantize.seconds"])
        self.assertIn("| pass |", lines["smollm2.joint.5.5.kl"])
        self.assertIn("not measured", lines["gemma3.joint_scale.5.5.kl"])
        self.assertEqual(set(lines), set(KEYS))
        self.assertIn("```sh\na\nb\n```", page)
        self.assertIn("1 of ", page)


class Commands(unittest.TestCase):
    def test_folders_of_this_machine_are_not_shown(self):
        with tempfile.TemporaryDirectory() as folder:
            context = Context(pathlib.Path(folder) / "build", pathlib.Path(folder) / "cache", 2)
            shown = context.show([context.build / "tool", "--model", context.cache / "models" / "m.gguf", "--out",
                                  context.work / "x", "a b"])
        self.assertEqual(shown, "build/tool --model $MODELS/m.gguf --out $WORK/x 'a b'")

    def test_machine_names_no_host(self):
        with tempfile.TemporaryDirectory() as folder:
            machine = Context(folder, folder, 1).machine
        self.assertRegex(machine, r"^.+, \d+ cores, \d+ GiB")


if __name__ == "__main__":
    unittest.main()
