"""Measurements beside other quantizers from PyPI at 4 bits: same model, same windows, ours and theirs on this machine.

A peer runs in a virtual environment of pinned versions (peers/requirements.txt) under the cache folder, on the CPU; see
peers/peer_main.py. Its KL is between its own two models in torch, ours between our two in our engine; that both engines
and both tokenizers agree on the unquantized model is checked each time. Only the layers that ours quantizes are taken from
a peer's artifact, read into the float32 model: embeddings, norms and activations are unquantized on both sides.

The checkpoint is a Q4_1 file, so its weights are 16 levels in groups of 32. Asymmetric 4-bit groups of 32 could give them
back unchanged, which would say nothing; both peers run with their default, symmetric groups of 128. Both turn the weights
to bfloat16 while they calibrate, as they do by default.
"""
import dataclasses
import functools
import hashlib
import pathlib
import shutil
import sys
import venv

from context import REPOSITORY, Unmeasurable
from figure import Figure
from keys import PEER_METHODS, PEERS, peer_keys

FOLDER = REPOSITORY / "tests/bench/peers"
WINDOWS = 8
WINDOW_TOKENS = 1024
RATE = "4.0"
# How far torch and our engine may be apart on the unquantized model's perplexity.
MAX_BASE_DIFFERENCE = 1e-3


@dataclasses.dataclass
class Peer:
    quantized: dict  # what peer_main.py printed
    measured: dict
    command: str


def environment(context, requirements=FOLDER / "requirements.txt"):
    """The Python of a virtual environment with these packages; made where a whole one of the same text is not there."""
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = context.work / "peers" / f"venv-{digest}"
    python, complete = folder / "bin/python", folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        context.run([python, "-m", "pip", "install", "--quiet", "--requirement", requirements], quiet=True)
        complete.touch()
    return python


def show_environment(context, requirements):
    """The commands that make an environment, as a reader would type them."""
    python = environment(context, requirements)
    return " ; ".join(context.show(command) for command in (
        [sys.executable, "-m", "venv", python.parents[1]],
        [python, "-m", "pip", "install", "--quiet", "--requirement", requirements]))


def ids(context, name, text):
    """The text's token ids by our tokenizer, one a line."""
    path = context.work / "peers" / f"{name}.ids"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(context.run([context.program("tests/reference/tokenize_main"), context.model("smollm2"), text,
                                 "--no-special"]))
    return path


def checkpoint(context, python):
    """The unquantized model as the peers read it: float32 in Hugging Face's form, with our tokenizer.json."""
    folder = context.work / "peers" / "smollm2"
    if not folder.exists():
        tokenizer, partial = folder.with_name("tokenizer"), folder.with_name("smollm2.partial")
        for path in (tokenizer, partial):
            shutil.rmtree(path, ignore_errors=True)
        empty = folder.with_name("empty.txt")
        empty.touch()
        context.run([context.program("tests/reference/tokenize_main"), context.model("smollm2"), empty,
                     "--write-tokenizer", tokenizer])
        context.run([python, FOLDER / "peer_main.py", "convert", context.model("smollm2"), tokenizer, partial])
        partial.rename(folder)
    return folder


@functools.lru_cache
def run_peer(context, name):
    python = environment(context)
    model = checkpoint(context, python)
    out = context.work / "peers" / name
    quantize = [python, FOLDER / "peer_main.py", "quantize", "--peer", name, *PEERS[name]["options"], "--model", model,
                "--calibration", ids(context, "calibration", context.calibration_text), "--threads", context.threads, out]
    measure = [python, FOLDER / "peer_main.py", "measure", "--model", model, "--quantized", out, "--text",
               context.eval_text, "--ids", ids(context, "evaluation", context.eval_text), "--windows", WINDOWS,
               "--window-tokens", WINDOW_TOKENS, "--threads", context.threads]
    quantized = context.run_json(quantize)
    return Peer(quantized, context.run_json(measure), f"{context.show(quantize)} ; {context.show(measure)}")


def check_comparable(ours, peer):
    """Unmeasurable unless both measured the same thing, and ours is not the larger."""
    theirs = peer.measured
    if theirs["ids_different"]:
        raise Unmeasurable(f"{theirs['ids_different']} of {theirs['ids']} token ids differ between the two tokenizers")
    if theirs["scored_tokens"] != ours["quality"]["scored_tokens"]:
        raise Unmeasurable(f"{theirs['scored_tokens']} positions were scored there, {ours['quality']['scored_tokens']} here")
    if theirs["weights"] != ours["weights"]:
        raise Unmeasurable(f"{theirs['weights']} weights are quantized there, {ours['weights']} here")
    base = ours["quality"]["base_perplexity"]
    if abs(theirs["base_perplexity"] / base - 1) > MAX_BASE_DIFFERENCE:
        raise Unmeasurable(f"the unquantized model's perplexity is {theirs['base_perplexity']:.4f} in torch, {base:.4f} here")
    if ours["bpw"] > theirs["bpw"]:
        raise Unmeasurable(f"our {ours['bpw']:.3f} stored bits a weight are more than the peer's {theirs['bpw']:.3f}")


def describe(name, peer):
    settings = ", ".join(f"{field} {value}" for field, value in peer.quantized["settings"].items())
    used = ", ".join(f"{package} {version}" for package, version in peer.quantized["versions"].items())
    return f"{PEERS[name]['title']} ({used}; {settings})"


def figures(name, method, ours, peer, command):
    """Both ratios of one method of ours beside one peer."""
    check_comparable(ours, peer)
    theirs, seconds = peer.measured, peer.quantized["seconds"]
    who = describe(name, peer)
    both = f"{command} ; {peer.command}"
    kl_ratio, seconds_ratio = ours["kl_mean"] / theirs["kl_mean"], ours["total_seconds"] / seconds
    kl_key, seconds_key = peer_keys(name, method)
    return {
        kl_key: Figure(
            kl_ratio, both, peer=f"{who}: {theirs['kl_mean']:.5f} nats/token at {theirs['bpw']:.3f} bpw stored",
            ratio=kl_ratio,
            note=f"ours {ours['kl_mean']:.5f} at {ours['bpw']:.3f} bpw stored; top-1 agreement "
                 f"{100 * ours['quality']['top1_agreement']:.1f} %, theirs {100 * theirs['top1_agreement']:.1f} %; "
                 f"unquantized perplexity {ours['quality']['base_perplexity']:.3f} here, "
                 f"{theirs['base_perplexity']:.3f} in torch"),
        seconds_key: Figure(
            seconds_ratio, both, peer=f"{who}: {seconds:.0f} s", ratio=seconds_ratio,
            note=f"ours {ours['total_seconds']:.0f} s"),
    }


@functools.lru_cache
def run_ours(context, command):
    return context.run_json(command)


def beside(context, name, method, command_of):
    peer = run_peer(context, name)
    command = tuple(command_of(context, method, [RATE]))
    return figures(name, method, run_ours(context, command), peer, context.show(command))


def measurements(command_of):
    """(keys it gives, function of a Context). `command_of(context, method, rates)` runs a method of ours."""
    return [(peer_keys(name, method), functools.partial(beside, name=name, method=method, command_of=command_of))
            for name in PEERS for method in PEER_METHODS]
