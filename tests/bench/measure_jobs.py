"""Measurements of jobs of a server, as a client sees them."""
import functools
import math

from figure import Figure
from job_server import JobServer
from keys import MIXED_KL_LIMIT

TRELLIS = ["--codec", "trellis", "--error-feedback", "--calibration-windows", "64"]
LDLQ = ["--error-feedback"]
TARGET_KL = "0.02"
# Rows of the study: enough of them to rank, on both models.
STUDIES = {
    "smollm2": ["--methods", "joint,joint+scale,joint+ldlq,polar,scalar,w8a8", "--rates", "3,3.5,4,4.5,5.5",
                "--no-probes"],
    "gemma3": ["--methods", "joint,joint+scale,w8a8", "--rates", "4,5.5", "--evaluation-windows", "4", "--no-probes"],
}


def texts(context):
    return ["--calibration", context.calibration_text, "--evaluation", context.eval_text]


def quantize_job(context):
    """The times of a job as a client sees them, from the job's start to the artifact before it is measured."""
    model = context.model("smollm2")
    options = ["--bpw", "5.5", "--calibration", context.calibration_text, "--evaluation", context.eval_text]
    with JobServer(context) as server:
        view, seen = server.quantize(model, *options)
        command = server.show(model, *options)
    weights = int(view["progress"]["weightsTotal"])
    seconds = seen["assemble"] - seen["quantize"]
    stages = (f"calibrate {seen['quantize']:.1f} s, quantize {seconds:.1f} s, "
              f"assemble {seen['evaluate'] - seen['assemble']:.1f} s; then evaluate {seen['end'] - seen['evaluate']:.1f} s")
    return {
        "smollm2.quantize.seconds": Figure(seen["evaluate"], command, note=stages),
        "smollm2.quantize.weights_per_second_per_core": Figure(
            weights / seconds / context.threads, command,
            note=f"{weights / 1e6:.0f} M weights, {context.threads} threads"),
    }


def mixed(context, rate):
    """The best artifact of the size that one rate for all tensors has: the trellis with error feedback, rates mixed."""
    model = context.model("smollm2")
    with JobServer(context) as server:
        uniform = server.estimate(model, *TRELLIS, "--bpw", rate, *texts(context))
        options = [*TRELLIS, "--target-bpw", repr(uniform["bpw"]), *texts(context)]
        view, seen = server.quantize(model, *options)
        command = server.show(model, *options)
    one, mix = view["candidates"][:2]
    kls = [candidate["quality"]["klMean"] for candidate in (one, mix)]
    return {f"smollm2.mixed.{rate}.kl": Figure(
        view["quality"]["klMean"], command, peer=f"one rate for all tensors: {kls[0]:.5f}", ratio=kls[1] / kls[0],
        note=f"mix {kls[1]:.5f} at {mix['bpw']:.3f} bpw stored, one rate {one['bpw']:.3f}; job {seen['end']:.0f} s")}


def target(context):
    """How far above the smallest rate of a full sweep the artifact of a quality target is."""
    model = context.model("smollm2")
    with JobServer(context) as server:
        options = [*LDLQ, "--target-kl", TARGET_KL, *texts(context)]
        view, seen = server.quantize(model, *options)
        command = server.show(model, *options)
        sweep, _ = server.quantize(model, *LDLQ, "--ladder", "4,4.5,5,5.5,6", "--curve-only", *texts(context))
    found = next(c for c in view["candidates"] if c["quality"] == view["quality"])
    passing = [c["bpw"] for c in sweep["candidates"] if c["quality"]["klCi95High"] <= float(TARGET_KL)]
    return {"smollm2.target_kl.bpw_above_sweep": Figure(
        found["bpw"] - min(passing), command, peer=f"smallest rate of the sweep that passes: {min(passing):.3f} bpw",
        ratio=found["bpw"] / min(passing),
        note=f"{found['bpw']:.3f} bpw, KL {found['quality']['klMean']:.5f}, upper bound "
             f"{found['quality']['klCi95High']:.5f}, {len(view['candidates'])} candidates, {seen['end']:.0f} s")}


def ranks(values):
    """Average ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    out = [0.0] * len(values)
    at = 0
    while at < len(order):
        end = at
        while end < len(order) and values[order[end]] == values[order[at]]:
            end += 1
        for i in order[at:end]:
            out[i] = (at + end - 1) / 2
        at = end
    return out


def spearman(a, b):
    x, y = ranks(a), ranks(b)
    mean = (len(x) - 1) / 2
    covariance = sum((i - mean) * (j - mean) for i, j in zip(x, y))
    return covariance / math.sqrt(sum((i - mean) ** 2 for i in x) * sum((j - mean) ** 2 for j in y))


def study(context):
    """The paper's tables on both models."""
    tables, commands = {}, []
    with JobServer(context) as server:
        for name, options in STUDIES.items():
            tables[name] = server.study(context.model(name), *options, *texts(context))
            commands.append(server.show(context.model(name), *options, *texts(context), verb="study"))
    command = " ; ".join(commands)
    rows = [row for table in tables.values() for row in table["rows"]]
    correlation = spearman([row["quality"]["kl_mean"] for row in rows],
                           [row["quality"]["perplexity_change"] for row in rows])
    own = {(row["method"], row["spec"]["bpw"]): row["quality"]["kl_mean"] for row in tables["smollm2"]["rows"]}
    pairs = {rate: own[("joint", rate)] / own[("polar", rate)] for rate in (3.5, 4.0, 5.5)}
    ldlq, w8a8 = own[("joint + scale + LDLQ", 5.5)], own[("SmoothQuant W8A8", 8.0)]
    return {
        "study.spearman": Figure(correlation, command, note=f"{len(rows)} rows of {len(tables)} models"),
        "study.smollm2.joint_over_polar": Figure(
            max(pairs.values()), command, peer="polar, equal bits", ratio=max(pairs.values()),
            note=", ".join(f"{rate} bpw {ratio:.3f}" for rate, ratio in pairs.items())),
        "study.smollm2.ldlq_5.5_over_w8a8": Figure(
            ldlq / w8a8, command, peer=f"SmoothQuant W8A8: {w8a8:.5f}", ratio=ldlq / w8a8, note=f"LDLQ 5.5 bpw {ldlq:.5f}"),
    }


def measurements():
    """(keys it gives, function of a Context)."""
    out = [(["smollm2.quantize.seconds", "smollm2.quantize.weights_per_second_per_core"], quantize_job)]
    out += [([f"smollm2.mixed.{rate}.kl"], functools.partial(mixed, rate=rate)) for rate in MIXED_KL_LIMIT]
    out.append((["smollm2.target_kl.bpw_above_sweep"], target))
    out.append((["study.spearman", "study.smollm2.joint_over_polar", "study.smollm2.ldlq_5.5_over_w8a8"], study))
    return out
