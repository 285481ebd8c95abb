"""The measurements. Each function takes a Context and gives rows {key: Figure} of what it measured on the way."""
import functools
import re
import shutil
import statistics
import sys

import measure_fleet
import measure_gpu
import measure_jobs
import measure_load
import measure_peers
import measure_speed
import measure_store
from context import REPOSITORY, Unmeasurable
from figure import Figure
from keys import JOINT_KL, JOINT_SCALE_KL_LIMIT, METHOD_KL_LIMIT
from random_model import random_llama

WINDOW_TOKENS = 1024
DECODE_ROUNDS = 5
DECODE_TOKENS = 128
BOUNDED_LIMIT_BYTES = 768 << 20


def tokenizer(context, model):
    program = context.program("tests/reference/tokenize_main")
    hostile = context.work / "hostile.txt"
    context.run([sys.executable, REPOSITORY / "tests/reference/hostile_text.py", hostile])
    command = [sys.executable, REPOSITORY / "tests/reference/compare_tokenizer.py", "--json", program,
               context.peer / "llama-tokenize", context.model(model), context.eval_text, hostile]
    # Status 1 says that there are mismatches, which is a figure.
    result = context.run_json(command, good_statuses=(0, 1))
    ids = sum(comparison["ids"] for comparison in result["comparisons"])
    return {f"{model}.tokenizer.mismatches": Figure(
        result["mismatches"], context.show(command), peer=context.of_peer("llama-tokenize"), note=f"{ids} tokens compared")}


def base_perplexity(context):
    windows = 16
    peer_command = [context.peer / "llama-perplexity", "-m", context.peer_model("F16"), "-f", context.eval_text, "-c",
                    WINDOW_TOKENS, "--chunks", windows, "-t", context.threads]
    found = re.search(r"Final estimate: PPL = ([0-9.]+)", context.run(peer_command, quiet=True))
    if not found:
        raise Unmeasurable("llama-perplexity printed no final estimate")
    peer = float(found.group(1))
    command = [context.program("tests/bench/quality_bench"), "base", "--model", context.model("smollm2"), "--eval-text",
               context.eval_text, "--windows", windows, "--window-tokens", WINDOW_TOKENS, "--threads", context.threads,
               "--quiet"]
    ours = context.run_json(command)["second_half_perplexity"]
    return {"smollm2.base.ppl_rel_diff": Figure(
        abs(ours / peer - 1), f"{context.show(command)} ; {context.show_peer_model('F16')} ; {context.show(peer_command)}",
        peer=context.of_peer(f"llama-perplexity, F16: {peer:.4f}"), ratio=ours / peer, note=f"ours {ours:.4f}")}


def quality_command(context, model, bpw, scale):
    gemma = model == "gemma3"
    command = [context.program("tests/bench/quality_bench"), "quality", "--model", context.model(model), "--eval-text",
               context.eval_text, "--windows", 4 if gemma else 8, "--window-tokens", WINDOW_TOKENS, "--bpw", bpw,
               "--threads", context.threads, "--quiet", "--work-dir",
               context.work / f"{model}.{'joint_scale' if scale else 'joint'}.{bpw}"]
    command += ["--calibration-text", context.calibration_text] if scale else ["--no-channel-scale"]
    return command + (["--bos"] if gemma else [])


@functools.lru_cache
def quality(context, model, bpw, scale):
    return context.run_json(quality_command(context, model, bpw, scale))


def kl(context, model, bpw, scale):
    """The KL of one configuration."""
    result = quality(context, model, bpw, scale)
    command = context.show(quality_command(context, model, bpw, scale))
    report = result["quality"]
    note = (f"perplexity {report['base_perplexity']:.3f} -> {report['quantized_perplexity']:.3f} "
            f"({100 * report['perplexity_change']:+.2f} %), top-1 agreement {100 * report['top1_agreement']:.1f} %, "
            f"95 % interval {report['kl_ci95_low']:.4f} to {report['kl_ci95_high']:.4f}, {result['bpw']:.3f} bpw stored")
    method = "joint_scale" if scale else "joint"
    reference = JOINT_KL[bpw] if method == "joint" else None
    return {f"{model}.{method}.{bpw}.kl": Figure(
        result["kl_mean"], command, note=note, peer=f"reference implementation: {reference}" if reference else "",
        ratio=result["kl_mean"] / reference if reference else None)}


