#!/usr/bin/env python3
"""Checks the benchmark scripts: bars, selection of keys, the page, and that measurements cover every key once."""
import dataclasses
import json
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import fleet_simulation
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


class Simulation(unittest.TestCase):
    STORES = fleet_simulation.Stores(claim_seconds=0.002, complete_seconds=0.003, renew_seconds=0.001, concurrency=4,
                                     object_bytes_per_second=1e9, worker_bytes_per_second=1e8)
    STAGES = [[fleet_simulation.Task("quantize", 1.0, True)] * 40, [fleet_simulation.Task("evaluate", 2.0, True)] * 4]

    def run_with(self, jobs=1, workers=1, model_bytes=0.0, cached=True, stores=STORES):
        return fleet_simulation.simulate(self.STAGES, jobs, workers, stores, model_bytes, cached)

    def test_one_worker_does_one_thing_after_the_other(self):
        self.assertAlmostEqual(self.run_with()["seconds"], 40 + 8 + 44 * 0.005, places=6)
        # Once more for the checkpoint.
        fetched = self.run_with(model_bytes=1e9, cached=False)["seconds"]
        self.assertAlmostEqual(fetched, 40 + 8 + 44 * 0.005 + 10, places=6)

    def test_workers_share_the_tasks_of_a_stage(self):
        # Ten turns of quantizing and one of measuring.
        seconds = self.run_with(workers=4)["seconds"]
        self.assertGreater(seconds, 12)
        self.assertLess(seconds, 12 + 11 * 0.05)
        # More than there are tasks do not help.
        self.assertGreaterEqual(self.run_with(workers=400)["seconds"], 3)

    def test_the_object_store_gives_what_it_has(self):
        # 40 workers get 1e9 bytes each out of 1e9 bytes a second, and no faster.
        result = self.run_with(workers=40, model_bytes=1e9, cached=False)
        self.assertGreaterEqual(result["seconds"], 40)
        self.assertLess(result["seconds"], 40 + 4)

    def test_completions_of_a_job_exclude_each_other(self):
        stores = dataclasses.replace(self.STORES, complete_seconds=0.5, concurrency=1000)
        self.assertGreaterEqual(self.run_with(workers=40, stores=stores)["seconds"], 1 + 40 * 0.5 + 2 + 4 * 0.5)

    def test_a_small_metadata_store_is_the_limit(self):
        stores = dataclasses.replace(self.STORES, claim_seconds=0.1, complete_seconds=0.1, concurrency=1)
        result = self.run_with(jobs=100, workers=100, stores=stores)
        self.assertEqual(fleet_simulation.limit(result, self.STAGES, 100, 100), "metadata store")
        self.assertGreaterEqual(result["seconds"], 100 * 44 * 0.2)

    def test_tensors_of_a_larger_model(self):
        recorded = {"stages": [{"stage": "quantize", "seconds": [1.0, 2.0]}, {"stage": "assemble", "seconds": [1.0]}]}
        quantize, assemble = fleet_simulation.job_tasks(recorded, "70B")
        grow = fleet_simulation.MODELS["70B"]["parameters"] / fleet_simulation.MODELS["135M"]["parameters"]
        self.assertEqual(len(quantize), 80 * 7)
        self.assertAlmostEqual(sum(task.seconds for task in quantize), 3 * grow)
        self.assertAlmostEqual(assemble[0].seconds, grow)

    @unittest.skipUnless((fleet_simulation.HERE / "data/task_times.json").exists(), "nothing is recorded: see record_costs.py")
    def test_what_is_recorded_gives_the_committed_page(self):
        recorded, stores = fleet_simulation.read()
        rows = fleet_simulation.table(recorded, stores)
        page = fleet_simulation.PAGE.read_text()
        self.assertEqual(page, fleet_simulation.with_section(page, fleet_simulation.section(recorded, stores, rows)))
        for cached, name in fleet_simulation.PLOTS.items():
            self.assertEqual(fleet_simulation.PAGE.with_name(name).read_text(), fleet_simulation.plot(rows, cached))


if __name__ == "__main__":
    unittest.main()
