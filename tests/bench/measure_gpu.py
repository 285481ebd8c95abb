"""Speed on a GPU: products, layers, whole models, quantizing. Not yet measured; needs a GPU that CUDA's driver finds."""
import json
import shutil

from context import Unmeasurable
from figure import Figure
from keys import GPU_DECODE, GPU_LEAST_BYTES, GPU_PREFILL, GPU_PRODUCTS, GPU_QUANTIZE, GPU_SHAPES

DECODE_TOKENS = 128
REPETITIONS = 5


def lines_of(context, command):
    return [json.loads(line) for line in context.run(command).splitlines()]


def products(context):
    """Matrices of every shape, each of them beside what the reading kernel reached in the same run."""
    commands = [[context.program("tests/bench/gpu_bench"), "--tokens", 1, 16, "--rows", rows, "--cols", cols]
                for rows, cols in GPU_SHAPES]
    runs = [lines_of(context, command) for command in commands]
    device = next(line for line in runs[0] if line["kind"] == "read")["device"]
    return product_figures(runs, " ; ".join(context.show(command) for command in commands), context.gpu(device))


def product_figures(runs, shown, device):
    """Of the lines that gpu_bench printed for each shape: the worst of those whose codes have GPU_LEAST_BYTES."""
    reads = [next(line for line in lines if line["kind"] == "read")["gb_per_second"] for lines in runs]
    out = {"gpu.read.gb_per_second": Figure(reads[0], shown, device=device)}
    for codec, rate, tokens, _, _ in GPU_PRODUCTS:
        large = [(product, read) for lines, read in zip(runs, reads)
                 if code_bytes(product := product_of(lines, codec, rate, tokens)) >= GPU_LEAST_BYTES]
        if not large:
            raise Unmeasurable(f"gpu_bench had no product of {codec} at {rate} bits that is large enough")
        worst, read = min(large, key=lambda pair: pair[0]["read_fraction"])
        told = ", ".join(f"{product['rows']} x {product['cols']} {product['microseconds']:.1f} us, {product['gb_per_second']:.0f} "
                         f"GB/s, {100 * product['read_fraction']:.0f} % of read bandwidth" for product, _ in large)
        out[product_key(codec, rate, tokens)] = Figure(
            worst["read_fraction"], shown, peer=f"reading kernel: {read:.0f} GB/s", ratio=worst["read_fraction"], note=told,
            device=device)
    search = next(line for line in runs[0] if line["kind"] == "trellis_search" and line["pair_bits"] == 8)
    out["gpu.trellis_search.4.0.weights_per_second"] = Figure(search["weights_per_second"], shown, device=device)
    return out


def product_of(lines, codec, rate, tokens):
    return next(line for line in lines if line["kind"] == "product" and line["codec"] == codec and line["tokens"] == tokens and
                line.get("pair_bits", 16) == 2 * float(rate) and line.get("activation_bits", 8) == 8)


def code_bytes(product):
    return product["gb_per_second"] * 1e9 * product["microseconds"] * 1e-6


def product_key(codec, rate, tokens):
    return f"gpu.{codec}.{rate}.{'' if tokens == 1 else f'batch{tokens}.'}read_fraction"


def chain(context):
    command = [context.program("tests/bench/gpu_layers_bench"), "--pair-bits", 11, "--prompts", 64]
    lines = lines_of(context, command)
    read = next(line for line in lines if line["kind"] == "read")
    line = next(line for line in lines if line["kind"] == "chain")
    return {"gpu.chain.5.5.read_fraction": Figure(
        line["read_fraction"], context.show(command), peer=f"reading kernel: {read['gb_per_second']:.0f} GB/s",
        ratio=line["read_fraction"], device=context.gpu(read["device"]),
        note=f"{line['microseconds'] / line['layers']:.1f} us a layer, {line['gb_per_second']:.0f} GB/s, "
             f"{100 * line['read_fraction']:.0f} % of read bandwidth")}


