"""Control groups of Linux, which hold processes to a part of a core or to so much memory."""
import os
import pathlib

from context import Unmeasurable

ROOT = pathlib.Path("/sys/fs/cgroup")


class ControlGroup:
    """A group under one controller, made and removed in a with statement; Unmeasurable where this machine lets us make none.

    `first` and `second` are the settings, value by file, of version 1 and 2 of control groups. A setting whose name begins
    with "?" is left out where the kernel does not have it.
    """

    def __init__(self, controller, first, second):
        self.controller = controller
        self.version = 1 if (ROOT / controller).is_dir() else 2
        self.settings = first if self.version == 1 else second
        self.home = (ROOT / controller if self.version == 1 else ROOT) / f"qamserve-bench-{os.getpid()}-{id(self)}"

    def __enter__(self):
        try:
            self.home.mkdir()
            if self.version == 2 and self.controller not in (self.home / "cgroup.controllers").read_text().split():
                (ROOT / "cgroup.subtree_control").write_text(f"+{self.controller}")
            for name, value in self.settings.items():
                path = self.home / name.removeprefix("?")
                if path.exists() or not name.startswith("?"):
                    path.write_text(str(value))
        except OSError as error:
            self.__exit__()
            raise Unmeasurable(f"no control group of {self.controller} can be made: {error}") from None
        return self

    def add(self, pid):
        (self.home / "cgroup.procs").write_text(str(pid))

    def describe(self):
        return f"control group v{self.version}"

    def __exit__(self, *_):
        try:
            self.home.rmdir()
        except OSError:
            pass  # a process is ending in it still; an empty group is no harm


def cpu_limit(cores, period_us=100_000):
    """Processes together get a part of a core; where the machine has too few for all workers, a worker is that much smaller
    instead."""
    quota = int(period_us * cores)
    return ControlGroup("cpu", {"cpu.cfs_quota_us": quota}, {"cpu.max": f"{quota} {period_us}"})


def memory_limit(limit_bytes):
    """Processes together get so much memory and no swap; the kernel kills one that needs more."""
    return ControlGroup("memory", {"memory.limit_in_bytes": limit_bytes, "?memory.memsw.limit_in_bytes": limit_bytes},
                        {"memory.max": limit_bytes, "?memory.swap.max": 0})
