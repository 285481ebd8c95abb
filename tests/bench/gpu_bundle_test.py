#!/usr/bin/env python3
"""What a bundle's run.sh does with what its programs say, and the rows that are made of that. The programs are scripts
that print made-up lines, so no GPU is needed."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))
import bench
import gpu_bundle
import results
from context import Context, Unmeasurable
from keys import GPU_PRODUCTS, GPU_QUANTIZE, KEYS

GPU = "NVIDIA H900"
READ = {"kind": "read", "device": GPU, "gb_per_second": 4000.0}
BUILT = "commit 0123456789ab\ncompiler compiler GNU 12.2.0\ncuda_runtime 13.0.88\n"


def products(rows, cols, fraction):
    """Lines of gpu_bench for one shape whose products all reach `fraction` of the read bandwidth."""
    lines = [READ]
    asked = [(codec, rate, tokens) for codec, rate, tokens, _, _ in GPU_PRODUCTS] + [("full", "16.0", 8)]
    for codec, rate, tokens in asked:
        speed = READ["gb_per_second"] * fraction
        kind = {"activation_bits": 8} if codec == "int8" else {"pair_bits": round(2 * float(rate))}
        lines.append({"kind": "product", "codec": codec, "tokens": tokens, "rows": rows, "cols": cols, **kind,
                      "microseconds": rows * cols * float(rate) / 8 / speed / 1e3, "gb_per_second": speed, "read_fraction": fraction})
    return [*lines, {"kind": "trellis_search", "pair_bits": 8, "rings": 9, "weights_per_second": 1e9}]


def layers(with_cublas):
    lines = [READ, {"kind": "cublas", "version": 130200} if with_cublas else
             {"kind": "not_measured", "what": "prompts beside cuBLAS", "why": "there is no libcublas (a.so: no such file)"}]
    # The first rate is another one's: rows are of 11 bits a pair.
    for pair_bits, fraction in ((8, 0.1), (11, 0.75)):
        lines.append({"kind": "chain", "pair_bits": pair_bits, "layers": 4, "microseconds": 200.0, "gb_per_second": 3000.0,
                      "read_fraction": fraction})
        for tokens in (64, 512):
            line = {"kind": "prefill", "pair_bits": pair_bits, "tokens": tokens, "microseconds": 500.0, "gb_per_second": 280.0,
                    "read_fraction": 0.07, "tera_weights_per_second": 220.0, "peak_fraction": 0.45}
            compared = {"cublas_microseconds": 400.0, "cublas_fraction": fraction + 0.001 * tokens / 64}
            lines.append({**line, **(compared if with_cublas else {})})
    return lines


def quantized():
    asked = {(method, rate) for method, rate, _, _ in GPU_QUANTIZE}
    return [{"kind": "quantize", "device": GPU, "method": method, "pair_bits": round(2 * float(rate)), "layer_seconds": 0.2,
             "model_seconds": 6.4, "weights_per_second": 1.5e9} for method, rate in sorted(asked)]


def decoded(codec):
    speed, size = (500.0, 5.1e9) if codec == "joint" else (200.0, 14.5e9)
    return {"device": f"cuda:0 {GPU}", "median_tokens_per_second": speed, "weight_bytes": size, "gb_per_second": speed * size / 1e9,
            "bandwidth_fraction": speed * size / 1e9 / 4000, "read_gb_per_second": 4000.0}


def lines_text(lines):
    """As the benches print them: without spaces, the fields in alphabetical order."""
    return "".join(json.dumps(line, separators=(",", ":"), sort_keys=True) + "\n" for line in lines)


class Bundle(unittest.TestCase):
    """A bundle's folder whose programs are scripts, and a machine whose tools are scripts, too."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.folder, self.tools = self.root / "bundle", self.root / "tools"
        self.tools.mkdir()
        (self.folder / "lib").mkdir(parents=True)
        (self.folder / "built.txt").write_text(BUILT)
        shutil.copy(FOLDER / "gpu_run.sh", self.folder / "run.sh")
        self.tool("nvidia-smi", f'echo "{GPU}, 580.1"')
        self.tool("ldconfig", "true")
        self.tool("python3", "exit 1")
        self.program("cuda_some_test", "echo passed")
        self.prints("gpu_bench", {"*4096 --cols*": lines_text(products(4096, 14336, 0.85)), "*": lines_text(products(28672, 4096, 0.9))})
        self.prints("gpu_layers_bench", {"*": lines_text(layers(True))})
        self.prints("gpu_quantize_bench", {"*": lines_text(quantized())})
        self.program("random_artifact", "true")
        self.prints("decode_bench", {f"*/{codec} *": json.dumps(decoded(codec), indent=2) + "\n" for codec in ("joint", "full")})

    def script(self, path, body):
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def tool(self, name, body):
        self.script(self.tools / name, body)

    def program(self, name, body):
        self.script(self.folder / name, body)

    def prints(self, name, outputs):
        """A program that prints the text of the first pattern that its options match."""
        cases = []
        for at, (pattern, text) in enumerate(outputs.items()):
            (self.root / f"{name}.{at}").write_text(text)
            quoted = "*".join(f'"{part}"' if part else "" for part in pattern.split("*"))
            cases.append(f'{quoted}) cat "{self.root / f"{name}.{at}"}" ;;')
        self.program(name, 'case "$*" in\n' + "\n".join(cases) + "\nesac")

    def run_bundle(self, *options, status=0, **environment):
        where = {"PATH": f"{self.tools}:{os.environ['PATH']}", "TMPDIR": str(self.root), **environment}
        done = subprocess.run([self.folder / "run.sh", *options], capture_output=True, text=True, check=False, env=where)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout.splitlines()[-1]

    def imported(self, *prefixes, status=0):
        """What bench.py says of the import, and the rows that it wrote."""
        docs = self.root / "docs"
        with mock.patch.object(bench, "REPOSITORY", self.root), \
                mock.patch.object(sys, "argv", ["bench.py", "--import", str(self.folder / "results"), *prefixes]), \
                mock.patch("builtins.print") as printed:
            self.assertEqual(bench.main(), status, printed.mock_calls)
        said = "\n".join(str(call.args[0]) for call in printed.mock_calls if call.args)
        return said, results.load(docs / "benchmarks.json")


