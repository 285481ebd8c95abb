#!/usr/bin/env python3
"""Figures that the run.sh of a bundle measured (scripts/bundle_gpu.sh, gpu_run.sh), as ./run bench would have them.

usage: gpu_bundle.py BUILD      prints what is to be known of a build; it lies in a bundle as built.txt
"""
import json
import pathlib
import sys
import tempfile

import measure_gpu
from context import Context, Unmeasurable, describe_gpu, describe_hardware

# How a row's command begins: the others are run in the bundle's folder.
MAKE_BUNDLE = ["scripts/bundle_gpu.sh FOLDER", "cd FOLDER", "export LD_LIBRARY_PATH=lib"]


def built(context):
    """The lines of built.txt."""
    return f"commit {context.commit}\ncompiler {context.compiler}\ncuda_runtime {context.cuda_runtime or 'unknown'}\n"


class Bundle:
    """The results folder of a run; signs figures as a Context does."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        about = self.folder / "about.txt"
        if not about.is_file():
            raise Unmeasurable(f"{self.folder} has no about.txt: it is no results folder of a bundle's run.sh")
        self.about, self.commands, self.statuses, self.installed = {}, {}, {}, []
        for line in about.read_text().splitlines():
            name, _, text = line.partition(" ")
            if name in ("command", "status"):
                of, _, text = text.partition(" ")
                (self.commands if name == "command" else self.statuses)[of] = text
            elif name == "gpu":
                self.installed.append(text)
            else:
                self.about[name] = text
        self.check()

    def check(self):
        """A figure of a kernel that is wrong, or that was not tested, is worth nothing."""
        missing = [name for name in ("commit", "compiler", "cuda_runtime", "date", "cpu", "cores", "memory_kib", "flags", "filter")
                   if name not in self.about]
        if missing:
            raise Unmeasurable(f"{self.folder}/about.txt does not say: {', '.join(missing)}")
        if self.about["filter"] != "*":
            raise Unmeasurable(f"only the tests of {self.about['filter']} were run before these figures")
        tests = {name: status for name, status in self.statuses.items() if name.endswith("_test")}
        bad = [name for name, status in tests.items() if status != "0"]
        if bad or not tests:
            raise Unmeasurable(f"tests did not pass before these figures: {', '.join(bad) or 'there were none'}")

    @property
    def machine(self):
        about = self.about
        return describe_hardware(about["cpu"], about["cores"], int(about["memory_kib"]) * 1024,
                                 set(about["flags"].split())) + f"; {about['compiler']}"

    @property
    def commit(self):
        return self.about["commit"]

    @property
    def date(self):
        return self.about["date"]

    def gpu(self, name):
        return describe_gpu(name, self.installed, self.about["cuda_runtime"])

    def shown(self, *names):
        return " ; ".join([*MAKE_BUNDLE, *(self.commands[name] for name in names)])

    def text(self, name, suffix):
        """What a bench printed; Unmeasurable unless it ended well."""
        status = self.statuses.get(name)
        if status != "0":
            raise Unmeasurable(f"{name} was not run" if status is None else f"{name} ended with status {status}")
        return (self.folder / f"{name}{suffix}").read_text()

    def lines(self, name):
        return [json.loads(line) for line in self.text(name, ".jsonl").splitlines()]

    def result(self, name):
        return json.loads(self.text(name, ".json"))


def products(bundle):
    names = ["gpu_bench", "gpu_bench_down"]
    runs = [bundle.lines(name) for name in names]
    return measure_gpu.product_figures(runs, bundle.shown(*names), bundle.gpu(measure_gpu.gpu_name(runs[0])))


def layers(bundle, figures):
    lines = bundle.lines("gpu_layers_bench")
    return figures(lines, bundle.shown("gpu_layers_bench"), bundle.gpu(measure_gpu.gpu_name(lines)))


def decode(bundle):
    names = ["decode_joint", "decode_full"]
    ours, theirs = (bundle.result(name) for name in names)
    return measure_gpu.decode_figures(ours, theirs, bundle.shown(*names), bundle.gpu(measure_gpu.decode_gpu_name(ours)))


def quantize(bundle):
    lines = bundle.lines("gpu_quantize_bench")
    device = measure_gpu.line_of(lines, "quantize")["device"]
    return measure_gpu.quantize_figures(lines, bundle.shown("gpu_quantize_bench"), bundle.gpu(device))


def measurements():
    """(keys it gives, function of a Bundle): those of measure_gpu."""
    return [(measure_gpu.PRODUCT_KEYS, products),
            (measure_gpu.CHAIN_KEYS, lambda bundle: layers(bundle, measure_gpu.chain_figures)),
            (measure_gpu.PREFILL_KEYS, lambda bundle: layers(bundle, measure_gpu.prefill_figures)),
            (measure_gpu.DECODE_KEYS, decode), (measure_gpu.QUANTIZE_KEYS, quantize)]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        print(built(Context(sys.argv[1], cache, 1)), end="")
