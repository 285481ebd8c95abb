#!/usr/bin/env python3
"""The peer's side of the figures peer.*: runs in the virtual environment that measure_peers.py makes, on the CPU only.

  peer_main.py convert GGUF TOKENIZER_DIR OUT
      The checkpoint, dequantized to float32, as a Hugging Face folder with the tokenizer of TOKENIZER_DIR.
  peer_main.py quantize --peer autoround --recipe light --group-size 128 --model DIR --calibration IDS --threads N OUT
      A 4-bit artifact of it in OUT. Timed from reading DIR to the last byte of OUT.
  peer_main.py measure --model DIR --quantized OUT --text FILE --ids IDS --windows 8 --window-tokens 1024 --threads N
      Perplexity of both, mean KL(base || quantized) and stored bits a weight, both models in torch in float32.

IDS is a text file of token ids, one a line. Each prints one JSON object, last.
"""
import argparse
import importlib.metadata
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
import time

import packed4

# Recipes of AutoRound's command line: `auto-round`, `auto-round-light`.
AUTOROUND_RECIPES = {
    "default": {"iters": 200, "seqlen": 2048, "nsamples": 128, "batch_size": 8},
    "light": {"iters": 50, "lr": 5e-3, "seqlen": 2048, "nsamples": 128, "batch_size": 8},
}
GPTQ_SAMPLES = {"seqlen": 1024, "nsamples": 128, "batch_size": 1}
# A layer that is read wrongly is not near the one it was made from: 4 bits leave about 0.1 of its norm, and wrong zero
# points move all weights by a step.
MAX_RELATIVE_ERROR = 0.5
MAX_SHIFT_STEPS = 0.25


