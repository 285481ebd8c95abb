#!/usr/bin/env python3
"""Checks the benchmark scripts: bars, selection of keys, the page, and that measurements cover every key once."""
import contextlib
import dataclasses
import io
import json
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import bench
import fleet_simulation
import measure
import measure_gpu
import measure_speed
import results
import table
from context import Context, Unmeasurable
from keys import ATTEMPTS, ATTEMPTS_DUE, GPU_PRODUCTS, GPU_SHAPES, KEYS, LEAST_ATTEMPTS, Key, select


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
        self.assertIn("not yet measured", lines["gemma3.joint_scale.5.5.kl"])
        self.assertEqual(set(lines), set(KEYS))
        self.assertIn("```sh\na\nb\n```", page)
        self.assertIn("1 of ", page)

    def test_other_machines_are_marked(self):
        keys = ["smollm2.joint.5.5.kl", "smollm2.joint.4.0.kl", "smollm2.joint.3.5.kl", "smollm2.kv8.kl"]
        rows = {key: row(key, 0.5) for key in keys}
        rows[keys[1]]["machine"] = "another, 8 cores; compiler X 1"
        rows[keys[2]]["machine"] += "; compiler Y 2"  # the same hardware
        page = results.render(rows)
        lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
        self.assertIn("| 0.5 (a) |", lines[keys[1]])
        for key in (keys[0], keys[2], keys[3]):
            self.assertIn("| 0.5 |", lines[key])
        self.assertIn("Measured on a machine, 2 cores, but where a letter follows the value: (a) another, 8 cores.", page)

    def test_a_row_says_which_gpu(self):
        told = row("gpu.read.gb_per_second", 1000, device="GPU 7, driver 1.2, CUDA runtime 3.4")
        self.assertEqual(told["machine"], "a machine, 2 cores; GPU 7, driver 1.2, CUDA runtime 3.4")

    def test_attempts_stand_below_the_table(self):
        key = next(iter(ATTEMPTS))
        page = results.render({key: row(key, 0.01)})
        self.assertIn(f"* `{key}`: 0.01", page)
        for at, attempt in enumerate(ATTEMPTS[key], 1):
            self.assertIn(f"  {at}. {attempt.done} (commit {attempt.commit}): {attempt.brought}", page)
        self.assertNotIn("Short of their bars", results.render({key: row(key, 1e9)}))


    def test_the_page_says_what_a_bundle_does_not_measure_by_itself(self):
        page = results.render({})
        self.assertIn("**nothing has been measured on one yet**", page)
        self.assertIn("Only `gpu.prefill.` wants more: a libcublas", page)
        self.assertNotIn("nothing has been measured", results.render({"gpu.read.gb_per_second": row("gpu.read.gb_per_second", 1)}))


