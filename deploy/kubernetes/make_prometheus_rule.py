#!/usr/bin/env python3
"""Writes components/monitoring/prometheus-rule.yaml: the rules of deploy/prometheus as the Prometheus Operator wants them.

usage: make_prometheus_rule.py [--check] [--runbooks URL]
  --check         writes nothing and fails where the file is not what it should be
  --runbooks URL  where docs/operations.md is read, for the links of alerts. Here it is a part of the rules, since the external
                  labels of a Prometheus that others run are theirs. The overlays put their own in its place.
"""
import argparse
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
RULES = HERE.parent / "prometheus/rules"
RUNBOOKS = "{{ $externalLabels.runbooks }}"
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
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--runbooks", metavar="URL", default="docs/operations.md")
    options = parser.parse_args()
    text = HEAD + "".join(groups_of(path) for path in sorted(RULES.glob("*.yml"))).replace(RUNBOOKS, options.runbooks)
    if not options.check:
        OUT.write_text(text, encoding="utf-8")
    elif OUT.read_text(encoding="utf-8") != text:
        sys.exit(f"{OUT} is not what {RULES} makes of it: run {pathlib.Path(__file__).name}")


if __name__ == "__main__":
    main()
