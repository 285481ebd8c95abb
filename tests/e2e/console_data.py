"""What the scripted server has, in the shapes of the REST API. Texts hold markup wherever the API would let them."""

import hashlib

HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'
BASE, SMALL, LARGE = "ab" * 32, "cd" * 32, "ef" * 32
TIME = "2026-11-26T10:00:00Z"


def quality(kl):
    return {
        "windows": "8",
        "windowTokens": "1024",
        "scoredTokens": "8184",
        "basePerplexity": 17.31,
        "quantizedPerplexity": 17.31 * (1 + kl),
        "perplexityChange": kl,
        "perplexityChangeStderr": kl / 9,
        "klMean": kl,
        "klStderr": kl / 12,
        "klP50": kl / 3,
        "klP90": kl * 2.4,
        "klP99": kl * 9,
        "klP999": kl * 30,
        "klMax": kl * 70,
        "top1Agreement": 1 - kl,
        "textDigest": "9" * 64,
        "textSource": "built-in text",
        "klCi95Low": kl * 0.82,
        "klCi95High": kl * 1.18,
        "secondHalfKlMean": kl * 0.9,
        "kernels": "exact-1",
        "chatTemplate": False,
    }


def tensors(layers=6, scale=1.0):
    names = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ]
    return [
        {
            "name": f"model.layers.{layer}.{name}",
            "rows": "576",
            "cols": "576",
            "bpw": 5.52,
            "distortion": scale * 0.0011 * (1 + 0.04 * i),
            "weightedError": scale * 0.0008 * (1 + 0.2 * layer + 0.1 * i),
            "type": "",
        }
        for layer in range(layers)
        for i, name in enumerate(names)
    ]


def files(*names):
    return [
        {
            "name": name,
            "sha256": hashlib.sha256(name.encode()).hexdigest(),
            "sizeBytes": str(1000 + 70_000_000 * (name == "model.safetensors")),
        }
        for name in names
    ]


def artifact(digest, name, bpw, size):
    return {
        "name": f"artifacts/{digest}",
        "digest": digest,
        "displayName": name,
        "checkpoint": f"checkpoints/{BASE}",
        "architecture": "llama",
        "codec": "qamw-2",
        "bpw": bpw,
        "sizeBytes": str(size),
        "files": files("config.json", "model.safetensors", "report.json", "README.md"),
        "job": "jobs/done",
        "createTime": TIME,
    }


def job(name, state, **more):
    base = {
        "name": f"jobs/{name}",
        "kind": "quantize",
        "state": f"JOB_STATE_{state}",
        "displayName": name,
        "checkpoint": f"checkpoints/{BASE}",
        "spec": {
            "codec": "CODEC_JOINT",
            "bpw": 5.5,
            "rates": [],
            "ladder": [],
            "curveOnly": False,
            "errorFeedback": False,
            "calibration": {"text": "texts/built-in", "windows": 8, "windowTokens": 1024},
            "evaluation": {"text": "texts/built-in", "windows": 8, "windowTokens": 1024},
            "maxKl": 0.1,
        },
        "progress": {
            "tasksDone": 0,
            "tasksTotal": 20,
            "stage": "calibrate",
            "weightsDone": "0",
            "weightsTotal": "106000000",
            "etaSeconds": -1.0,
            "queuePosition": 0,
            "waitingFor": "",
            "stageFraction": 0.0,
        },
        "tensors": [],
        "artifact": "",
        "estimate": {
            "artifactBytes": "74000000",
            "peakMemoryBytes": "410000000",
            "diskBytes": "80000000",
            "seconds": 42.0,
            "tensors": 42,
            "bpw": 5.52,
        },
        "createTime": TIME,
        "priority": 0,
        "etag": "1",
        "candidates": [],
    }
    base.update(more)
    return base


def progress(done, stage, fraction, eta):
    return {
        "tasksDone": done,
        "tasksTotal": 20,
        "stage": stage,
        "weightsDone": str(5_300_000 * done),
        "weightsTotal": "106000000",
        "etaSeconds": eta,
        "queuePosition": 0,
        "waitingFor": "",
        "stageFraction": fraction,
    }


def served(name, source, chat=True):
    return {
        "name": f"servedModels/{name}",
        "source": source,
        "state": "SERVED_MODEL_STATE_READY",
        "error": "",
        "memoryBytes": "310000000",
        "contextTokens": "2048",
        "running": 1,
        "waiting": 0,
        "chat": chat,
        "readyTime": TIME,
    }
