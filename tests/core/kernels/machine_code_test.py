"""What nvcc has made of the kernels, as cuobjdump reads it: that they keep what they work on in registers, and that the
kernel which others are compared with has its reads in flight. Needs no GPU.

usage: machine_code_test.py NVCC LIBRARY...
"""
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "support"))
from prerequisites import SKIPPED  # noqa: E402

# Bytes of local memory (a stack frame, which is where registers spill to) that kernels may have; others may have none.
LISTED = [
    (r"PackedKernel<TrellisDecoder<[67]>,[12]>", 16),
    (r"PackedKernel<TrellisDecoder<[567]>,4>", 32),
    (r"PackedKernel<TrellisDecoder<6>,8>", 16),
    (r"PackedWideKernel<TrellisDecoder<(9|10)>>", 16),
]
READS_IN_FLIGHT = 4


def find_cuobjdump(nvcc):
    beside = os.path.join(os.path.dirname(nvcc), "cuobjdump")
    return os.environ.get("CUOBJDUMP") or shutil.which("cuobjdump") or (beside if os.path.exists(beside) else None)


def plain(symbol):
    """PackedKernel<TrellisDecoder<8>,16> of a mangled name, as far as LISTED wants it."""
    name = re.search(r"\d([A-Z][A-Za-z0-9]*?Kernel)", symbol)
    if not name:
        return symbol
    decoder = re.search(r"(TableDecoder|TrellisDecoder)ILi(\d+)E+(?:Li(\d+)E)?", symbol)
    if not decoder:
        return name[1]
    return f"{name[1]}<{decoder[1]}<{decoder[2]}>{',' + decoder[3] if decoder[3] else ''}>"


def local_bytes(text):
    """(architecture, kernel, bytes) of every kernel."""
    arch = symbol = None
    for line in text.splitlines():
        if found := re.search(r"arch = (sm_\w+)", line):
            arch = found[1]
        elif found := re.search(r"Function (\S+):", line):
            symbol = found[1]
        elif found := re.search(r"STACK:(\d+) .*LOCAL:(\d+)", line):
            yield arch, plain(symbol), int(found[1]) + int(found[2])


def check_local_memory(text):
    problems, kernels = [], 0
    for arch, kernel, size in local_bytes(text):
        kernels += 1
        most = max((listed for pattern, listed in LISTED if re.fullmatch(pattern, kernel)), default=0)
        if size > most:
            problems.append(f"{kernel} for {arch} has {size} bytes of local memory; {most} are listed")
    return problems, kernels


def reads_in_flight(code):
    """Most 16-byte reads of memory in a row of which none is used before the last."""
    most, waiting = 0, []
    for line in code:
        used = set()
        if found := re.search(r"LDG\S*\.128\S* R(\d+), (.*);", line):
            first, used = int(found[1]), {int(r) for r in re.findall(r"\bR(\d+)", found[2])}
            target = set(range(first, first + 4))
        else:
            target = set()
            used = {int(r) for r in re.findall(r"\bR(\d+)", line)}
        if any(used & registers for registers in waiting):
            waiting = []
        if target:
            waiting.append(target)
        most = max(most, len(waiting))
    return most


def check_reads(text):
    problems = []
    kernels = re.split(r"Function : ", text)[1:]
    read = [code for code in kernels if plain(code.split()[0]) == "ReadKernel"]
    for code in read:
        lines = [line for line in code.splitlines() if re.match(r"\s+/\*[0-9a-f]{4,}\*/\s", line)]
        if (count := reads_in_flight(lines)) < READS_IN_FLIGHT:
            problems.append(f"ReadKernel has {count} reads in flight, not {READS_IN_FLIGHT}")
    return problems, len(read)


def check_the_checks():
    assert plain("_ZN8qamserve12PackedKernelINS_14TrellisDecoderILi8EEELi16EEEvNS_16PackedMatmulArgsE") == (
        "PackedKernel<TrellisDecoder<8>,16>")
    assert plain("_ZN8qamserve16PackedWideKernelINS_14TrellisDecoderILi9EEEEEvNS_14PackedWideArgsE") == (
        "PackedWideKernel<TrellisDecoder<9>>")
    usage = "arch = sm_90\n Function _ZN1a12SampleKernelEv:\n  REG:64 STACK:8 SHARED:0 LOCAL:0 CONSTANT[0]:528"
    assert check_local_memory(usage) == (["SampleKernel for sm_90 has 8 bytes of local memory; 0 are listed"], 1)
    two = ["LDG.E.EF.128 R8, desc[UR6][R8.64] ;", "IADD3 R4, P0, R6, R21, RZ ;", "LDG.E.EF.128 R16, desc[UR6][R4.64] ;"]
    assert reads_in_flight(two) == 2
    assert reads_in_flight([two[0], "LOP3.LUT R1, R11, R1, RZ ;", two[2]]) == 1


def main(nvcc, libraries):
    check_the_checks()
    cuobjdump = find_cuobjdump(nvcc)
    if not cuobjdump:
        # Wanted of nobody, CI included: what builds the kernels need not have the rest of the toolkit.
        print("skipped: there is no cuobjdump, neither on the PATH nor beside nvcc nor named by CUOBJDUMP; it comes with "
              "the CUDA toolkit and as nvidia-cuda-cuobjdump on PyPI")
        return SKIPPED
    problems, kernels, reads = [], 0, 0
    for library in libraries:
        def dump(option):
            return subprocess.run([cuobjdump, option, library], check=True, capture_output=True, text=True).stdout
        found, count = check_local_memory(dump("--dump-resource-usage"))
        problems += [f"{os.path.basename(library)}: {problem}" for problem in found]
        kernels += count
        if "gpu_measure" in library:
            found, count = check_reads(dump("--dump-sass"))
            problems += found
            reads += count
    if kernels == 0 or reads == 0:
        problems.append(f"found {kernels} kernels, {reads} of which read: this test no longer finds what it checks")
    print("\n".join(problems) or f"{kernels} kernels")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
