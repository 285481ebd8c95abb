"""Where things are, how programs are run, and what a figure is signed with: machine, compiler, peer, commit, date."""
import datetime
import functools
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Vector instructions that decide which kernels run.
NOTABLE_FLAGS = ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx_vnni",
                 "amx_int8", "asimd", "asimddp", "sve"]


class Unmeasurable(Exception):
    """A figure cannot be measured here; the message says why."""


def describe_hardware(cpu, cores, memory_bytes, flags):
    """A machine as rows name it, whoever asked it."""
    isa = " ".join(flag for flag in NOTABLE_FLAGS if flag in flags)
    return f"{cpu}, {cores} cores, {memory_bytes / 2**30:.0f} GiB, {isa}"


def describe_gpu(name, installed, runtime):
    """A GPU that a bench named. `installed`: lines "name, driver" of nvidia-smi; `runtime`: CUDA's, of the build."""
    drivers = {line.rpartition(",")[2].strip() for line in installed if line.startswith(name)}
    return f"{name}, driver {' '.join(sorted(drivers)) or 'unknown'}, CUDA runtime {runtime or 'unknown'}"


class Context:
    def __init__(self, build, cache, threads):
        self.build = pathlib.Path(build).resolve()
        self.cache = pathlib.Path(cache)
        self.threads = threads
        self.work = self.cache / "bench"
        self.work.mkdir(parents=True, exist_ok=True)

    # --- inputs, obtained once ---

    @functools.cached_property
    def wikitext2(self):
        folder = os.environ.get("QAMSERVE_WIKITEXT2")
        command = [sys.executable, str(REPOSITORY / "scripts/fetch_wikitext2.py")]
        command += ["--check-only", folder] if folder else [str(self.cache / "wikitext-2")]
        if subprocess.run(command, check=False).returncode != 0:
            raise Unmeasurable("WikiText-2 is not there: set QAMSERVE_WIKITEXT2 to a folder with wiki.test.raw and "
                               "valid.tokens")
        return pathlib.Path(command[-1])

    @property
    def eval_text(self):
        return self.wikitext2 / "wiki.test.raw"

    @functools.cached_property
    def calibration_text(self):
        """valid.tokens without the words that were taken out of it."""
        path = self.work / "valid.txt"
        path.write_bytes((self.wikitext2 / "valid.tokens").read_bytes().replace(b" <unk>", b""))
        return path

    @functools.lru_cache
    def model(self, name):
        done = subprocess.run([sys.executable, str(REPOSITORY / "scripts/fetch_model.py"), name, "--cache",
                               str(self.cache)], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise Unmeasurable(f"the model {name} could not be obtained")
        return pathlib.Path(done.stdout.splitlines()[-1])

    def build_peer(self, isa):
        script = str(REPOSITORY / "scripts/build_peer.sh")
        done = subprocess.run([script, "--isa", isa], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise Unmeasurable("the peer, llama.cpp, could not be built")
        return pathlib.Path(done.stdout.splitlines()[-1])

    @functools.cached_property
    def peer(self):
        """The folder of the peer's tools, built for all that this CPU has."""
        return self.build_peer("native")

    @functools.cached_property
    def peer_avx2(self):
        """The same built for AVX2, with llama-bench alone."""
        return self.build_peer("avx2")

    @functools.lru_cache
    def peer_model(self, kind, eight_bit_head=False):
        """SmolLM2 as llama.cpp quantizes it: "F16" from the checkpoint's Q4_1, anything else from that F16."""
        path = self.peer_model_path(kind, eight_bit_head)
        if not path.exists():
            if kind != "F16":
                self.peer_model("F16")
            partial = path.with_suffix(".partial")
            self.run(self.peer_model_command(kind, eight_bit_head, partial), quiet=True)
            partial.replace(path)
        return path

    def peer_model_path(self, kind, eight_bit_head=False):
        return self.work / f"smollm2-{kind}{'-head8' if eight_bit_head else ''}.gguf"

    def peer_model_command(self, kind, eight_bit_head, out):
        head = ["--pure", "--token-embedding-type", "q8_0", "--output-tensor-type", "q8_0"] if eight_bit_head else []
        source = self.model("smollm2") if kind == "F16" else self.peer_model_path("F16")
        return [self.peer / "llama-quantize", "--allow-requantize", *head, source, out, kind]

    def show_peer_model(self, kind, eight_bit_head=False):
        """The commands that make a file of peer_model, whether or not it was there already."""
        made = [("F16", False)] + ([] if kind == "F16" else [(kind, eight_bit_head)])
        return " ; ".join(self.show(self.peer_model_command(*one, self.peer_model_path(*one))) for one in made)

    def program(self, path):
        program = self.build / path
        if not program.exists():
            raise Unmeasurable(f"{path} was not built")
        return program

    # --- running ---

    def run(self, command, quiet=False, limit_data_bytes=0, good_statuses=(0,)):
        """Standard output of `command`, or, if `quiet`, output and errors together; Unmeasurable if it fails."""
        command = [str(part) for part in command]
        print(f"      $ {self.show(command)}", flush=True)

        def limit():
            import resource
            resource.setrlimit(resource.RLIMIT_DATA, (limit_data_bytes, limit_data_bytes))

        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT if quiet else None, text=True, errors="replace", check=False,
                              preexec_fn=limit if limit_data_bytes else None)
        if done.returncode not in good_statuses:
            tail = done.stdout[-2000:] if quiet else ""
            raise Unmeasurable(f"{pathlib.Path(command[0]).name} ended with status {done.returncode} {tail}".strip())
        return done.stdout

    def run_json(self, command, **options):
        return json.loads(self.run(command, **options))

    def show(self, command):
        """The command as a reader would type it: folders of this machine by the names that benchmarks.md explains."""
        places = [(self.build, "build"), (self.work, "$WORK"), (self.cache / "models", "$MODELS"), (REPOSITORY, ".")]
        if "wikitext2" in self.__dict__:
            places.append((self.wikitext2, "$QAMSERVE_WIKITEXT2"))
        if "peer" in self.__dict__:
            places.append((self.peer, "$PEER"))
        if "peer_avx2" in self.__dict__:
            places.append((self.peer_avx2, "$PEER_AVX2"))
        parts = []
        for part in command:
            text = str(part)
            for folder, name in sorted(places, key=lambda place: -len(str(place[0]))):
                text = text.replace(str(folder) + os.sep, name + "/")
                if text == str(folder):
                    text = name
            if text == sys.executable:
                text = "python3"
            parts.append(text if text.startswith(("$", "./")) else shlex.quote(text))
        return " ".join(parts)

    # --- the signature of a figure ---

    @functools.cached_property
    def cpu_flags(self):
        flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return set(flags.group(1).split()) if flags else set()

    @functools.cached_property
    def machine(self):
        """The hardware, and after a semicolon what our programs were compiled with."""
        return f"{self.hardware}; {self.compiler}"

    @functools.cached_property
    def compiler(self):
        name, version = (self.build_setting("CXX", f"CMAKE_CXX_COMPILER_{what}") for what in ("ID", "VERSION"))
        return f"compiler {name} {version}" if name else "compiler unknown"

    def build_setting(self, language, name):
        """What CMake found out about a compiler of our build; "" where there is no such build."""
        for path in self.build.glob(f"CMakeFiles/*/CMake{language}Compiler.cmake"):
            if found := re.search(rf'^set\({name} "([^"]+)"\)', path.read_text(), re.MULTILINE):
                return found.group(1)
        return ""

    @functools.lru_cache
    def gpu(self, name):
        """A GPU that a bench named, with its driver and the CUDA runtime that our programs were built with."""
        try:
            done = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
            installed = done.stdout.splitlines()
        except (OSError, subprocess.CalledProcessError):
            installed = []
        return describe_gpu(name, installed, self.cuda_runtime)

    @property
    def cuda_runtime(self):
        return self.build_setting("CUDA", "CMAKE_CUDA_COMPILER_TOOLKIT_VERSION")

    @functools.cached_property
    def peer_version(self):
        """The release whose sources lie where the peer's tools were built (scripts/build_peer.sh)."""
        found = sorted((self.peer.parents[1] / "download").glob("llama_cpp_python-*.tar.gz"))
        release = found[-1].name.removeprefix("llama_cpp_python-").removesuffix(".tar.gz") if found else "of unknown version"
        return f"llama-cpp-python {release}"

    def of_peer(self, text):
        """What is said of llama.cpp in a row, with its version."""
        return f"{text}; {self.peer_version}"

    @functools.cached_property
    def hardware(self):
        text = pathlib.Path("/proc/cpuinfo").read_text()
        model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        name = model.group(1).strip() if model else platform.machine()
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return describe_hardware(name, os.cpu_count(), memory_bytes, self.cpu_flags)

    @functools.cached_property
    def commit(self):
        def git(*arguments):
            done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
            return done.stdout.strip() if done.returncode == 0 else ""

        commit = git("rev-parse", "--short=12", "HEAD")
        # The results themselves may be uncommitted: they are what is being written.
        changed = git("status", "--porcelain", "--", ".", ":!docs/benchmarks.json", ":!docs/benchmarks.md")
        return (commit or "none") + ("+changes" if changed else "")

    @functools.cached_property
    def date(self):
        return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