class Table(unittest.TestCase):
    """What ./run bench --table prints."""

    @staticmethod
    def lines(rows):
        return {line.split()[0]: line for line in table.render(rows, KEYS).splitlines()}

    def test_every_key_has_a_line_with_its_bar_and_verdict(self):
        lines = self.lines({"smollm2.quantize.seconds": row("smollm2.quantize.seconds", 61, peer="a peer: 5 s", ratio=12.2),
                            "smollm2.joint.5.5.kl": row("smollm2.joint.5.5.kl", 0.04)})
        self.assertLessEqual(set(KEYS), set(lines))
        self.assertEqual(len(lines), len(KEYS) + 2)
        self.assertRegex(lines["smollm2.quantize.seconds"], r"^\S+ +61 s +a peer: 5 s +12\.2 +<= 60 +FAIL$")
        self.assertRegex(lines["smollm2.joint.5.5.kl"], r"^\S+ +0\.04 nats/token +within 10 % of 0\.0396 +pass$")
        self.assertRegex(lines["gemma3.joint_scale.5.5.kl"], r"^\S+ +not measured +<= 0\.0125$")

    def test_rates_come_from_the_notes(self):
        told = {
            "smollm2.decode.ratio_q5_0.avx2": ("73 tokens/s, 7.5 GB/s of weights, 42 % of read bandwidth (of 102 MB of weights, cache "
                                               "32 MiB); ratios 0.597 to 0.885", "7.5  42"),
            "smollm2.prefill512.ratio_q5_0": ("9 tokens/s, at least 0.14 GB/s of weights (each once a prompt), 0.9 % of read bandwidth",
                                              "0.14  0.9"),
            "gpu.joint.5.5.read_fraction": ("28672 x 4096 9 us, 3600 GB/s, 90 % of read bandwidth", "3600  90"),
            "gpu.prefill.5.5.from_384.cublas_fraction": ("45 % of the nominal peak of halves; at least 280 GB/s of codes (each once a "
                                                         "prompt), 7 % of read bandwidth", "280  45, 7"),
            "kernels.prefill512.ratio_openblas": ("60 G multiply-adds/s, 31 % of the measured float FMA peak, OpenBLAS 79 %", "31"),
            "gpu.read.gb_per_second": ("", "4000"),
            "smollm2.decode.bandwidth_fraction": ("", "40"),
            "smollm2.kv8.kl": ("top-1 agreement 99.10 %", ""),
        }
        values = {"gpu.read.gb_per_second": 4000, "gpu.joint.5.5.read_fraction": 0.9, "smollm2.decode.bandwidth_fraction": 0.4}
        rows = {key: row(key, values.get(key, 2), note=note) for key, (note, _) in told.items()}
        lines = self.lines(rows)
        at = lines["key"].index("GB/s")
        for key, (_, expected) in told.items():
            self.assertEqual(lines[key][at:].split(), expected.split(), key)

    def test_long_peers_keep_their_name_and_figure(self):
        self.assertEqual(table.short_peer("llama-bench Q5_0, built for AVX2: 83.6 tokens/s; llama-cpp-python 0.3.36"),
                         "llama-bench Q5_0, built for AVX2: 83.6 tokens/s")
        self.assertEqual(table.short_peer("AutoRound (a 1, b 2; nsamples 128): 0.1 nats/token"), "AutoRound: 0.1 nats/token")
        long = table.short_peer(f"OpenBLAS {'x' * 200}; kernel Zen: 190 G multiply-adds/s")
        self.assertEqual(len(long), table.PEER_WIDTH)
        self.assertTrue(long.startswith("OpenBLAS xxx") and long.endswith("Zen: 190 G multiply-adds/s"), long)


class Conclusion(unittest.TestCase):
    """./run bench ends with a table of what it measured."""

    def run_bench(self, measurements):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as out:
            docs = pathlib.Path(folder)
            results.save(docs / "a.json", {"smollm2.kv8.kl": row("smollm2.kv8.kl", 0.5)})
            measured, problems = bench.measure_all(FakeContext(), measurements, list(KEYS), docs / "a.json", docs / "a.md")
            status = bench.conclude(measured, problems, docs / "a.json")
            self.assertEqual((docs / "a.md").read_text(), results.render(results.load(docs / "a.json")))
        return status, out.getvalue()

    def test_only_what_was_measured_now_is_in_it(self):
        key = "smollm2.quantize.seconds"
        status, said = self.run_bench([([key], lambda context: {key: measure.Figure(59, "a", peer="b: 1 s", ratio=59)})])
        self.assertEqual(status, 0)
        tail = said[said.index("key "):]
        self.assertRegex(tail, rf"{key} +59 s +b: 1 s +59 +<= 60 +pass\n")
        self.assertNotIn("smollm2.kv8.kl", tail)

    def test_what_was_missed_or_not_measured_is_named(self):
        def nothing(context):
            raise Unmeasurable("there is no such thing")

        key = "smollm2.quantize.seconds"
        status, said = self.run_bench([([key], lambda context: {key: measure.Figure(61, "a")}), (["study.spearman"], nothing)])
        self.assertEqual(status, 1)
        self.assertIn("FAIL", said)
        self.assertIn(f"bar missed: {key}\n", said)
        self.assertIn("not measured: study.spearman: there is no such thing\n", said)


