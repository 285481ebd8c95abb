"""What tests of deploy/ share: the tree, what qamserve and its metrics are called, rendered manifests."""
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/support"))
import prerequisites  # noqa: E402

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
KUBERNETES = REPOSITORY / "deploy/kubernetes"
OVERLAYS = ("embedded", "fleet", "gpu")
# Of the ports that the image listens on, as manifests name them.
PORTS = {"grpc": 50051, "http": 8080, "metrics": 9090}
# Not flags: read by the server or by libpq from the environment alone.
OTHER_VARIABLES = {"QAMSERVE_ADMIN_KEY", "PGPASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
                   "HF_TOKEN", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}
UNDERSTOOD = 1  # qamserve's exit code where it understood its options and could not start; 2: it did not understand them


def build_folder():
    """The first argument of the program, else build/. Taken away, since unittest reads arguments, too."""
    return pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "build").resolve()


def read(path):
    return (REPOSITORY / path).read_text(encoding="utf-8")


def version():
    return re.search(r"project\(qamserve VERSION (\S+)", read("CMakeLists.txt")).group(1)


@functools.lru_cache
def server_flags(build):
    """Names of flags, without dashes, and of their variables, as `qamserve --help` tells them."""
    help_text = subprocess.run([build / "server/qamserve", "--help"], check=True, stdout=subprocess.PIPE, text=True).stdout
    flags, variables = set(re.findall(r"--([a-z0-9-]+)", help_text)), set(re.findall(r"\[(QAMSERVE_[A-Z0-9_]+)\]", help_text))
    assert "listen" in flags and "QAMSERVE_LISTEN" in variables, help_text
    return flags, variables


def why_options_are_refused(build, arguments, environment):
    """What qamserve says of options that it does not take; "" if it takes them. The server does not start: its data folder
    is one that nobody can make."""
    flags, variables = server_flags(build)
    for argument in arguments:
        if not argument.startswith("--") or argument[2:].split("=")[0] not in flags:
            return f"{argument} is no flag of qamserve"
    for name in environment:
        if name not in variables and name not in OTHER_VARIABLES:
            return f"{name} is no variable that qamserve reads"
    done = subprocess.run([build / "server/qamserve", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, check=False,
                          env={"PATH": os.environ["PATH"], **environment, "QAMSERVE_DATA_DIR": "/proc/qamserve"})
    return "" if done.returncode == UNDERSTOOD else f"exit code {done.returncode}: {done.stderr}"


@functools.lru_cache
def documented_metrics():
    """Metric name -> names of its labels, from docs/metrics.md."""
    rows = re.findall(r"^\| `(qamserve_\w+)` \| \w+ \| ([^|]*) \|", read("docs/metrics.md"), re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def metrics_problems(query):
    """What in a PromQL expression is in no table of docs/metrics.md."""
    known, problems = documented_metrics(), []
    for name, matchers in re.findall(r"(qamserve_\w+)(?:\{([^}]*)\})?", query):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if name not in known and base not in known:
            problems.append(f"{name} is not in docs/metrics.md")
            continue
        labels = known.get(name, known.get(base, set())) | {"namespace", "pod", "instance", "job", "le"}
        problems += [f"{name} has no label {label}" for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
                     if label not in labels]
    return problems


def kubectl():
    """A kubectl whose kustomize knows components and patches (5, that of kubectl 1.27 and later); else None and why. The one
    that scripts/fetch_kubectl.sh gets, unless QAMSERVE_KUBECTL names another; else the system's."""
    given = os.environ.get("QAMSERVE_KUBECTL")
    program = shutil.which(given or str(CACHE / "qamserve/kubectl-1.32/kubectl")) or (not given and shutil.which("kubectl"))
    if not program:
        return None, "there is no kubectl: scripts/fetch_kubectl.sh gets it"
    text = subprocess.run([program, "version", "--client"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False).stdout
    found = re.search(r"Kustomize Version: v(\d+)", text)
    if found is None or int(found.group(1)) < 5:
        return None, f"{program} is too old: it has no kustomize 5"
    return program, ""


def skip_without_kubectl():
    """Ends a test, or in setUpClass those of a class."""
    prerequisites.skip_without(kubectl()[1])


@functools.lru_cache
def render(folder):
    """The manifests that a folder stands for, as kubectl applies them."""
    program, why = kubectl()
    assert program, why
    done = subprocess.run([program, "kustomize", str(folder)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, f"{folder}: {done.stderr}"
    return [document for document in yaml.safe_load_all(done.stdout) if document]