METHOD_FLAGS = {
    "ldlq": ["--codec", "joint", "--error-feedback", "--calibration-windows", 16],
    # At high rates noise of the statistics shows: at 5.5 bpw 16 windows gave 0.0089, 32 give 0.0081.
    "trellis_ldlq": ["--codec", "trellis", "--error-feedback", "--calibration-windows", 32],
    "polar": ["--codec", "polar", "--no-channel-scale"],
    "scalar": ["--codec", "scalar", "--no-channel-scale"],
    "rtn": ["--codec", "uniform", "--no-channel-scale", "--rotation", "none"],
    "w8a8": ["--codec", "int8", "--rotation", "none"],
}


def method_command(context, method, rates):
    command = [context.program("tests/bench/quality_bench"), "quality", "--model", context.model("smollm2"),
               "--eval-text", context.eval_text, "--windows", 8, "--window-tokens", WINDOW_TOKENS, "--bpw",
               ",".join(rates), "--threads", context.threads, "--quiet", "--work-dir",
               context.work / f"smollm2.{method}", "--calibration-text", context.calibration_text]
    return command + METHOD_FLAGS[method]


def method_kl(context, method, rates):
    """The KL of a method at several rates, which share one calibration and one run of the unquantized model."""
    command = method_command(context, method, rates)
    # What a peer is compared with as well is run once.
    results = measure_peers.run_ours(context, tuple(command))
    results = results if isinstance(results, list) else [results]
    rows = {}
    for rate, result in zip(rates, results):
        report = result["quality"]
        limit = METHOD_KL_LIMIT[method][rate]
        rows[f"smollm2.{method}.{rate}.kl"] = Figure(
            result["kl_mean"], context.show(command), ratio=result["kl_mean"] / limit if limit else None,
            peer=f"bar: {limit}" if limit else "",
            note=f"perplexity {100 * report['perplexity_change']:+.2f} %, top-1 agreement "
                 f"{100 * report['top1_agreement']:.1f} %, {result['bpw']:.3f} bpw stored, "
                 f"{result['weights_per_second_per_core'] / 1e6:.2f} M weights/s a core")
        if rate == "4.0" and METHOD_KL_LIMIT[method][rate] and "ldlq" in method:
            rows[f"smollm2.{method}.quantize_seconds"] = Figure(
                result["total_seconds"], context.show(command),
                note=f"calibrate {result['calibrate_seconds']:.1f} s, quantize {result['quantize_seconds']:.1f} s")
    return rows


def embeddings(context):
    """What 8-bit embeddings cost and save: both artifacts measured in turn."""
    command = quality_command(context, "smollm2", "5.5", True)
    kept = context.run_json(command)
    rounded = context.run_json([*command, "--embedding-bits", 8])
    shown = context.show([*command, "--embedding-bits", 8])
    return {
        "smollm2.embedding8.kl_ratio": Figure(
            rounded["kl_mean"] / kept["kl_mean"], shown, peer=f"embeddings as they are: {kept['kl_mean']:.5f}",
            ratio=rounded["kl_mean"] / kept["kl_mean"], note=f"KL {rounded['kl_mean']:.5f}"),
        "smollm2.embedding8.bytes_ratio": Figure(
            rounded["artifact_bytes"] / kept["artifact_bytes"], shown,
            peer=f"embeddings as they are: {kept['artifact_bytes']} bytes",
            ratio=rounded["artifact_bytes"] / kept["artifact_bytes"], note=f"{rounded['artifact_bytes']} bytes"),
    }


