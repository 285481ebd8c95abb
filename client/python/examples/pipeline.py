#!/usr/bin/env python3
"""Upload, quantize, check and serve a model, as steps of a pipeline.

Each step is a command that reads names and writes them to files, which is how Argo passes outputs between containers
(outputs.parameters.valueFrom.path) and how Kubeflow's container components do (dsl.OutputPath); `all` runs them one after
the other. Every step may be repeated: what is there is not uploaded or computed again.

    pipeline.py all SmolLM2-135M-Instruct.Q4_1.gguf --name smol --max-kl 0.02

    pipeline.py upload MODEL --out checkpoint.txt
    pipeline.py quantize "$(cat checkpoint.txt)" --bpw 5.5 --out artifact.txt
    pipeline.py gate "$(cat artifact.txt)" --max-kl 0.02 --metrics metrics.json
    pipeline.py serve "$(cat artifact.txt)" --name smol --alias prod

The server is QAMSERVE_ADDRESS, the key QAMSERVE_API_KEY. Exit status 1 and a line on stderr say what failed and why, so
that the orchestrator's own retries can be kept for what passes by itself (exit status 75, as in sysexits.h).
"""
import argparse
import json
import pathlib
import sys

import grpc

import qamserve

TEMPORARY_FAILURE = 75


def write(path, text):
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    print(text)


def tell_transfer(progress):
    if progress.phase == "retry":
        print(f"{progress.error}; again in {progress.retry_in:.1f} s", file=sys.stderr)


def tell_job():
    """Prints a line for each new stage."""
    seen = set()

    def tell(job):
        if job.progress.stage and job.progress.stage not in seen:
            seen.add(job.progress.stage)
            print(f"{job.name}: {job.progress.stage}", file=sys.stderr)

    return tell


def upload(client, arguments):
    checkpoint = client.upload(arguments.model, on_progress=tell_transfer)
    write(arguments.out, checkpoint.name)
    return checkpoint.name


def quantize(client, arguments):
    job = client.quantize(arguments.checkpoint, arguments.bpw, arguments.codec, evaluation="built-in",
                          calibration=None if arguments.codec == "full" else "built-in")
    job.wait(tell_job())
    write(arguments.out, job.artifact.name)
    return job.artifact.name


def gate(client, arguments):
    """Fails if the artifact is too far from its checkpoint. The upper end of the interval counts, not the mean."""
    report = client.get_report(arguments.artifact)
    write(arguments.metrics, json.dumps(report.metrics(), indent=2))
    if report.quality.kl_ci95_high > arguments.max_kl:
        sys.exit(f"{arguments.artifact}: mean KL is {report.quality.kl_mean:.4f} (at most {report.quality.kl_ci95_high:.4f} "
                 f"with 97.5 % confidence); the limit is {arguments.max_kl}")


def serve(client, arguments):
    model = client.load(arguments.artifact, arguments.name)
    if arguments.alias:
        client.alias(arguments.alias, arguments.name)
    answer = client.generate(model.name, "One, two, three,", max_tokens=8, temperature=0)
    print(f"{model.name} is ready and says: {answer.text!r}")


def run_all(client, arguments):
    arguments.checkpoint = upload(client, arguments)
    arguments.artifact = quantize(client, arguments)
    gate(client, arguments)
    serve(client, arguments)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(required=True, metavar="STEP")

    def step(name, run, *arguments):
        part = steps.add_parser(name)
        part.set_defaults(run=run, out=None, metrics=None, alias=None)
        for argument in arguments:
            part.add_argument(argument, **options[argument])

    options = {
        "model": {"help": "a GGUF file or a Hugging Face folder"},
        "checkpoint": {"help": "checkpoints/..."},
        "artifact": {"help": "artifacts/..."},
        "--bpw": {"type": float, "help": "bits a weight (default: the codec's)"},
        "--codec": {"default": "joint"},
        "--max-kl": {"type": float, "default": 0.05, "help": "nats a token (default: %(default)s)"},
        "--name": {"required": True, "help": "of the served model"},
        "--alias": {"help": "also point this alias at it"},
        "--out": {"type": pathlib.Path, "help": "file for the name of what was made"},
        "--metrics": {"type": pathlib.Path, "help": "file for the report's numbers, as JSON"},
    }
    step("upload", upload, "model", "--out")
    step("quantize", quantize, "checkpoint", "--bpw", "--codec", "--out")
    step("gate", gate, "artifact", "--max-kl", "--metrics")
    step("serve", serve, "artifact", "--name", "--alias")
    step("all", run_all, "model", "--bpw", "--codec", "--max-kl", "--name", "--alias", "--metrics")
    return parser.parse_args()


def main():
    arguments = parse()
    try:
        with qamserve.Client() as client:
            arguments.run(client, arguments)
    except qamserve.QamserveError as error:
        print(f"error: {error}", file=sys.stderr)
        passes = error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
        return TEMPORARY_FAILURE if passes else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