def prefill(context):
    command = [context.program("tests/bench/gpu_layers_bench"), "--pair-bits", 11]
    lines = lines_of(context, command)
    device = next(line for line in lines if line["kind"] == "read")["device"]
    prompts = [line for line in lines if line["kind"] == "prefill"]
    if not all("cublas_fraction" in line for line in prompts):
        raise Unmeasurable("there is no libcublas to compare prompts with")
    out = {}
    for name, (least, most, _, _) in GPU_PREFILL.items():
        worst = min((line for line in prompts if least <= line["tokens"] < most),
                    key=lambda line: line["cublas_fraction"])
        out[f"gpu.prefill.5.5.{name}"] = Figure(
            worst["cublas_fraction"], context.show(command), peer=f"cuBLAS: {worst['cublas_microseconds']:.0f} us a layer",
            ratio=worst["cublas_fraction"], device=context.gpu(device),
            note=f"at {worst['tokens']} tokens, {worst['microseconds']:.0f} us a layer")
    return out


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
    ours, theirs = results["joint"], results["full"]
    speed = {codec: result["median_tokens_per_second"] for codec, result in results.items()}
    shown = " ; ".join(context.show(command) for codec in commands for command in (made[codec], commands[codec]))
    device = context.gpu(ours["device"])
    note = (f"{speed['joint']:.0f} tokens/s, {ours['weight_bytes'] / 1e9:.1f} GB of weights, {ours['gb_per_second']:.0f} GB/s, "
            f"{100 * ours['bandwidth_fraction']:.0f} % of read bandwidth")
    return {
        "gpu.decode_7b.5.5.tokens_per_second": Figure(speed["joint"], shown, note=note, device=device),
        "gpu.decode_7b.5.5.roofline_fraction": Figure(
            ours["bandwidth_fraction"], shown, peer=f"reading kernel: {ours['read_gb_per_second']:.0f} GB/s",
            ratio=ours["bandwidth_fraction"], note=note, device=device),
        "gpu.decode_7b.5.5.ratio_full": Figure(
            speed["joint"] / speed["full"], shown, peer=f"16-bit weights: {speed['full']:.0f} tokens/s",
            ratio=speed["joint"] / speed["full"], device=device,
            note=f"{note}; with 16 bits {theirs['weight_bytes'] / 1e9:.1f} GB, {theirs['bandwidth_fraction']:.2f} of its roofline"),
    }


def quantize(context):
    command = [context.program("tests/bench/gpu_quantize_bench")]
    lines = lines_of(context, command)
    shown = context.show(command)

    def line_of(method, rate):
        return next(line for line in lines if line["method"] == method and line["pair_bits"] == 2 * float(rate))

    out = {}
    for method, rate, _, _ in GPU_QUANTIZE:
        line = line_of(method, rate)
        out[f"gpu.quantize.{method}.{rate}.weights_per_second"] = Figure(
            line["weights_per_second"], shown, note=f"{line['layer_seconds']:.3f} s a layer", device=context.gpu(line["device"]))
    line = line_of("ldlq", "4.0")
    out["gpu.quantize.ldlq.4.0.seconds_7b"] = Figure(line["model_seconds"], shown, device=context.gpu(line["device"]))
    return out


def measurements():
    """(keys it gives, function of a Context)."""
    return [
        (["gpu.read.gb_per_second", *(product_key(codec, rate, tokens) for codec, rate, tokens, _, _ in GPU_PRODUCTS),
          "gpu.trellis_search.4.0.weights_per_second"], products),
        (["gpu.chain.5.5.read_fraction"], chain),
        ([f"gpu.prefill.5.5.{name}" for name in GPU_PREFILL], prefill),
        ([f"gpu.decode_7b.5.5.{name}" for name in GPU_DECODE], decode),
        ([*(f"gpu.quantize.{method}.{rate}.weights_per_second" for method, rate, _, _ in GPU_QUANTIZE),
          "gpu.quantize.ldlq.4.0.seconds_7b"], quantize),
    ]