class Run(Bundle):
    def test_all_passes(self):
        self.assertEqual(self.run_bundle(), "7 passed")
        about = (self.folder / "results/about.txt").read_text()
        self.assertIn(BUILT, about)
        self.assertIn(f"gpu {GPU}, 580.1\n", about)
        self.assertIn("command gpu_bench_down ./gpu_bench --tokens 1 8 16 --rows 4096 --cols 14336\n", about)

    def test_prompts_without_cublas_are_not_measured(self):
        self.prints("gpu_layers_bench", {"*": lines_text(layers(False))})
        self.assertEqual(self.run_bundle(status=2), "7 passed, not measured: prompts beside cuBLAS")

    def test_what_fails_is_named(self):
        self.program("cuda_other_test", "echo wrong; exit 1")
        self.prints("gpu_layers_bench", {"*": lines_text(layers(False))})
        self.program("gpu_quantize_bench", "exit 3")
        self.assertEqual(self.run_bundle(status=1),
                         "6 passed, failed: cuda_other_test gpu_quantize_bench, not measured: prompts beside cuBLAS")

    def test_no_gpu_is_no_failure(self):
        self.program("cuda_some_test", "echo 'no GPU: there is no driver'")
        for name in ("gpu_bench", "gpu_layers_bench", "gpu_quantize_bench"):
            self.program(name, "exit 77")
        said = self.run_bundle(status=77)
        self.assertIn("0 passed, skipped for want of a GPU: cuda_some_test gpu_bench", said)
        self.assertIn("decode_full", said)

    def library_path(self, **environment):
        """What run.sh lets the loader look through, beginning with the folder's own libraries."""
        self.program("gpu_layers_bench", f'echo "$LD_LIBRARY_PATH" >"{self.root}/path"; cat "{self.root}/gpu_layers_bench.0"')
        self.run_bundle(**environment)
        own, *others = (self.root / "path").read_text().strip().split(":")
        self.assertEqual(pathlib.Path(own), self.folder / "lib")
        return [path for path in others if not path.startswith("/usr/local/cuda")]

    def test_cublas_of_a_python_package_is_found(self):
        libraries = self.root / "packages/nvidia/cu13/lib"
        libraries.mkdir(parents=True)
        self.tool("python3", f'echo "{self.root}/nothing"; echo "{self.root}/packages"')
        self.assertEqual(self.library_path(), [])
        (libraries / "libcublas.so.13").touch()
        self.assertEqual(self.library_path(), [str(libraries)])

    def test_the_loaders_own_cublas_is_left_to_it(self):
        self.tool("ldconfig", "echo '	libcublas.so.13 (libc6,x86-64) => /lib/libcublas.so.13'")
        libraries = self.root / "packages/nvidia/cu13/lib"
        libraries.mkdir(parents=True)
        (libraries / "libcublas.so.13").touch()
        self.tool("python3", f'echo "{self.root}/packages"')
        self.assertEqual(self.library_path(LD_LIBRARY_PATH="/elsewhere"), ["/elsewhere"])


