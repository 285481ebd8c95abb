#!/usr/bin/env python3
"""Prometheus' own tool over deploy/prometheus: configurations, rules, and for every alert of the rules a case that sets it off
and one that does not (alert_cases.py); and each alert tells who reads it what to do. Needs promtool (Debian's package
prometheus) and PyYAML.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from alert_cases import ALSO_FIRING, EVERY_SCRAPE, FIRING, QUIET  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import prerequisites  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PROMETHEUS = REPOSITORY / "deploy/prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RUNBOOK = "docs/operations.md"
RUNBOOK_LINK = "{{ $externalLabels.runbooks }}"
RUNBOOK_URL = "https://git.example.com/qamserve/docs/operations.md"  # of that label, in unit tests
# Words of the runbook that look like events of the log and are PostgreSQL's, or columns.
NO_EVENTS = {"commit_marks", "default_transaction_read_only", "pg_dump", "pg_stat_activity", "pg_stat_user_tables",
             "synchronous_commit"}


def alerts():
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from (rule for rule in group["rules"] if "alert" in rule)


def expressions():
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from ((rule.get("alert") or rule["record"], rule["expr"]) for rule in group["rules"])


def promtool(*arguments, cwd=None):
    return subprocess.run(["promtool", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False, cwd=cwd)


def rendered(text, labels):
    """What Prometheus makes of an annotation that names labels, and where the runbook is, and nothing else."""
    text = text.replace(RUNBOOK_LINK, RUNBOOK_URL)
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: labels[match.group(1)], text)


def unit_tests(interval):
    """A file for promtool: for each alert whose cases have values at that interval both of its cases. One that is quiet is so
    at every minute."""
    tests = []
    for alert in alerts():
        if (interval == "15s") != (alert["alert"] in EVERY_SCRAPE):
            continue
        name = alert["alert"]
        series, last = QUIET[name]
        cases = [("is quiet", series, range(1, last + 1), [])]
        for series, minute, labels in [found[name] for found in (FIRING, ALSO_FIRING) if name in found]:
            expected = {"exp_labels": {**labels, **alert["labels"]},
                        "exp_annotations": {key: rendered(text, labels) for key, text in alert["annotations"].items()}}
            cases.append(("fires", series, [minute], [expected]))
        for case, cause, minutes, fires in cases:
            tests.append({"name": f"{name} {case}", "interval": interval, "external_labels": {"runbooks": RUNBOOK_URL},
                          "input_series": [{"series": key, "values": values} for key, values in cause.items()],
                          "alert_rule_test": [{"eval_time": f"{minute}m", "alertname": name, "exp_alerts": fires}
                                              for minute in minutes]})
    return {"rule_files": [str(path) for path in RULES], "evaluation_interval": interval, "tests": tests}


class Promtool(unittest.TestCase):
    def assert_passes(self, *arguments):
        done = promtool(*arguments)
        self.assertEqual(done.returncode, 0, done.stdout[-4000:])

    def test_configuration(self):
        self.assert_passes("check", "config", PROMETHEUS / "prometheus.yml")

    def test_configuration_for_kubernetes(self):
        config = yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text())
        config["rule_files"] = [str(PROMETHEUS / path) for path in config["rule_files"]]
        # Debian's Prometheus is built without Kubernetes: all but the finding of pods is checked.
        (job,) = config["scrape_configs"]
        self.assertEqual(job.pop("kubernetes_sd_configs"), [{"role": "pod"}])
        job["static_configs"] = [{"targets": ["pod:9090"]}]
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "kubernetes.yml"
            path.write_text(yaml.safe_dump(config))
            self.assert_passes("check", "config", path)

    def test_rules(self):
        self.assert_passes("check", "rules", *RULES)

    def test_every_alert_fires_when_it_should_and_only_then(self):
        with tempfile.TemporaryDirectory() as folder:
            for interval in ("1m", "15s"):
                path = pathlib.Path(folder) / f"alerts-{interval}.yml"
                path.write_text(yaml.safe_dump(unit_tests(interval), sort_keys=False))
                self.assert_passes("test", "rules", path)

    def test_a_wrong_expectation_is_noticed(self):
        tests = unit_tests("1m")
        tests["tests"] = [test for test in tests["tests"] if test["name"] == "QamserveInstanceDown fires"]
        tests["tests"][0]["alert_rule_test"][0]["exp_alerts"] = []
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "alerts.yml"
            path.write_text(yaml.safe_dump(tests, sort_keys=False))
            self.assertNotEqual(promtool("test", "rules", path).returncode, 0)


class Alerts(unittest.TestCase):
    def test_every_alert_has_cases_and_every_case_an_alert(self):
        names = [alert["alert"] for alert in alerts()]
        self.assertEqual(sorted(names), sorted(FIRING))
        self.assertEqual(sorted(names), sorted(QUIET))
        self.assertLessEqual(set(ALSO_FIRING), set(names))

    def test_every_alert_tells_what_to_do(self):
        for alert in alerts():
            with self.subTest(alert=alert["alert"]):
                self.assertIn(alert["labels"]["severity"], ("critical", "warning"))
                for annotation in ("summary", "description"):
                    self.assertTrue(alert["annotations"][annotation].strip())
                self.assertEqual(alert["annotations"]["runbook_url"], f"{RUNBOOK_LINK}#{alert['alert'].lower()}")

    def test_every_runbook_section_is_there(self):
        sections = re.findall(r"^#+ +(\S+)$", (REPOSITORY / RUNBOOK).read_text(), re.MULTILINE)
        missing = [alert["alert"] for alert in alerts() if alert["alert"] not in sections]
        self.assertEqual(missing, [], f"{RUNBOOK} needs a section '### NAME' for each")

    def test_every_configuration_says_where_the_runbook_is(self):
        for name in ("prometheus.yml", "kubernetes.yml"):
            labels = yaml.safe_load((PROMETHEUS / name).read_text())["global"]["external_labels"]
            self.assertEqual(list(labels), ["runbooks"], name)
        compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]["prometheus"]
        self.assertEqual(compose["environment"], {"RUNBOOKS_URL": "${RUNBOOKS_URL:-" + RUNBOOK + "}"})

    def test_events_that_are_named_are_in_the_code(self):
        code = "".join(path.read_text() for path in sorted((REPOSITORY / "server").rglob("*.cc")))
        told = set(re.findall(r'(?:Debug|Info|Warning|Error)\(\s*(?:\w+ \? )?"(\w+)"', code))
        self.assertIn("lease_expired", told)
        named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", (REPOSITORY / RUNBOOK).read_text()))
        named -= {name for name in named if name.startswith("qamserve_")} | NO_EVENTS
        self.assertLessEqual({"rpc_failed", "generation_failed", "lease_lost"}, named)
        for alert in alerts():
            description = " ".join(alert["annotations"]["description"].split())
            named |= set(re.findall(r"(?:log \(|a line )(\w+_\w+)", description))
        self.assertEqual(named - told, set(), "the log has no such events")

    def test_rules_name_only_metrics_that_there_are(self):
        table = re.findall(r"^\| `(qamserve_\w+)` \| (\w+) \|", (REPOSITORY / "docs/metrics.md").read_text(), re.MULTILINE)
        known = {name for name, _ in table}
        known |= {name + end for name, kind in table if kind == "histogram" for end in ("_bucket", "_sum", "_count")}
        records = {name for name, _ in expressions() if name.startswith("qamserve:")}
        for name, expression in expressions():
            with self.subTest(rule=name):
                self.assertLessEqual(set(re.findall(r"\bqamserve_\w+", expression)), known)
                self.assertLessEqual(set(re.findall(r"\bqamserve:[\w:]+", expression)), records)

    def test_errors_that_are_looked_at_are_those_that_alert(self):
        found = dict(expressions())
        for what in ("store", "blob"):
            shown, alerted = (found[f"qamserve:{what}_errors:increase{time}"] for time in ("5m", "2m"))
            self.assertEqual(shown.replace("[5m]", "[2m]"), alerted)


if __name__ == "__main__":
    if shutil.which("promtool") is None:
        sys.exit(prerequisites.exit_code_without("promtool is not installed (Debian: prometheus)"))
    unittest.main()
