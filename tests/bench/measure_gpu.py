"""Speed on a GPU: products, layers, whole models, quantizing. Not yet measured; needs a GPU that CUDA's driver finds.

What a bench prints becomes figures in the functions that end in _figures, whether it was run here or by a bundle
(gpu_bundle.py). Each takes what was printed, the commands as they are shown, and the GPU as Context.gpu tells it.
"""
import json
import shutil

from context import Unmeasurable
from figure import Figure
from keys import GPU_DECODE, GPU_LEAST_BYTES, GPU_PREFILL, GPU_PRODUCTS, GPU_QUANTIZE, GPU_SHAPES

DECODE_TOKENS = 128
REPETITIONS = 5
CHAIN_PAIR_BITS = 11


def lines_of(context, command):
    return [json.loads(line) for line in context.run(command).splitlines()]


def line_of(lines, kind, **fields):
    """The first line of a kind with these fields; Unmeasurable if there is none."""
    for line in lines:
        if line["kind"] == kind and all(line.get(name) == value for name, value in fields.items()):
            return line
    raise Unmeasurable(f"the bench printed no line of kind {kind} with {fields}")


def gpu_name(lines):
    """The GPU that a bench ran on, as it named it."""
    return line_of(lines, "read")["device"]


# --- products ---


def products(context):
    """Matrices of every shape, each of them beside what the reading kernel reached in the same run."""
    commands = [[context.program("tests/bench/gpu_bench"), "--tokens", 1, 8, 16, "--rows", rows, "--cols", cols]
                for rows, cols in GPU_SHAPES]
    runs = [lines_of(context, command) for command in commands]
    return product_figures(runs, " ; ".join(context.show(command) for command in commands), context.gpu(gpu_name(runs[0])))


def product_figures(runs, shown, device):
    """Of the lines that gpu_bench printed for each shape: the worst of those whose codes have GPU_LEAST_BYTES."""
    reads = [line_of(lines, "read")["gb_per_second"] for lines in runs]
    out = {"gpu.read.gb_per_second": Figure(reads[0], shown, device=device)}
    for codec, rate, tokens, _, _ in GPU_PRODUCTS:
        large = [(product, read) for lines, read in zip(runs, reads)
                 if code_bytes(product := product_of(lines, codec, rate, tokens)) >= GPU_LEAST_BYTES]
        if not large:
            raise Unmeasurable(f"gpu_bench had no product of {codec} at {rate} bits that is large enough")
        worst, read = min(large, key=lambda pair: pair[0]["read_fraction"])
        told = ", ".join(told_product(product) for product, _ in large)
        if codec == "full":
            told += "; 8 tokens: " + ", ".join(told_product(product_of(lines, codec, rate, 8)) for lines in runs)
        out[product_key(codec, rate, tokens)] = Figure(
            worst["read_fraction"], shown, peer=f"reading kernel: {read:.0f} GB/s", ratio=worst["read_fraction"], note=told,
            device=device)
    search = line_of(runs[0], "trellis_search", pair_bits=8)
    out["gpu.trellis_search.4.0.weights_per_second"] = Figure(search["weights_per_second"], shown, device=device)
    return out


def told_product(product):
    return (f"{product['rows']} x {product['cols']} {product['microseconds']:.1f} us, {product['gb_per_second']:.0f} GB/s, "
            f"{100 * product['read_fraction']:.0f} % of read bandwidth")


def product_of(lines, codec, rate, tokens):
    for line in lines:
        if (line["kind"] == "product" and line["codec"] == codec and line["tokens"] == tokens and
                line.get("pair_bits", 16) == 2 * float(rate) and line.get("activation_bits", 8) == 8):
            return line
    raise Unmeasurable(f"gpu_bench printed no product of {codec} at {rate} bits for {tokens} tokens")


def code_bytes(product):
    return product["gb_per_second"] * 1e9 * product["microseconds"] * 1e-6


def product_key(codec, rate, tokens):
    return f"gpu.{codec}.{rate}.{'' if tokens == 1 else f'batch{tokens}.'}read_fraction"


# --- layers ---


def chain(context):
    command = [context.program("tests/bench/gpu_layers_bench"), "--pair-bits", CHAIN_PAIR_BITS, "--prompts", 64]
    lines = lines_of(context, command)
    return chain_figures(lines, context.show(command), context.gpu(gpu_name(lines)))


def chain_figures(lines, shown, device):
    read, line = line_of(lines, "read"), line_of(lines, "chain", pair_bits=CHAIN_PAIR_BITS)
    return {"gpu.chain.5.5.read_fraction": Figure(
        line["read_fraction"], shown, peer=f"reading kernel: {read['gb_per_second']:.0f} GB/s",
        ratio=line["read_fraction"], device=device,
        note=f"{line['microseconds'] / line['layers']:.1f} us a layer, {line['gb_per_second']:.0f} GB/s, "
             f"{100 * line['read_fraction']:.0f} % of read bandwidth")}


def prefill(context):
    command = [context.program("tests/bench/gpu_layers_bench"), "--pair-bits", CHAIN_PAIR_BITS]
    lines = lines_of(context, command)
    return prefill_figures(lines, context.show(command), context.gpu(gpu_name(lines)))