def kv8(context):
    """What 8-bit keys and values cost, apart from any codec."""
    command = [context.program("tests/bench/quality_bench"), "kv", "--model", context.model("smollm2"), "--eval-text",
               context.eval_text, "--windows", 8, "--window-tokens", WINDOW_TOKENS, "--threads", context.threads,
               "--quiet"]
    result = context.run_json(command)
    floats, rounded = result["f32"], result["int8"]
    if floats["kl_mean"] != 0:
        raise Unmeasurable(f"float caches differ from the base by {floats['kl_mean']}, so it is not the cache that is "
                           "measured")
    return {"smollm2.kv8.kl": Figure(
        rounded["kl_mean"], context.show(command),
        note=f"perplexity {100 * rounded['perplexity_change']:+.3f} %, top-1 agreement "
             f"{100 * rounded['top1_agreement']:.2f} %, {rounded['bytes_per_token']} bytes a token instead of "
             f"{floats['bytes_per_token']}")}


def kl_ratio_q5_0(context):
    windows = 8
    base = context.work / "smollm2-base.kld"
    common = [context.peer / "llama-perplexity", "-f", context.eval_text, "-c", WINDOW_TOKENS, "--chunks", windows,
              "-t", context.threads]
    save = common + ["-m", context.peer_model("F16"), "--save-all-logits", base]
    score = common + ["-m", context.peer_model("Q5_0"), "--kl-divergence-base", base, "--kl-divergence"]
    try:
        context.run(save, quiet=True)
        found = re.search(r"Mean\s+KLD:\s+([0-9.]+)", context.run(score, quiet=True))
    finally:
        base.unlink(missing_ok=True)
    if not found:
        raise Unmeasurable("llama-perplexity printed no mean KLD")
    peer = float(found.group(1))
    ours = quality(context, "smollm2", "5.5", True)["second_half_kl_mean"]
    if ours <= 0:
        raise Unmeasurable("the evaluation gave no KL over second halves")
    command = context.show(quality_command(context, "smollm2", "5.5", True))
    return {"smollm2.joint_scale.5.5.kl_ratio_q5_0": Figure(
        ours / peer, f"{command} ; {context.show_peer_model('Q5_0')} ; {context.show(save)} ; {context.show(score)}",
        peer=context.of_peer(f"llama.cpp Q5_0: {peer:.5f} nats/token"), ratio=ours / peer, note=f"ours {ours:.5f} nats/token")}


def decode(context):
    artifact = quality(context, "smollm2", "5.5", True)["artifact"]
    ours_command = [context.program("tests/bench/decode_bench"), "--model", artifact, "--tokens", DECODE_TOKENS,
                    "--repetitions", 3, "--threads", context.threads]
    peer_command = [context.peer / "llama-bench", "-m", context.peer_model("Q5_0"), "-p", 0, "-n", DECODE_TOKENS, "-t",
                    context.threads, "-r", 3, "-o", "json"]
    ours, peers = [], []
    for _ in range(DECODE_ROUNDS):
        ours.append(context.run_json(ours_command))
        peers.append(statistics.median(context.run_json(peer_command)[0]["samples_ts"]))
    ratios = [mine["median_tokens_per_second"] / peer for mine, peer in zip(ours, peers)]
    median = {field: statistics.median(mine[field] for mine in ours)
              for field in ("median_tokens_per_second", "gb_per_second", "bandwidth_fraction", "read_gb_per_second")}
    rates = measure_speed.bandwidth_note(ours)
    command = f"{context.show(quality_command(context, 'smollm2', '5.5', True))} ; {context.show(ours_command)}"
    spread = f"{DECODE_ROUNDS} rounds, ratios {min(ratios):.3f} to {max(ratios):.3f}, kernel {ours[0]['kernel']}"
    ratio = statistics.median(ratios)
    peer = context.of_peer(f"llama-bench Q5_0: {statistics.median(peers):.1f} tokens/s")
    return {
        "smollm2.decode.ratio_q5_0": Figure(
            ratio, f"{command} ; {context.show_peer_model('Q5_0')} ; {context.show(peer_command)}", peer=peer, ratio=ratio, note=spread),
        "smollm2.decode.tokens_per_second": Figure(
            median["median_tokens_per_second"], command, peer=peer, ratio=ratio,
            note=f"{ours[0]['bytes_per_token'] / 1e6:.1f} MB of weights a token{rates}"),
        "smollm2.decode.gb_per_second": Figure(median["gb_per_second"], command),
        "smollm2.decode.bandwidth_fraction": Figure(
            median["bandwidth_fraction"], command, ratio=median["bandwidth_fraction"],
            peer=f"reading loop ({ours[0]['read_loop']}): {median['read_gb_per_second']:.1f} GB/s",
            note=measure_speed.cache_note(ours[0]).strip(" ()")),
    }


