"""The jobs of a chaos run: what they are, how they are created, and what is compared of them."""
import json
import subprocess

# Small enough for a job of a second or two, large enough for tasks that a kill can hit. The last one is for the trellis, whose
# search takes a hundred times as long.
MODELS = [{"layers": 3, "hidden": 128, "intermediate": 384, "heads": 4}, {"layers": 2, "hidden": 256, "intermediate": 512, "heads": 4},
          {"layers": 4, "hidden": 192, "intermediate": 384, "heads": 6}, {"layers": 2, "hidden": 64, "intermediate": 128, "heads": 4}]
TEXT = {"text": "texts/built-in", "windows": 4, "windowTokens": 64}
SUCCEEDED, REJECTED = "JOB_STATE_SUCCEEDED", "JOB_STATE_REJECTED"
FINAL = {SUCCEEDED, REJECTED, "JOB_STATE_FAILED", "JOB_STATE_CANCELLED"}
# One of everything that makes other tasks.
SPECS = {
    "joint": {"bpw": 5.5},
    "ldlq": {"bpw": 4, "errorFeedback": True},
    "scalar": {"codec": "CODEC_SCALAR", "bpw": 4, "channelScale": False},
    "int8": {"codec": "CODEC_INT8"},
    "ladder": {"ladder": [3.5, 4.5, 5.5]},
    "curve": {"ladder": [3, 5], "curveOnly": True},
    "target": {"target": {"bpw": 4.6}},
    "refused": {"bpw": 3, "maxKl": 1e-9},
    "rules": {"bpw": 4, "rates": [{"filter": "*.down_proj", "bpw": 6}], "embeddingBits": 8},
    "rotation": {"bpw": 4.5, "rotation": "ROTATION_BLOCK", "seed": 7},
}
TRELLIS = {
    "trellis": {"codec": "CODEC_TRELLIS", "bpw": 3.5},
    "trellis-ldlq": {"codec": "CODEC_TRELLIS", "bpw": 4, "errorFeedback": True},
    "trellis-ladder": {"codec": "CODEC_TRELLIS", "ladder": [2.5, 5]},
    "trellis-target": {"codec": "CODEC_TRELLIS", "target": {"bpw": 4.4}},
}
# Which of them on which model, in the order in which they are created.
LEFT_OUT = {("int8", 1), ("curve", 1), ("rules", 1), ("ladder", 2), ("refused", 2), ("scalar", 2)}
WHOLE = [*((name, 3) for name in TRELLIS), *((name, model) for model in range(3) for name in SPECS if (name, model) not in LEFT_OUT)]
PART = [("trellis", 3), ("trellis-ladder", 3), ("joint", 0), ("refused", 0), ("ldlq", 1), ("target", 1), ("ladder", 2), ("rotation", 2)]
STUDY = {"methods": [{"spec": {"codec": "CODEC_JOINT"}, "rates": [4, 5]}, {"spec": {"codec": "CODEC_POLAR"}, "rates": [4]}]}


def make_model(build, folder, shape, seed):
    subprocess.run([build / "tests/support/make_random_model", "--out", folder, "--kv-heads", "2", "--vocab", "320", "--dtype", "F16",
                    "--seed", str(seed), *[part for key, value in shape.items() for part in (f"--{key}", str(value))]],
                   check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return folder


class Wave:
    """Models of their own, and jobs on them: 30 in the first wave, 10 in each later one."""

    def __init__(self, build, folder, number):
        self.number = number
        self.models = [make_model(build, folder / f"model-{number}-{at}", shape, 1000 * number + at)
                       for at, shape in enumerate(MODELS)]
        self.quantize = WHOLE if number == 0 else PART
        self.checkpoints = []

    def size(self):
        return len(self.quantize) + 2

    def upload(self, send):
        """`send(folder)` returns a checkpoint's name."""
        self.checkpoints = [send(model) for model in self.models]

    def create(self, api):
        """Names of the jobs by what they are; the same in every run. The evaluate job waits for what it evaluates."""
        jobs = {}
        for name, model in self.quantize:
            jobs[f"{self.number}/{name}/{model}"] = self.ask(api, "quantize", f"{name}-{model}", {
                "checkpoint": self.checkpoints[model], "project": f"project-{model}",
                "spec": {"calibration": TEXT, "evaluation": TEXT, **{**SPECS, **TRELLIS}[name]}})
        jobs[f"{self.number}/study"] = self.ask(api, "study", "study", {
            "checkpoints": self.checkpoints[:1], "calibration": TEXT, "evaluation": TEXT, "withoutProbes": True, **STUDY})
        return jobs

    def evaluate(self, api, artifact):
        return self.ask(api, "evaluate", "evaluate", {"artifact": artifact, "evaluation": {**TEXT, "windows": 6}})

    def ask(self, api, kind, request, body):
        return api.call("POST", f"/v1/jobs:{kind}", {**body, "requestId": f"wave-{self.number}-{request}"})["name"]

    def evaluated(self):
        """Which job's artifact the evaluate job measures."""
        return f"{self.number}/joint/0"

    def wanted(self, key):
        """The state in which a job is to end."""
        return REJECTED if "/refused/" in key else SUCCEEDED


def outcome(api, name):
    """Of a job that has ended: all that must not depend on who did it, or how often."""
    job = api.call("GET", f"/v1/{name}")
    table = json.loads(api.call("GET", f"/v1/{name}/study")["content"]) if job["kind"] == "study" else {}
    return {"state": job["state"], "reason": job.get("error", {}).get("reason", ""), "artifact": job.get("artifact", ""),
            "quality": job.get("quality"), "rows": [{key: value for key, value in row.items() if key != "quantize_seconds"} for row in table.get("rows", [])],
            "candidates": sorted(json.dumps(one, sort_keys=True) for one in job.get("candidates", []))}