class Notes(unittest.TestCase):
    """What a row says of the machine's limits."""

    def test_weights_that_the_cache_holds_much_of_are_told(self):
        result = {"gb_per_second": 17.3, "bandwidth_fraction": 0.9, "bytes_per_token": 82e6, "last_level_cache_bytes": 32 << 20}
        self.assertEqual(measure_speed.bandwidth_note([result]),
                         ", 17.3 GB/s of weights, 90 % of read bandwidth (of 82 MB of weights, cache 32 MiB)")
        large = {**result, "bytes_per_token": 4 * (32 << 20)}
        self.assertEqual(measure_speed.bandwidth_note([large]), ", 17.3 GB/s of weights, 90 % of read bandwidth")

    def test_products_of_floats_stand_beside_their_peak(self):
        rates = {"multiply_adds_per_second": [60e9, 62e9, 58e9], "seconds": [1.0, 1.0, 1.0]}
        theirs = {"multiply_adds_per_second": [120e9, 120e9, 120e9], "seconds": [0.5, 0.5, 0.5]}
        figure = measure_speed.openblas_figures(
            {"kernel": "avx512", "blas": "OpenBLAS 1", "ours": rates, "openblas": theirs, "one_token_seconds": [0.1, 0.1, 0.1],
             "float_peak": 150e9, "largest_difference": 1e-5}, "a ; b")["kernels.prefill512.ratio_openblas"]
        self.assertAlmostEqual(figure.value, 0.5)
        self.assertIn("40 % of the measured float FMA peak, OpenBLAS 80 %", figure.note)


class CommittedPage(unittest.TestCase):
    """docs/benchmarks.json and docs/benchmarks.md as they are."""
    DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"

    def setUp(self):
        self.rows = results.load(self.DOCS / "benchmarks.json")
        self.page = (self.DOCS / "benchmarks.md").read_text()

    def test_page_is_what_is_rendered(self):
        self.assertEqual(self.page, results.render(self.rows), "run ./run bench --render")

    def test_every_key_is_measured_or_said_not_to_be(self):
        self.assertLessEqual(set(self.rows), set(KEYS))
        for key in KEYS:
            self.assertNotEqual(key in self.rows, f"| `{key}` | not yet measured |" in self.page, key)

    def test_what_fails_has_been_tried(self):
        failing = [key for key, entry in self.rows.items() if KEYS[key].passes(entry["value"]) is False]
        short = [key for key in failing if len(ATTEMPTS.get(key, [])) < LEAST_ATTEMPTS]
        # A figure that is still being worked on is named; none is named for longer than that.
        self.assertEqual(short, ATTEMPTS_DUE)

    def test_attempts_are_different_and_told_whole(self):
        for key, made in ATTEMPTS.items():
            self.assertIn(key, KEYS)
            self.assertEqual(len({attempt.done for attempt in made}), len(made), key)
            for attempt in made:
                self.assertTrue(all(dataclasses.astuple(attempt)), key)


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
        self.assertRegex(machine, r"^.+, \d+ cores, \d+ GiB.*; compiler unknown$")

    def test_the_compiler_is_that_of_the_build(self):
        with tempfile.TemporaryDirectory() as folder:
            made = pathlib.Path(folder) / "CMakeFiles/3.25.1"
            made.mkdir(parents=True)
            (made / "CMakeCXXCompiler.cmake").write_text('set(CMAKE_CXX_COMPILER "/usr/bin/c++")\nset(CMAKE_CXX_COMPILER_ID "GNU")\n'
                                                         'set(CMAKE_CXX_COMPILER_VERSION "12.2.0")\n')
            (made / "CMakeCUDACompiler.cmake").write_text('set(CMAKE_CUDA_COMPILER_TOOLKIT_VERSION "13.0.88")\n')
            context = Context(folder, folder, 1)
            self.assertTrue(context.machine.endswith("; compiler GNU 12.2.0"))
            self.assertRegex(context.gpu("No such GPU"), r"^No such GPU, driver unknown, CUDA runtime 13\.0\.88$")

    def test_the_peer_is_told_with_its_version_and_how_its_file_was_made(self):
        with tempfile.TemporaryDirectory() as folder:
            context = Context(pathlib.Path(folder) / "build", pathlib.Path(folder) / "cache", 2)
            context.peer = pathlib.Path(folder) / "llama.cpp/build/bin"
            context.model = lambda name: context.cache / "models" / f"{name}.gguf"
            self.assertEqual(context.of_peer("llama-bench"), "llama-bench; llama-cpp-python of unknown version")
            del context.peer_version
            (pathlib.Path(folder) / "llama.cpp/download").mkdir(parents=True)
            (pathlib.Path(folder) / "llama.cpp/download/llama_cpp_python-0.3.36.tar.gz").touch()
            self.assertEqual(context.of_peer("llama-bench"), "llama-bench; llama-cpp-python 0.3.36")
            self.assertEqual(
                context.show_peer_model("Q5_0").split(" ; "),
                ["$PEER/llama-quantize --allow-requantize $MODELS/smollm2.gguf $WORK/smollm2-F16.gguf F16",
                 "$PEER/llama-quantize --allow-requantize $WORK/smollm2-F16.gguf $WORK/smollm2-Q5_0.gguf Q5_0"])


