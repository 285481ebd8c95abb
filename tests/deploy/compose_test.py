#!/usr/bin/env python3
"""Checks docker-compose.yml and what it mounts, deploy/docker/make_env.sh and the Dockerfile. No container is started.

usage: compose_test.py [BUILD]     run by tests/python/environment.py, with what requirements.txt names
"""
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import unittest

import yaml

import deploy_support as support

BUILD = support.build_folder()
OURS = ("api", "worker", "inference")
STORES = {"postgres", "s3"}
# What Compose's specification allows on a service, of which we use some.
SERVICE_KEYS = {"build", "cap_drop", "command", "cpu_shares", "depends_on", "deploy", "entrypoint", "environment",
                "healthcheck", "image", "logging", "networks", "ports", "read_only", "restart", "security_opt",
                "shm_size", "stop_grace_period", "tmpfs", "volumes"}


def seconds(text):
    return {"s": 1, "m": 60}[text[-1]] * int(text[:-1])


class Compose(unittest.TestCase):
    """The file as podman-compose reads it, with the secrets that make_env.sh makes."""

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temporary.name)
        # podman-compose asks for podman's version before it does anything, and `config` needs no more of it.
        cls.path = os.environ["PATH"]
        if shutil.which("podman") is None:
            program = cls.folder / "podman"
            program.write_text("#!/bin/sh\necho podman version 4.3.1\n", encoding="utf-8")
            program.chmod(0o755)
            cls.path = f"{cls.folder}:{cls.path}"
        cls.env_file = cls.folder / "env"
        subprocess.run([support.REPOSITORY / "deploy/docker/make_env.sh", cls.env_file], check=True,
                       stdout=subprocess.DEVNULL)
        done = cls.config(cls.env_file)
        assert done.returncode == 0, done.stderr
        cls.file = yaml.safe_load(done.stdout)
        cls.services = cls.file["services"]
        cls.raw = yaml.safe_load(support.read("docker-compose.yml"))

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    @classmethod
    def config(cls, env_file):
        program = pathlib.Path(sys.executable).with_name("podman-compose")
        return subprocess.run([program, "--env-file", env_file, "-f", support.REPOSITORY / "docker-compose.yml", "config"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              check=False, env={"PATH": cls.path, "HOME": str(cls.folder)})

    def environment(self, service):
        return {name: str(value) for name, value in self.services[service]["environment"].items()}

    def test_without_secrets_nothing_starts_and_the_way_out_is_named(self):
        done = self.config("/dev/null")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("deploy/docker/make_env.sh", done.stderr)
        for name in re.findall(r"^([A-Z0-9_]+)=.+$", self.env_file.read_text(encoding="utf-8"), re.MULTILINE):
            without = self.folder / "without"
            without.write_text(re.sub(f"^{name}=.*$", f"{name}=", self.env_file.read_text(encoding="utf-8"),
                                      flags=re.MULTILINE), encoding="utf-8")
            done = self.config(without)
            self.assertNotEqual(done.returncode, 0, name)
            self.assertIn(name, done.stderr)

    def test_no_secret_stands_in_the_file(self):
        for service, content in self.raw["services"].items():
            for name, value in content.get("environment", {}).items():
                if re.search("PASSWORD|SECRET|ACCESS_KEY|ADMIN_KEY", name):
                    self.assertRegex(value, r"^\$\{[A-Z0-9_]+:\?", f"{service} {name}")
        self.assertNotRegex(support.read("deploy/docker/example.env"), r"(?m)^[A-Z0-9_]*(PASSWORD|KEY)=.")

    def test_everything_is_there(self):
        self.assertEqual(set(self.services), {*OURS, *STORES, "bucket", "prometheus", "grafana"})
        self.assertEqual(self.services["worker"]["deploy"]["replicas"], 2)
        for service, content in self.services.items():
            self.assertLessEqual(set(content), SERVICE_KEYS, service)

    def test_only_loopback_is_published(self):
        published = {service: content["ports"] for service, content in self.services.items() if "ports" in content}
        self.assertEqual(set(published), {"api", "grafana"})
        for ports in published.values():
            for port in ports:
                self.assertTrue(port.startswith("127.0.0.1:"), port)
        self.assertEqual({port.rpartition(":")[2] for port in published["api"]}, {"50051", "8080"})

    def test_only_what_is_published_has_a_way_out(self):
        self.assertIs(self.file["networks"]["inner"]["internal"], True)
        for service, content in self.services.items():
            self.assertEqual("outer" in content["networks"], "ports" in content, service)
            self.assertIn("inner", content["networks"])

    def test_containers_are_bounded_and_come_back(self):
        for service, content in self.services.items():
            self.assertIn("memory", content["deploy"]["resources"]["limits"], service)
            self.assertEqual(content["restart"], "on-failure" if service == "bucket" else "unless-stopped", service)
            self.assertEqual(content["logging"]["options"]["max-file"], "3", service)
            self.assertNotRegex(content["image"], r"^[^:]+$|:latest$", service)
            if service != "bucket":
                self.assertIn("no-new-privileges:true", content["security_opt"], service)

    def test_ours_may_write_to_data_and_tmp_alone(self):
        for service in OURS:
            content = self.services[service]
            self.assertIs(content["read_only"], True)
            self.assertEqual(content["cap_drop"], ["ALL"])
            self.assertEqual(content["tmpfs"], ["/tmp"])
            self.assertEqual(content["volumes"], ["/data"])
            self.assertNotIn("user", content)  # that of the image
            # 30 seconds is the default of --drain-seconds, which nothing here changes.
            self.assertGreaterEqual(seconds(content["stop_grace_period"]), 40)

    def test_what_is_waited_for_can_be(self):
        for service, content in self.services.items():
            for other, how in content.get("depends_on", {}).items():
                if how["condition"] == "service_healthy":
                    self.assertIn("healthcheck", self.services[other], f"{service} waits for {other}")
                else:
                    self.assertEqual(how["condition"], "service_completed_successfully")
                    self.assertEqual(self.services[other]["restart"], "on-failure")
            if service != "bucket":
                self.assertIn("test", content["healthcheck"], service)
        for service in OURS:
            self.assertEqual(set(self.services[service]["depends_on"]), {"postgres", "bucket"})
            self.assertEqual(self.services[service]["healthcheck"]["test"],
                             ["CMD", "qamctl", "probe", f"http://127.0.0.1:{support.PORTS['metrics']}/readyz"])

    def test_options_are_those_of_qamserve(self):
        for service in OURS:
            self.assertEqual(support.why_options_are_refused(BUILD, self.services[service]["command"],
                                                             self.environment(service)), "", service)
            self.assertIn(f"--roles={service}", self.services[service]["command"])

    def test_stores_are_where_they_are_looked_for(self):
        for service in OURS:
            environment = self.environment(service)
            self.assertRegex(environment["QAMSERVE_METADATA_STORE"], r"^postgresql://qamserve@postgres:5432/qamserve$")
            self.assertEqual(environment["QAMSERVE_S3_ENDPOINT"], "http://s3:8333")
            self.assertIn("-s3.port=8333", self.services["s3"]["command"])
            self.assertEqual(environment["PGPASSWORD"], self.environment("postgres")["POSTGRES_PASSWORD"])
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                self.assertEqual(environment[name], self.environment("s3")[name])
            self.assertEqual(environment["QAMSERVE_BLOB_STORE"], "s3://" + self.environment("bucket")["BUCKET"])

    def test_what_is_mounted_is_there(self):
        for service, content in self.raw["services"].items():
            for volume in content.get("volumes", []):
                source = volume.split(":")[0]
                if source.startswith("./"):
                    self.assertTrue((support.REPOSITORY / source).is_dir(), f"{service}: {source}")
                    self.assertTrue(volume.endswith(":ro"), volume)
                elif not source.startswith("/"):
                    self.assertIn(source, self.raw["volumes"], service)

    def test_prometheus_scrapes_every_role(self):
        text = support.read("deploy/prometheus/prometheus.yml")
        for service in OURS:
            self.assertRegex(text, rf"\b{service}\b", f"deploy/prometheus/prometheus.yml does not name {service}")
        self.assertIn(str(support.PORTS["metrics"]), text)


class MakeEnv(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.file = pathlib.Path(self.temporary.name) / "env"

    def tearDown(self):
        self.temporary.cleanup()

    def make(self):
        return subprocess.run([support.REPOSITORY / "deploy/docker/make_env.sh", self.file], check=True,
                              stdout=subprocess.PIPE, text=True).stdout

    def values(self):
        return dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", self.file.read_text(encoding="utf-8"), re.MULTILINE))

    def test_secrets_are_made_once_and_for_this_user_alone(self):
        said = self.make()
        first = self.values()
        self.assertEqual(set(first), {"POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "QAMSERVE_ADMIN_KEY",
                                      "GRAFANA_ADMIN_PASSWORD"})
        for name, value in first.items():
            self.assertRegex(value, "^[0-9a-f]{20}$" if name == "S3_ACCESS_KEY" else "^[0-9a-f]{48}$")
            self.assertNotIn(value, said)
        self.assertEqual(len(set(first.values())), len(first))
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o600)
        self.make()
        self.assertEqual(self.values(), first)

    def test_what_somebody_wrote_stays(self):
        self.file.write_text("POSTGRES_PASSWORD=mine\nHTTP_PORT=18080\nS3_SECRET_KEY=\n", encoding="utf-8")
        self.make()
        values = self.values()
        self.assertEqual((values["POSTGRES_PASSWORD"], values["HTTP_PORT"]), ("mine", "18080"))
        self.assertRegex(values["S3_SECRET_KEY"], "^[0-9a-f]{48}$")
        self.assertEqual(len(values), 6)


class RunUp(unittest.TestCase):
    """./run up in a copy of the tree, with a program that writes down how it was called in place of compose."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.tree = pathlib.Path(temporary.name) / "tree"
        for folder in ("deploy/docker", "scripts"):
            shutil.copytree(support.REPOSITORY / folder, self.tree / folder)
        shutil.copy(support.REPOSITORY / "run", self.tree)
        self.program = pathlib.Path(temporary.name) / "compose"
        self.program.write_text('#!/bin/sh\nls .env && echo "compose $*"\n', encoding="utf-8")
        self.program.chmod(0o755)

    def run_it(self, *arguments):
        return subprocess.run([self.tree / "run", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False,
                              env={**os.environ, "QAMSERVE_COMPOSE": str(self.program)})

    def test_one_command_makes_secrets_and_starts(self):
        done = self.run_it("up", "--scale", "worker=4")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("compose up --build -d --scale worker=4", done.stdout)
        first = (self.tree / ".env").read_text(encoding="utf-8")
        self.assertRegex(first, r"(?m)^QAMSERVE_ADMIN_KEY=[0-9a-f]{48}$")
        for secret in re.findall(r"(?m)^[A-Z0-9_]+=([0-9a-f]{20,})$", first):
            self.assertNotIn(secret, done.stdout)
        self.assertEqual(self.run_it("up").returncode, 0)
        self.assertEqual((self.tree / ".env").read_text(encoding="utf-8"), first)
        self.assertIn("compose down --volumes", self.run_it("down", "--volumes").stdout)

    def test_what_compose_says_is_its_own_end(self):
        self.program.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
        before = self.run_it("down")
        self.assertNotEqual(before.returncode, 0)
        self.assertIn("there is no .env", before.stdout)
        self.assertNotEqual(self.run_it("up").returncode, 0)


class Image(unittest.TestCase):
    def setUp(self):
        text = re.sub(r"(?m)^#.*\n", "", support.read("deploy/docker/Dockerfile"))
        text = re.sub(r"\\\n", " ", text)
        # Stage -> its lines, those of the stages that it is made from first.
        self.stages = {}
        for part in re.split(r"(?m)^(?=FROM )", text)[1:]:
            base, name = re.match(r"FROM (\S+) AS (\S+)", part).groups()
            self.stages[name] = self.stages.get(base, "") + part

    def test_both_targets_run_as_nobody_in_particular(self):
        for name in ("cpu", "cuda"):
            lines = [line for line in self.stages[name].splitlines() if re.match("[A-Z]+ ", line)]
            users = [line for line in lines if line.startswith("USER ")]
            self.assertEqual((users[-1:], lines[-1]), (["USER 10001:10001"], "USER 10001:10001"), name)
            for word in ("ENTRYPOINT", "HEALTHCHECK", "VOLUME", "EXPOSE 50051 8080 9090", "org.opencontainers.image.version"):
                self.assertIn(word, self.stages[name], name)

    def test_what_compiles_stays_behind(self):
        for name in ("cpu", "cuda"):
            for word in ("common.sh", "pip ", "cmake", "COPY . "):
                self.assertNotIn(word, self.stages[name], name)
            self.assertIn(f"COPY --from=build-{name} /out/bin/ /usr/local/bin/", self.stages[name])
            self.assertIn("--no-install-recommends", self.stages[name])

    def test_the_context_has_what_the_build_reads_and_no_more(self):
        lines = support.read(".dockerignore").splitlines()
        self.assertIn("*", lines)
        let_in = {line[1:] for line in lines if line.startswith("!")}
        needed = set(re.findall(r"add_subdirectory\((\w+)\)", support.read("CMakeLists.txt"))) - {"tests"}
        self.assertLessEqual(needed | {"CMakeLists.txt", "cmake", "scripts", "deploy/docker/build.sh"}, let_in)
        self.assertFalse(let_in & {".git", ".env", "build", "tests", "docs"})
        for path in let_in:
            self.assertTrue((support.REPOSITORY / path).exists(), path)

    def test_packages_of_the_build_are_those_of_the_project(self):
        self.assertIn('source common.sh', self.stages["packages"])
        self.assertIn('"${PACKAGES[@]}"', self.stages["packages"])

    def test_variables_are_those_of_qamserve(self):
        found = set(re.findall(r"\b(QAMSERVE_[A-Z_]+)=", self.stages["cuda"]))
        self.assertEqual(found, {"QAMSERVE_DATA_DIR", "QAMSERVE_LISTEN", "QAMSERVE_HTTP_LISTEN", "QAMSERVE_METRICS_LISTEN"})
        self.assertLessEqual(found, support.server_flags(BUILD)[1])

    def test_a_container_on_its_own_says_why_it_does_not_open_its_ports(self):
        variables = dict(re.findall(r"\b(QAMSERVE_[A-Z_]+)=(\S+)", self.stages["cpu"]))
        refused = support.why_options_are_refused(BUILD, [], variables)
        self.assertIn("--insecure-allow-remote", refused)
        variables["QAMSERVE_INSECURE_ALLOW_REMOTE"] = "true"
        self.assertEqual(support.why_options_are_refused(BUILD, [], variables), "")

    def test_the_health_check_is_a_command_of_the_image(self):
        check = re.search(r'HEALTHCHECK .*CMD \["qamctl", "probe", "http://127\.0\.0\.1:(\d+)(/\w+)"\]', self.stages["cpu"])
        self.assertEqual((int(check.group(1)), check.group(2)), (support.PORTS["metrics"], "/livez"))
        help_text = subprocess.run([BUILD / "client/qamctl", "probe", "--help"], stdout=subprocess.PIPE, text=True,
                                   check=True).stdout
        self.assertIn("http://HOST[:PORT]/PATH", help_text)  # that of the command, not that of qamctl

    def test_scripts_are_scripts(self):
        for path in sorted((support.REPOSITORY / "deploy").rglob("*.sh")):
            self.assertTrue(os.access(path, os.X_OK), path)
            self.assertEqual(subprocess.run(["bash", "-n", path], check=False).returncode, 0, path)


if __name__ == "__main__":
    unittest.main()
