"""Speed on a GPU: products, layers, whole models, quantizing. Not yet measured; needs a GPU that CUDA's driver finds."""
import json
import shutil

from context import Unmeasurable
from figure import Figure
from keys import GPU_DECODE, GPU_PREFILL, GPU_PRODUCTS, GPU_QUANTIZE

DECODE_TOKENS = 128
REPETITIONS = 5


def lines_of(context, command):
    return [json.loads(line) for line in context.run(command).splitlines()]


def products(context):
    command = [context.program("tests/bench/gpu_bench"), "--tokens", 1, 16]
    lines = lines_of(context, command)
    shown = context.show(command)
    read = next(line for line in lines if line["kind"] == "read")
    peer = f"reading kernel: {read['gb_per_second']:.0f} GB/s"
    out = {"gpu.read.gb_per_second": Figure(read["gb_per_second"], shown, note=read["device"])}
    for codec, rate, tokens, _, _ in GPU_PRODUCTS:
        product = next(line for line in lines if line["kind"] == "product" and line["codec"] == codec and
                       line["tokens"] == tokens and line.get("pair_bits", 16) == 2 * float(rate) and
                       line.get("activation_bits", 8) == 8)
        out[product_key(codec, rate, tokens)] = Figure(
            product["read_fraction"], shown, peer=peer, ratio=product["read_fraction"],
            note=f"{read['device']}, {product['microseconds']:.1f} us")
    search = next(line for line in lines if line["kind"] == "trellis_search" and line["pair_bits"] == 8)
    out["gpu.trellis_search.4.0.weights_per_second"] = Figure(search["weights_per_second"], shown, note=read["device"])
    return out


def product_key(codec, rate, tokens):
    return f"gpu.{codec}.{rate}.{'' if tokens == 1 else f'batch{tokens}.'}read_fraction"


def chain(context):
    command = [context.program("tests/bench/gpu_layers_bench"), "--pair-bits", 11, "--prompts", 64]
    lines = lines_of(context, command)
    read = next(line for line in lines if line["kind"] == "read")
    line = next(line for line in lines if line["kind"] == "chain")
    return {"gpu.chain.5.5.read_fraction": Figure(
        line["read_fraction"], context.show(command), peer=f"reading kernel: {read['gb_per_second']:.0f} GB/s",
        ratio=line["read_fraction"], note=f"{read['device']}, {line['microseconds'] / line['layers']:.1f} us a layer")}


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
            ratio=worst["cublas_fraction"],
            note=f"{device}, at {worst['tokens']} tokens, {worst['microseconds']:.0f} us a layer")
    return out


def decode(context):
    """The whole model, and itself with 16-bit floats."""
    folder = context.work / "gpu-decode"
    commands, results = {}, {}
    try:
        for codec in ("joint", "full"):
            context.run([context.program("tests/bench/random_artifact"), "--out", folder / codec, "--codec", codec])
            commands[codec] = [context.program("tests/bench/decode_bench"), "--model", folder / codec, "--device", "cuda:0",
                               "--tokens", DECODE_TOKENS, "--repetitions", REPETITIONS, "--sample"]
            results[codec] = context.run_json(commands[codec])
            shutil.rmtree(folder / codec)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ours, theirs = results["joint"], results["full"]
    speed = {codec: result["median_tokens_per_second"] for codec, result in results.items()}
    shown = " ; ".join(context.show(command) for command in commands.values())
    note = f"{ours['device']}, {speed['joint']:.0f} tokens/s, {ours['weight_bytes'] / 1e9:.1f} GB of weights"
    return {
        "gpu.decode_7b.5.5.tokens_per_second": Figure(speed["joint"], shown, note=ours["device"]),
        "gpu.decode_7b.5.5.roofline_fraction": Figure(
            ours["bandwidth_fraction"], shown, peer=f"reading kernel: {ours['read_gb_per_second']:.0f} GB/s",
            ratio=ours["bandwidth_fraction"], note=note),
        "gpu.decode_7b.5.5.ratio_full": Figure(
            speed["joint"] / speed["full"], shown, peer=f"16-bit weights: {speed['full']:.0f} tokens/s",
            ratio=speed["joint"] / speed["full"],
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
            line["weights_per_second"], shown, note=f"{line['device']}, {line['layer_seconds']:.3f} s a layer")
    line = line_of("ldlq", "4.0")
    out["gpu.quantize.ldlq.4.0.seconds_7b"] = Figure(line["model_seconds"], shown, note=line["device"])
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