class GpuProducts(unittest.TestCase):
    @staticmethod
    def run_of(read, rows, cols, fraction):
        """Lines of gpu_bench for one shape whose products all reach `fraction` of `read`."""
        lines = [{"kind": "read", "device": "GPU", "gb_per_second": read}]
        for codec, rate, tokens in [*(product[:3] for product in GPU_PRODUCTS), ("full", "16.0", 8)]:
            speed = read * fraction
            microseconds = rows * cols * float(rate) / 8 / speed / 1e3
            kind = {"activation_bits": 8} if codec == "int8" else {"pair_bits": round(2 * float(rate))}
            lines.append({"kind": "product", "codec": codec, "tokens": tokens, "rows": rows, "cols": cols, **kind,
                          "microseconds": microseconds, "gb_per_second": speed, "read_fraction": fraction})
        return [*lines, {"kind": "trellis_search", "pair_bits": 8, "weights_per_second": 1e9}]

    def test_the_worst_of_the_large_shapes_counts(self):
        runs = [self.run_of(4000, *GPU_SHAPES[0], 0.9), self.run_of(4100, *GPU_SHAPES[1], 0.7)]
        figures = measure_gpu.product_figures(runs, "a ; b", "GPU, driver 1")
        self.assertEqual(figures["gpu.joint.5.5.read_fraction"].value, 0.7)
        self.assertEqual(figures["gpu.joint.5.5.read_fraction"].peer, "reading kernel: 4100 GB/s")
        self.assertIn("2870 GB/s, 70 % of read bandwidth", figures["gpu.joint.5.5.read_fraction"].note)
        # 29 MB at 4 bits: no bar is for that.
        self.assertEqual(figures["gpu.joint.4.0.read_fraction"].value, 0.9)
        self.assertEqual(figures["gpu.read.gb_per_second"].value, 4000)
        self.assertTrue(all(figure.device == "GPU, driver 1" for figure in figures.values()))

    def test_what_the_bench_did_not_print_is_not_measured(self):
        runs = [self.run_of(4000, *shape, 0.9) for shape in GPU_SHAPES]
        short = [[line for line in lines if line.get("codec") != "int8"] for lines in runs]
        with self.assertRaisesRegex(Unmeasurable, "no product of int8 at 8.0 bits for 1 tokens"):
            measure_gpu.product_figures(short, "a", "GPU")


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
