"""Generates, while the package is built, what the repository has in another form: the stubs of proto/ and the codebooks of
core/codec. The rest of the package is described in pyproject.toml."""
import pathlib
import re
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).resolve().parent
# A source distribution carries its own copy (sdist below); in the repository the originals are used.
SOURCES = HERE / "sources" if (HERE / "sources").is_dir() else HERE.parents[1]
PROTO, CODEC = SOURCES / "proto", SOURCES / "core/codec"
FAMILIES = ("joint", "polar", "scalar", "uniform")


def generate_stubs(folder):
    """Writes qamserve/v1/*_pb2*.py and .pyi below `folder`; google.api comes from googleapis-common-protos."""
    import grpc_tools
    from grpc_tools import protoc

    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    protos = sorted(path.relative_to(PROTO).as_posix() for path in (PROTO / "qamserve/v1").glob("*.proto"))
    if not protos:
        raise RuntimeError(f"no .proto files in {PROTO / 'qamserve/v1'}: build from the repository or from its sdist")
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["protoc", f"-I{PROTO}", f"-I{well_known}", f"--python_out={folder}", f"--pyi_out={folder}",
                 f"--grpc_python_out={folder}", *protos]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc failed (see above)")


def numbers_of(text, name):
    """The values of `constexpr ... name[...] = {...};`."""
    match = re.search(rf"\b{name}\[[^\]]*\]\s*=\s*\{{([^;]*)\}};", text)
    if not match:
        raise RuntimeError(f"{name} is not in the codec's sources as expected")
    tokens = re.sub(r"[{}\s]", "", match.group(1)).split(",")
    return [token.rstrip("f") for token in tokens if token]


def codebook_lines(family):
    """One line for each number of bits: (step, magnitudes of the even column, of the odd column)."""
    text = (CODEC / "tables" / f"{family}.h").read_text()
    title = family.capitalize()
    row = re.compile(rf"\{{CodebookKind::k{title}, (\d+), ([0-9.e+-]+)f?, \d+, k{title}X\d+, k{title}Y\d+,")
    rows = row.findall(text)
    if [int(bits) for bits, _ in rows] != list(range(5, 13)):
        raise RuntimeError(f"tables/{family}.h does not list codebooks of 5 to 12 bits as expected")
    for bits, step in rows:
        x, y = (bytes(int(n) for n in numbers_of(text, f"k{title}{axis}{bits}")) for axis in "XY")
        if len(x) != 2 ** (int(bits) - 2) or len(y) != len(x):
            raise RuntimeError(f"tables/{family}.h: a codebook of {bits} bits has {len(x)} and {len(y)} magnitudes")
        yield f"    ({family!r}, {bits}): ({step}, bytes.fromhex({x.hex()!r}), bytes.fromhex({y.hex()!r})),\n"


def generate_codebooks(path):
    steps = numbers_of((CODEC / "trellis.cc").read_text(), "kRates")[0::2]
    header = (CODEC / "trellis.h").read_text()
    multipliers = {name: [int(n, 16) for n in numbers_of(header, f"kTrellis{name}")] for name in "ABC"}
    lines = ['"""Made by setup.py from core/codec; do not edit."""\n',
             "# (family, bits of a pair): step, magnitudes of the even column, of the odd column\n", "CODEBOOKS = {\n"]
    for family in FAMILIES:
        lines += codebook_lines(family)
    lines += ["}\n", f"TRELLIS_STEPS = dict(enumerate(({', '.join(steps)}), start=5))\n"]
    lines += [f"TRELLIS_{name} = {tuple(values)}\n" for name, values in multipliers.items()]
    path.write_text("".join(lines))


class Build(build_py):
    """Also makes the generated files: in the build folder, or beside the sources for an editable install."""

    def run(self):
        super().run()
        target = HERE / "src" if self.editable_mode else pathlib.Path(self.build_lib)
        generate_stubs(target)
        generate_codebooks(target / "qamserve" / "_codebooks.py")


class SourceDistribution(sdist):
    """With a copy of what Build reads."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        sources = pathlib.Path(base_dir) / "sources"
        shutil.copytree(PROTO, sources / "proto", ignore=shutil.ignore_patterns("CMakeLists.txt"))
        (sources / "core/codec").mkdir(parents=True)
        shutil.copytree(CODEC / "tables", sources / "core/codec/tables")
        for name in ("trellis.cc", "trellis.h"):
            shutil.copy2(CODEC / name, sources / "core/codec" / name)


setup(cmdclass={"build_py": Build, "sdist": SourceDistribution})
