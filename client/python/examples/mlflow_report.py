#!/usr/bin/env python3
"""Logs what an artifact is and what it cost to MLflow: parameters, metrics, the report itself and a table of its tensors.

    pip install mlflow-skinny pandas
    mlflow_report.py artifacts/DIGEST --experiment quantization

The server is QAMSERVE_ADDRESS, MLflow's is MLFLOW_TRACKING_URI.
"""
import argparse
import sys

import qamserve

try:
    import mlflow
except ImportError:
    mlflow = None


def log_report(client, artifact):
    """Logs to the run that is active. `artifact` is a name or a handle."""
    info = client.get_artifact(artifact)
    report = client.get_report(info)
    spec = report.data.get("spec", {})
    mlflow.log_params({"artifact": info.name, "checkpoint": info.checkpoint, "codec": info.codec,
                       **{f"spec.{key}": value for key, value in spec.items() if not isinstance(value, (dict, list))}})
    mlflow.log_metrics({"bpw": info.bpw, "size_bytes": info.size_bytes, **report.metrics()})
    mlflow.log_dict(report.to_dict(), "report.json")
    try:
        mlflow.log_table(report.to_pandas(), "tensors.json")
    except ImportError as error:
        print(f"no table of tensors: {error}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--experiment", default="qamserve")
    arguments = parser.parse_args()
    if mlflow is None:
        sys.exit("error: this needs MLflow: pip install mlflow-skinny")
    mlflow.set_experiment(arguments.experiment)
    with qamserve.Client() as client, mlflow.start_run():
        log_report(client, arguments.artifact)
    return 0


if __name__ == "__main__":
    sys.exit(main())
