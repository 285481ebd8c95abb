#!/usr/bin/env python3
"""Writes components/monitoring/prometheus-rule.yaml: the rules of deploy/prometheus as the Prometheus Operator wants them.

usage: make_prometheus_rule.py [--check]     --check writes nothing and fails where the file is not what it should be
"""
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
RULES = HERE.parent / "prometheus/rules"
OUT = HERE / "components/monitoring/prometheus-rule.yaml"
HEAD = """# Made by deploy/kubernetes/make_prometheus_rule.py from deploy/prometheus/rules; change those, and run it.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: qamserve
spec:
  groups:
"""


def groups_of(path):
    """The lines below `groups:`, two columns further in."""
    lines = path.read_text(encoding="utf-8").splitlines()
    below = lines[lines.index("groups:") + 1:]
    return "".join(f"  {line}\n" if line else "\n" for line in below)


def main():
    text = HEAD + "".join(groups_of(path) for path in sorted(RULES.glob("*.yml")))
    if "--check" not in sys.argv[1:]:
        OUT.write_text(text, encoding="utf-8")
    elif OUT.read_text(encoding="utf-8") != text:
        sys.exit(f"{OUT} is not what {RULES} makes of it: run {pathlib.Path(__file__).name}")


if __name__ == "__main__":
    main()