def prefill_figures(lines, shown, device):
    missing = [line for line in lines if line["kind"] == "not_measured"]
    if missing:
        raise Unmeasurable(missing[0]["why"])
    version = line_of(lines, "cublas")["version"]
    peer = f"cuBLAS {version // 10000}.{version // 100 % 100}" if version else "cuBLAS"
    prompts = [line for line in lines if line["kind"] == "prefill" and line["pair_bits"] == CHAIN_PAIR_BITS]
    out = {}
    for name, (least, most, _, _) in GPU_PREFILL.items():
        of_range = [line for line in prompts if least <= line["tokens"] < most]
        if not of_range:
            raise Unmeasurable(f"gpu_layers_bench had no prompt of {least} tokens or more, less than {most}")
        worst = min(of_range, key=lambda line: line["cublas_fraction"])
        out[f"gpu.prefill.5.5.{name}"] = Figure(
            worst["cublas_fraction"], shown, peer=f"{peer}: {worst['cublas_microseconds']:.0f} us a layer",
            ratio=worst["cublas_fraction"], device=device, note=told_prompt(worst))
    return out


def told_prompt(line):
    peak = f", {100 * line['peak_fraction']:.0f} % of the nominal peak of halves" if "peak_fraction" in line else ""
    return (f"at {line['tokens']} tokens, {line['microseconds']:.0f} us a layer, {line['tera_weights_per_second']:.0f} T multiply-adds/s"
            f"{peak}; at least {line['gb_per_second']:.0f} GB/s of codes (each once a prompt), {100 * line['read_fraction']:.0f} % of "
            "read bandwidth")


# --- whole models ---


def decode(context):
    """The whole model, and itself with 16-bit floats."""
    folder = context.work / "gpu-decode"
    commands, made, results = {}, {}, {}
    try:
        for codec in ("joint", "full"):
            made[codec] = [context.program("tests/bench/random_artifact"), "--out", folder / codec, "--codec", codec]
            context.run(made[codec])
            commands[codec] = [context.program("tests/bench/decode_bench"), "--model", folder / codec, "--device", "cuda:0",
                               "--tokens", DECODE_TOKENS, "--repetitions", REPETITIONS, "--sample"]
            results[codec] = context.run_json(commands[codec])
            shutil.rmtree(folder / codec)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    shown = " ; ".join(context.show(command) for codec in commands for command in (made[codec], commands[codec]))
    return decode_figures(results["joint"], results["full"], shown, context.gpu(decode_gpu_name(results["joint"])))


def decode_gpu_name(result):
    """decode_bench says "cuda:0 NVIDIA H100"."""
    return result["device"].partition(" ")[2]


def decode_figures(ours, theirs, shown, device):
    """Of what decode_bench printed of the quantized model and of the one with 16 bits."""
    speed, full_speed = ours["median_tokens_per_second"], theirs["median_tokens_per_second"]
    note = (f"{speed:.0f} tokens/s, {ours['weight_bytes'] / 1e9:.1f} GB of weights, {ours['gb_per_second']:.0f} GB/s, "
            f"{100 * ours['bandwidth_fraction']:.0f} % of read bandwidth")
    return {
        "gpu.decode_7b.5.5.tokens_per_second": Figure(speed, shown, note=note, device=device),
        "gpu.decode_7b.5.5.roofline_fraction": Figure(
            ours["bandwidth_fraction"], shown, peer=f"reading kernel: {ours['read_gb_per_second']:.0f} GB/s",
            ratio=ours["bandwidth_fraction"], note=note, device=device),
        "gpu.decode_7b.5.5.ratio_full": Figure(
            speed / full_speed, shown, peer=f"this engine with 16-bit weights: {full_speed:.0f} tokens/s",
            ratio=speed / full_speed, device=device,
            note=f"{note}; with 16 bits {theirs['weight_bytes'] / 1e9:.1f} GB, {theirs['gb_per_second']:.0f} GB/s, "
                 f"{theirs['bandwidth_fraction']:.2f} of its roofline"),
    }


# --- quantizing ---


def quantize(context):
    command = [context.program("tests/bench/gpu_quantize_bench")]
    lines = lines_of(context, command)
    return quantize_figures(lines, context.show(command), context.gpu(line_of(lines, "quantize")["device"]))


def quantize_figures(lines, shown, device):
    out = {}
    for method, rate, _, _ in GPU_QUANTIZE:
        line = line_of(lines, "quantize", method=method, pair_bits=2 * float(rate))
        out[f"gpu.quantize.{method}.{rate}.weights_per_second"] = Figure(
            line["weights_per_second"], shown, device=device,
            note=f"{line['layer_seconds']:.3f} s a layer, {4 * line['weights_per_second'] / 1e9:.1f} GB/s of floats from the host")
    line = line_of(lines, "quantize", method="ldlq", pair_bits=8)
    out["gpu.quantize.ldlq.4.0.seconds_7b"] = Figure(line["model_seconds"], shown, device=device)
    return out


PRODUCT_KEYS = ["gpu.read.gb_per_second", *(product_key(codec, rate, tokens) for codec, rate, tokens, _, _ in GPU_PRODUCTS),
                "gpu.trellis_search.4.0.weights_per_second"]
CHAIN_KEYS = ["gpu.chain.5.5.read_fraction"]
PREFILL_KEYS = [f"gpu.prefill.5.5.{name}" for name in GPU_PREFILL]
DECODE_KEYS = [f"gpu.decode_7b.5.5.{name}" for name in GPU_DECODE]
QUANTIZE_KEYS = [*(f"gpu.quantize.{method}.{rate}.weights_per_second" for method, rate, _, _ in GPU_QUANTIZE),
                 "gpu.quantize.ldlq.4.0.seconds_7b"]


def measurements():
    """(keys it gives, function of a Context)."""
    return [(PRODUCT_KEYS, products), (CHAIN_KEYS, chain), (PREFILL_KEYS, prefill), (DECODE_KEYS, decode),
            (QUANTIZE_KEYS, quantize)]
