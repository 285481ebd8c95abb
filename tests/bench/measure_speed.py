"""Speed of decoding and prefill beside llama.cpp, each instruction set by itself, the head in 8 bits on both sides.

Our AVX2 kernels run beside a llama.cpp that was built for AVX2, the fastest that this machine has beside one that was
built for all that this machine has.
"""
import functools
import statistics

from context import Unmeasurable
from figure import Figure

ROUNDS = 5
REPETITIONS = 3
DECODE_TOKENS = 128
PREFILL_TOKENS = 512
ISAS = {"avx2": ["avx2", "fma", "f16c"],
        "avx512": ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512_vnni"]}
# AVX-512's for one token; tiles for several.
PREFILL_ISAS = {**ISAS, "amx": [*ISAS["avx512"], "amx_tile", "amx_int8"]}
# Stem of the keys: our codec and rate, their type.
DECODE = {"smollm2.decode.ratio_q5_0": ("joint", "5.5", "Q5_0"), "smollm2.decode.ratio_q4_0": ("joint", "4.5", "Q4_0"),
          "smollm2.decode40.ratio_q4_0": ("joint", "4.0", "Q4_0"),
          "smollm2.decode_trellis.ratio_q5_0": ("trellis", "5.5", "Q5_0"),
          "smollm2.decode_trellis.ratio_q4_0": ("trellis", "4.5", "Q4_0"),
          "smollm2.decode40_trellis.ratio_q4_0": ("trellis", "4.0", "Q4_0")}


def artifact_folder(context, codec, rate):
    return context.work / f"smollm2.speed.{codec}.{rate}"


def artifact_command(context, codec, rate):
    """Makes an artifact to be timed: calibrated on random tokens, which its speed does not depend on."""
    return [context.program("tests/bench/quality_bench"), "quantize", "--model", context.model("smollm2"), "--codec", codec,
            "--bpw", rate, "--embedding-bits", 8, "--calibration-windows", 1, "--window-tokens", 256, "--threads",
            context.threads, "--quiet", "--work-dir", artifact_folder(context, codec, rate)]


def artifact(context, codec, rate):
    """The artifact of artifact_command, made once."""
    folder = artifact_folder(context, codec, rate)
    if not (folder / "artifact/model.safetensors").exists():
        context.run_json(artifact_command(context, codec, rate))
    return folder / "artifact"


def interleaved(context, commands):
    """The results of every command, {name: [one of each round]}: rounds in which all are run in turn."""
    seen = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            seen[name].append(context.run_json(command))
    return seen


def peer_rates(samples):
    return [statistics.median(sample[0]["samples_ts"]) for sample in samples]


def ours(context, isa, model, *options):
    return ["env", f"QAMSERVE_KERNELS={isa}", context.program("tests/bench/decode_bench"), "--model", model, *options,
            "--repetitions", REPETITIONS, "--threads", context.threads]


def medians(results, *fields):
    return [statistics.median(result[field] for result in results) for field in fields]


def bandwidth_note(results):
    """What decoding moves."""
    rate, fraction = medians(results, "gb_per_second", "bandwidth_fraction")
    return f", {rate:.1f} GB/s of weights, {100 * fraction:.0f} % of read bandwidth"


def prefill_note(results):
    """What reading each weight once a prompt comes to, which is the least. decode_bench's gb_per_second is once a token."""
    speed, weights, read = medians(results, "median_tokens_per_second", "bytes_per_token", "read_gb_per_second")
    rate = speed / PREFILL_TOKENS * weights / 1e9
    return f", at least {rate:.2f} GB/s of weights (each once a prompt), {100 * rate / read:.1f} % of read bandwidth"


def peer_command(context, isa, kind, *options):
    """llama-bench for one instruction set; the folder of the AVX2 one has that program alone."""
    model = context.peer_model(kind, eight_bit_head=True)
    tools = context.peer_avx2 if isa == "avx2" else context.peer
    return [tools / "llama-bench", "-m", model, *options, "-t", context.threads, "-r", REPETITIONS, "-o", "json"]


def runnable(context, isas):
    """Those of this machine, slowest first."""
    here = [isa for isa, flags in isas.items() if set(flags) <= context.cpu_flags]
    if not here:
        raise Unmeasurable("this machine has neither AVX2 nor AVX-512")
    return here


def compare(context, here, made, kind, our_options, peer_options, more_note=lambda results: ""):
    """A figure for each of the instruction sets `here`; `made`: codec and rate of our artifact."""
    commands = {}
    for isa in here:
        commands[isa] = ours(context, isa, artifact(context, *made), *our_options)
        commands[isa, "peer"] = peer_command(context, isa, kind, *peer_options)
    seen = interleaved(context, commands)
    out = {}
    for isa in here:
        results, theirs = seen[isa], peer_rates(seen[isa, "peer"])
        ratios = [mine["median_tokens_per_second"] / peer for mine, peer in zip(results, theirs)]
        speed = statistics.median(mine["median_tokens_per_second"] for mine in results)
        note = f"{speed:.1f} tokens/s{more_note(results)}; ratios {min(ratios):.3f} to {max(ratios):.3f}"
        command = " ; ".join([context.show(artifact_command(context, *made)), context.show(commands[isa]),
                              context.show_peer_model(kind, eight_bit_head=True), context.show(commands[isa, "peer"])])
        built = "AVX2" if isa == "avx2" else "all that this CPU has"
        out[isa] = Figure(statistics.median(ratios), command, note=note, ratio=statistics.median(ratios),
                          peer=context.of_peer(f"llama-bench {kind}, built for {built}: {statistics.median(theirs):.1f} tokens/s"))
    return out


def decode(context, stem):
    codec, rate, kind = DECODE[stem]
    figures = compare(context, runnable(context, ISAS), (codec, rate), kind, ["--tokens", DECODE_TOKENS],
                      ["-p", 0, "-n", DECODE_TOKENS], bandwidth_note)
    return {f"{stem}.{isa}": figure for isa, figure in figures.items()}


def prefill(context):
    isa = runnable(context, PREFILL_ISAS)[-1]
    figure = compare(context, [isa], ("joint", "5.5"), "Q5_0", ["--prefill", PREFILL_TOKENS], ["-p", PREFILL_TOKENS, "-n", 0],
                     prefill_note)[isa]
    figure.note += f"; our kernels for {isa}"
    return {"smollm2.prefill512.ratio_q5_0": figure}


def measurements():
    """(keys it gives, function of a Context)."""
    out = [([f"{stem}.{isa}" for isa in ISAS], functools.partial(decode, stem=stem)) for stem in DECODE]
    out.append((["smollm2.prefill512.ratio_q5_0"], prefill))
    return out