def bounded(context):
    model, size = random_llama(context)
    command = [context.program("tests/bench/quality_bench"), "quantize", "--model", model, "--threads", context.threads,
               "--quiet", "--work-dir", context.work / "bounded"]
    try:
        result = context.run_json(command, limit_data_bytes=BOUNDED_LIMIT_BYTES)
    finally:
        shutil.rmtree(context.work / "bounded", ignore_errors=True)
    peak = result["peak_rss_bytes"]
    return {"bounded.quantize.peak_rss_ratio": Figure(
        peak / BOUNDED_LIMIT_BYTES, f"ulimit -d {BOUNDED_LIMIT_BYTES >> 10} ; {context.show(command)}",
        note=f"peak {peak / 2**20:.0f} MiB, model {size / 2**30:.2f} GiB, {result['layers']} layers, "
             f"{result['total_seconds']:.0f} s")}


def feedback_memory(context):
    command = [context.program("tests/bench/quality_bench"), "quantize", "--model", context.model("smollm2"), "--bpw", 4,
               "--error-feedback", "--calibration-windows", 2, "--threads", context.threads, "--quiet", "--work-dir",
               context.work / "feedback-memory"]
    try:
        result = context.run_json(command)
    finally:
        shutil.rmtree(context.work / "feedback-memory", ignore_errors=True)
    peak, plan = result["peak_rss_bytes"], result["planned_peak_bytes"]
    return {"smollm2.ldlq.peak_rss_over_plan": Figure(
        peak / plan, context.show(command), peer=f"plan: {plan / 2**20:.0f} MiB", ratio=peak / plan,
        note=f"peak {peak / 2**20:.0f} MiB")}


def measurements():
    """(keys it gives, function of a Context), in an order that leaves no artifact to be made twice."""
    out = [([f"{model}.tokenizer.mismatches"], functools.partial(tokenizer, model=model))
           for model in ("smollm2", "gemma3")]
    out.append((["smollm2.base.ppl_rel_diff"], base_perplexity))
    for bpw in JOINT_KL:
        out.append(([f"smollm2.joint.{bpw}.kl"], functools.partial(kl, model="smollm2", bpw=bpw, scale=False)))
    for bpw in JOINT_SCALE_KL_LIMIT:
        out.append(([f"smollm2.joint_scale.{bpw}.kl"], functools.partial(kl, model="smollm2", bpw=bpw, scale=True)))
    out += measure_jobs.measurements()
    for method, limits in METHOD_KL_LIMIT.items():
        # The trellis takes minutes a rate, so that each is measured by itself.
        for rates in ([[rate] for rate in limits] if method == "trellis_ldlq" else [list(limits)]):
            keys = [f"smollm2.{method}.{rate}.kl" for rate in rates]
            if "ldlq" in method and "4.0" in rates:
                keys.append(f"smollm2.{method}.quantize_seconds")
            out.append((keys, functools.partial(method_kl, method=method, rates=rates)))
    out.append((["smollm2.embedding8.kl_ratio", "smollm2.embedding8.bytes_ratio"], embeddings))
    out.append((["smollm2.kv8.kl"], kv8))
    out.append((["smollm2.joint_scale.5.5.kl_ratio_q5_0"], kl_ratio_q5_0))
    out.append((["gemma3.joint_scale.5.5.kl"], functools.partial(kl, model="gemma3", bpw="5.5", scale=True)))
    out.append((["smollm2.decode.ratio_q5_0", "smollm2.decode.tokens_per_second", "smollm2.decode.gb_per_second",
                 "smollm2.decode.bandwidth_fraction"], decode))
    out += measure_speed.measurements()
    out += measure_load.measurements()
    out += measure_store.measurements()
    out += measure_fleet.measurements()
    out.append((["smollm2.ldlq.peak_rss_over_plan"], feedback_memory))
    out += measure_gpu.measurements()
    out += measure_peers.measurements(method_command)
    out.append((["bounded.quantize.peak_rss_ratio"], bounded))
    return out