class Import(Bundle):
    def test_every_gpu_key_gets_a_row_that_is_signed(self):
        self.run_bundle()
        said, rows = self.imported()
        self.assertEqual(set(rows), {key for key in KEYS if key.startswith("gpu.")})
        row = rows["gpu.joint.5.5.read_fraction"]
        self.assertEqual((row["value"], row["commit"]), (0.85, "0123456789ab"))
        self.assertRegex(row["date"], r"^20\d\d-\d\d-\d\d$")
        self.assertRegex(row["machine"], r"^.+, \d+ cores, \d+ GiB, .*; compiler GNU 12\.2\.0; "
                                         r"NVIDIA H900, driver 580\.1, CUDA runtime 13\.0\.88$")
        self.assertIn("scripts/bundle_gpu.sh FOLDER ; cd FOLDER ; export LD_LIBRARY_PATH=lib ; ./gpu_bench --tokens 1 8 16 ; "
                      "./gpu_bench --tokens 1 8 16 --rows 4096 --cols 14336", row["command"])
        self.assertAlmostEqual(rows["gpu.decode_7b.5.5.ratio_full"]["value"], 2.5)
        self.assertIn("NVIDIA H900, driver 580.1", rows["gpu.decode_7b.5.5.ratio_full"]["machine"])
        self.assertIn("./random_artifact --out $WORK/full --codec full ; ./decode_bench --model $WORK/full --device cuda:0",
                      rows["gpu.decode_7b.5.5.ratio_full"]["command"])
        # The machine is this one, and told as ./run bench tells it.
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(row["machine"].split(";")[0], Context(folder, folder, 1).hardware)
        page = (self.root / "docs/benchmarks.md").read_text()
        self.assertIn("| `gpu.chain.5.5.read_fraction` | 0.75 |", page)
        self.assertNotIn("nothing has been measured", page)
        self.assertIn("gpu.chain.5.5.read_fraction", said)

    def test_rows_are_of_their_rate_and_say_what_is_known(self):
        self.run_bundle()
        _, rows = self.imported("gpu.prefill", "gpu.chain", "gpu.full")
        prompt = rows["gpu.prefill.5.5.from_384.cublas_fraction"]
        self.assertAlmostEqual(prompt["value"], 0.758)
        self.assertEqual(prompt["peer"], "cuBLAS 13.2: 400 us a layer")
        self.assertEqual(prompt["note"], "at 512 tokens, 500 us a layer, 220 T multiply-adds/s, 45 % of the nominal peak of halves; at "
                                         "least 280 GB/s of codes (each once a prompt), 7 % of read bandwidth")
        self.assertEqual(rows["gpu.chain.5.5.read_fraction"]["value"], 0.75)
        self.assertIn("; 8 tokens: 28672 x 4096", rows["gpu.full.16.0.read_fraction"]["note"])

    def test_what_was_not_measured_keeps_its_row(self):
        self.run_bundle()
        _, before = self.imported("gpu.prefill")
        self.prints("gpu_layers_bench", {"*": lines_text(layers(False))})
        self.program("gpu_quantize_bench", "exit 3")
        self.run_bundle(status=1)
        said, rows = self.imported(status=1)
        for key in ("gpu.prefill.5.5.from_384.cublas_fraction", "gpu.prefill.5.5.below_384.cublas_fraction"):
            self.assertEqual(rows[key], before[key])
        self.assertIn("there is no libcublas (a.so: no such file)", said)
        self.assertIn("gpu_quantize_bench ended with status 3", said)
        self.assertIn("gpu.chain.5.5.read_fraction", rows)
        self.assertNotIn("gpu.quantize.joint.5.5.weights_per_second", rows)

    def test_figures_of_untested_kernels_are_refused(self):
        self.run_bundle("some.*")
        with self.assertRaisesRegex(Unmeasurable, "only the tests of some"):
            gpu_bundle.Bundle(self.folder / "results")
        self.program("cuda_other_test", "exit 1")
        self.run_bundle(status=1)
        _, rows = self.imported(status=1)
        self.assertEqual(rows, {})
        with self.assertRaisesRegex(Unmeasurable, "did not pass before these figures: cuda_other_test"):
            gpu_bundle.Bundle(self.folder / "results")

    def test_a_folder_that_is_none(self):
        with self.assertRaisesRegex(Unmeasurable, "no results folder"):
            gpu_bundle.Bundle(self.root)

    def test_a_build_says_what_it_is(self):
        made = self.root / "build/CMakeFiles/3.25.1"
        made.mkdir(parents=True)
        (made / "CMakeCXXCompiler.cmake").write_text('set(CMAKE_CXX_COMPILER_ID "GNU")\nset(CMAKE_CXX_COMPILER_VERSION "12.2.0")\n')
        (made / "CMakeCUDACompiler.cmake").write_text('set(CMAKE_CUDA_COMPILER_TOOLKIT_VERSION "13.0.88")\n')
        text = gpu_bundle.built(Context(self.root / "build", self.root, 1))
        self.assertRegex(text, r"^commit \S+\ncompiler compiler GNU 12\.2\.0\ncuda_runtime 13\.0\.88\n$")


if __name__ == "__main__":
    unittest.main()