def library_variables(cores, path):
    """What the libraries must find in the environment when they are imported. `path`: PATH until now."""
    return {
        # No accelerator, no network, one process's worth of threads.
        "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        # GPTQModel starts a worker for every two cores and needs two: as it is, it does not start on two cores.
        "GPTQMODEL_CPU_WORKERS": str(max(2, (cores + 1) // 2)),
        # What is compiled stays with the virtual environment, whose ninja torch must find to compile.
        "GPTQMODEL_TORCH_EXTENSIONS_DIR": os.path.join(sys.prefix, "extensions"),
        "PATH": os.path.join(sys.prefix, "bin") + os.pathsep + path,
    }


def read_ids(path):
    return [int(line) for line in pathlib.Path(path).read_text().split()]


def cut(ids, windows, window_tokens):
    """Consecutive windows from the beginning."""
    if len(ids) < windows * window_tokens:
        raise ValueError(f"{len(ids)} tokens, {windows} windows of {window_tokens} need {windows * window_tokens}")
    return [ids[i * window_tokens:(i + 1) * window_tokens] for i in range(windows)]


def copy_tokenizer(source, out):
    """Copies the files; the peers want a token to pad with, which whole windows never need."""
    shutil.copy(source / "tokenizer.json", out)
    config = json.loads((source / "tokenizer_config.json").read_text())
    config.setdefault("pad_token", config["eos_token"])
    (out / "tokenizer_config.json").write_text(json.dumps(config))


def convert(arguments):
    import torch
    from transformers import AutoModelForCausalLM

    gguf = pathlib.Path(arguments.gguf)
    read = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    # A model from a GGUF file counts as quantized and is not saved, though its weights are dequantized: they go into a
    # fresh one, where any that is missing or of another shape is an error.
    read.config.__dict__.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(arguments.out)
    copy_tokenizer(pathlib.Path(arguments.tokenizer), pathlib.Path(arguments.out))
    return {"parameters": sum(p.numel() for p in model.parameters())}


def calibration(arguments, settings):
    """(windows, settings): as many as the text has, at most settings' nsamples, of --sample-tokens if that is given."""
    settings = dict(settings, seqlen=arguments.sample_tokens or settings["seqlen"])
    ids = read_ids(arguments.calibration)
    settings["nsamples"] = min(settings["nsamples"], len(ids) // settings["seqlen"])
    if settings["nsamples"] == 0:
        raise ValueError(f"{arguments.calibration} has {len(ids)} tokens, less than a window of {settings['seqlen']}")
    return cut(ids, settings["nsamples"], settings["seqlen"]), settings


def autoround(arguments):
    """AutoRound's W4A16 scheme (symmetric) by one of its recipes, everything else at its defaults."""
    import torch
    from auto_round import AutoRound
    from transformers import AutoTokenizer

    windows, settings = calibration(arguments, AUTOROUND_RECIPES[arguments.recipe])
    dataset = [torch.tensor([window]) for window in windows]
    with tempfile.TemporaryDirectory() as compiled:
        # It compiles a block's forward and backward pass, most of a minute; what an earlier run compiled would be found.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled
        begin = time.perf_counter()
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        rounder = AutoRound(arguments.model, tokenizer, scheme="W4A16", group_size=arguments.group_size, dataset=dataset,
                            device_map="cpu", **settings)
        rounder.quantize_and_save(arguments.out, format="auto_round")
        seconds = time.perf_counter() - begin
    settings = {"recipe": arguments.recipe, **settings}
    return seconds, settings, versions("auto-round", "torch", "transformers")


def gptq(arguments):
    """GPTQModel's defaults (symmetric) on consecutive windows of the calibration text."""
    from gptqmodel import GPTQModel, QuantizeConfig, extension

    windows, settings = calibration(arguments, GPTQ_SAMPLES)
    # Compiled where it is not yet, which belongs to the installation and so not to the time; without it packing is slow.
    extension.load("pack_block_cpu")
    begin = time.perf_counter()
    config = QuantizeConfig(bits=4, group_size=arguments.group_size, device="cpu")
    model = GPTQModel.load(arguments.model, config)
    model.quantize([{"input_ids": window, "attention_mask": [1] * len(window)} for window in windows],
                   batch_size=settings["batch_size"])
    model.save(arguments.out)
    seconds = time.perf_counter() - begin
    return seconds, settings, versions("gptqmodel", "torch", "transformers")


def versions(*packages):
    return {package: importlib.metadata.version(package) for package in packages}


def quantize(arguments):
    import torch

    torch.set_num_threads(arguments.threads)
    shutil.rmtree(arguments.out, ignore_errors=True)
    run = {"autoround": autoround, "gptq": gptq}[arguments.peer]
    seconds, settings, used = run(arguments)
    settings = {"symmetric groups of": arguments.group_size, **settings}
    return {"seconds": seconds, "settings": settings, "versions": used}


def read_quantized(folder):
    """(config, tensors by name) of what a peer wrote."""
    from safetensors.torch import load_file

    # AutoRound makes a folder of its own below the one it is given.
    (config_path,) = [p for p in pathlib.Path(folder).rglob("config.json")]
    config = json.loads(config_path.read_text())["quantization_config"]
    tensors = {}
    for file in sorted(config_path.parent.glob("*.safetensors")):
        tensors.update(load_file(file))
    return config, tensors


def check_format(config):
    """ValueError unless the weights are stored as packed4.py reads them."""
    packing = config.get("packing_format", config.get("checkpoint_format", config.get("format")))
    if config.get("bits") != 4 or packing not in ("auto_round:auto_gptq", "gptq"):
        raise ValueError(f"{config.get('bits')} bits packed as {packing}: not 4 bits in GPTQ's format")


def check_layer(layer, error, shift):
    """`error`: relative to the checkpoint's norm; `shift`: mean of the weights' errors in steps. ValueError if misread."""
    if not (error <= MAX_RELATIVE_ERROR and abs(shift) <= MAX_SHIFT_STEPS):
        raise ValueError(f"{layer} is read wrongly: it differs from the checkpoint by {error:.3f} of its norm, by "
                         f"{shift:.3f} steps in the mean")


def replace_weights(torch, model, config, tensors):
    """Puts the dequantized layers in `model`; (weights, stored bits a weight) over them."""
    check_format(config)
    weights, worst = 0, 0.0
    for layer in packed4.layers_of(tensors):
        parameter = model.get_submodule(layer).weight
        parts = [tensors.get(f"{layer}.{part}") for part in packed4.PARTS]
        read, steps = packed4.dequantize(torch, *parts, config["group_size"])
        if read.shape != parameter.shape:
            raise ValueError(f"{layer} is {tuple(read.shape)}, the checkpoint has {tuple(parameter.shape)}")
        error = float((read - parameter).norm() / parameter.norm())
        check_layer(layer, error, float((read - parameter)[steps != 0].div(steps[steps != 0]).mean()))
        worst = max(worst, error)
        parameter.data.copy_(read)
        weights += read.numel()
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    return weights, packed4.stored_bits(sizes, weights), worst


def measure(arguments):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    ids = read_ids(arguments.ids)
    windows = cut(ids, arguments.windows, arguments.window_tokens)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    own = tokenizer(pathlib.Path(arguments.text).read_bytes().decode(), add_special_tokens=False)["input_ids"]
    different = sum(a != b for a, b in zip(own, ids)) + abs(len(own) - len(ids))
    load = lambda: AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    base, quantized = load(), load()
    weights, bpw, worst = replace_weights(torch, quantized, *read_quantized(arguments.quantized))
    sums = {"base": 0.0, "quantized": 0.0, "kl": 0.0, "same": 0}
    for window in windows:
        tokens = torch.tensor([window])
        # The last position predicts a token that is not in the window.
        p = base(tokens, use_cache=False).logits[0, :-1].double().log_softmax(-1)
        q = quantized(tokens, use_cache=False).logits[0, :-1].double().log_softmax(-1)
        following = tokens[0, 1:, None]
        sums["base"] -= float(p.gather(1, following).sum())
        sums["quantized"] -= float(q.gather(1, following).sum())
        sums["kl"] += float((p.exp() * (p - q)).sum())
        sums["same"] += int((p.argmax(1) == q.argmax(1)).sum())
    scored = len(windows) * (arguments.window_tokens - 1)
    return {"scored_tokens": scored, "base_perplexity": math.exp(sums["base"] / scored),
            "perplexity": math.exp(sums["quantized"] / scored), "kl_mean": sums["kl"] / scored,
            "top1_agreement": sums["same"] / scored, "weights": weights, "bpw": bpw, "worst_relative_error": worst,
            "ids": len(ids), "ids_different": different}


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("convert")
    command.set_defaults(run=convert)
    for name in ("gguf", "tokenizer", "out"):
        command.add_argument(name)
    command = commands.add_parser("quantize")
    command.set_defaults(run=quantize)
    command.add_argument("--peer", required=True, choices=["autoround", "gptq"])
    command.add_argument("--recipe", default="default", choices=AUTOROUND_RECIPES, help="AutoRound's")
    command.add_argument("--sample-tokens", type=int, help="length of calibration windows instead of the peer's own")
    command.add_argument("--group-size", type=int, default=128)
    command.add_argument("--model", required=True)
    command.add_argument("--calibration", required=True)
    command.add_argument("--threads", type=int, default=os.cpu_count())
    command.add_argument("out")
    command = commands.add_parser("measure")
    command.set_defaults(run=measure)
    for name in ("--model", "--quantized", "--text", "--ids"):
        command.add_argument(name, required=True)
    command.add_argument("--windows", type=int, default=8)
    command.add_argument("--window-tokens", type=int, default=1024)
    command.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args(argv)


def main():
    arguments = parse(sys.argv[1:])
    os.environ.update(library_variables(os.cpu_count(), os.environ.get("PATH", os.defpath)))
    # Libraries print to standard output; only the result may.
    result_to = os.dup(1)
    os.dup2(2, 1)
    result = arguments.run(arguments)
    sys.stdout.flush()
    os.write(result_to, (json.dumps(result) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
