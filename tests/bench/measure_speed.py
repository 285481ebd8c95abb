"""Speed of decoding and prefill beside llama.cpp, each instruction set by itself, the head in 8 bits on both sides.

Our AVX2 kernels run beside a llama.cpp that was built for AVX2, the fastest that this machine has beside one that was
built for all that this machine has.
"""
import functools
import pathlib
import statistics

import measure_peers
from context import Unmeasurable
from figure import Figure

ROUNDS = 5
REPETITIONS = 3
# Rows and columns of a layer of Llama 7B.
LAYER = (4096, 4096)
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
    return f", {rate:.1f} GB/s of weights, {100 * fraction:.0f} % of read bandwidth{cache_note(results[0])}"


def cache_note(result):
    """Weights that the last-level cache holds much of, of which a part is read from there and not from memory."""
    weights, cache = result["bytes_per_token"], result.get("last_level_cache_bytes", 0)
    return f" (of {weights / 1e6:.0f} MB of weights, cache {cache >> 20} MiB)" if weights < 4 * cache else ""


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


def openblas(context):
    """Our product of a prompt beside OpenBLAS's of floats, for which the weights were dequantized before."""
    requirements = measure_peers.FOLDER / "openblas.txt"
    python = measure_peers.environment(context, requirements)
    library = next(pathlib.Path(python).parents[1].glob("lib/python3*/site-packages/scipy_openblas32/lib/libscipy_openblas.so"))
    # Two settings of the environment for the sake of old releases, which hold new ones back.
    command = ["env", "-u", "OPENBLAS_CORETYPE", "-u", "OPENBLAS_L2_SIZE", context.program("tests/bench/matmul_bench"), "--blas",
               library, "--prefix", "scipy_", "--rows", LAYER[0], "--cols", LAYER[1], "--tokens", PREFILL_TOKENS, "--repetitions",
               2 * ROUNDS + 1, "--threads", context.threads]
    made = measure_peers.show_environment(context, requirements)
    return openblas_figures(context.run_json(command), f"{made} ; {context.show(command)}")


def openblas_figures(result, command):
    """Of what matmul_bench printed."""
    ours, theirs = (result[side]["multiply_adds_per_second"] for side in ("ours", "openblas"))
    ratios = [a / b for a, b in zip(ours, theirs)]
    of_peak = [100 * statistics.median(side) / result["float_peak"] for side in (ours, theirs)]
    decoding = statistics.median(result["one_token_seconds"]) / statistics.median(result["ours"]["seconds"])
    note = (f"{statistics.median(ours) / 1e9:.0f} G multiply-adds/s, {of_peak[0]:.0f} % of the measured float FMA peak, OpenBLAS "
            f"{of_peak[1]:.0f} %; kernel {result['kernel']}, of whose time decoding the weights "
            f"takes {100 * decoding:.0f} % (by one token); ratios {min(ratios):.2f} to {max(ratios):.2f}; results at most "
            f"{result['largest_difference']:.1g} of the largest apart")
    return {"kernels.prefill512.ratio_openblas": Figure(
        statistics.median(ratios), command, ratio=statistics.median(ratios), note=note,
        peer=f"{result['blas']}: {statistics.median(theirs) / 1e9:.0f} G multiply-adds/s")}


def pinned(context):
    isa = runnable(context, ISAS)[-1]
    model = artifact(context, "joint", "5.5")
    commands = {name: ours(context, isa, model, "--tokens", DECODE_TOKENS, *more) for name, more in
                (("free", []), ("pinned", ["--pin"]))}
    seen = interleaved(context, commands)
    speeds = {name: [result["median_tokens_per_second"] for result in results] for name, results in seen.items()}
    ratios = [a / b for a, b in zip(speeds["pinned"], speeds["free"])]
    free = statistics.median(speeds["free"])
    shown = [artifact_command(context, "joint", "5.5"), *commands.values()]
    return {"smollm2.decode.pinned_ratio": Figure(
        statistics.median(ratios), " ; ".join(context.show(command) for command in shown),
        ratio=statistics.median(ratios), peer=f"threads that the system moves as it likes: {free:.1f} tokens/s",
        note=f"our kernels for {isa}; ratios {min(ratios):.3f} to {max(ratios):.3f}")}


def measurements():
    """(keys it gives, function of a Context)."""
    out = [([f"{stem}.{isa}" for isa in ISAS], functools.partial(decode, stem=stem)) for stem in DECODE]
    out.append((["smollm2.prefill512.ratio_q5_0"], prefill))
    out.append((["kernels.prefill512.ratio_openblas"], openblas))
    out.append((["smollm2.decode.pinned_ratio"], pinned))
    return out
