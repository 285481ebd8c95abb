"""Reads the folder of a downloaded artifact: its weights as floats in the basis of the checkpoint, whatever codec holds
them. Needs numpy and no server. The format is docs/artifact_format.md of the project; the C++ reader is
core/model/dequantize.cc, which this does not share code with.

    for name, weight in ArtifactReader("smollm2-5.5").items():
        print(name, weight.shape)
"""
from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np

from . import _rotation, _unpack
from ._files import PathLike

FORMAT_VERSION = 2
_MAX_HEADER_BYTES = 100_000_000
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1"}
# Which layers share an input, and so a channel scale.
_GROUPS = {"self_attn.q_proj": "self_attn.qkv", "self_attn.k_proj": "self_attn.qkv", "self_attn.v_proj": "self_attn.qkv",
           "self_attn.o_proj": "self_attn.o", "mlp.gate_proj": "mlp.gate_up", "mlp.up_proj": "mlp.gate_up",
           "mlp.down_proj": "mlp.down"}
_LAYER = re.compile(r"(model\.layers\.\d+\.)(.+)")


class ArtifactError(ValueError):
    """The folder is no artifact, is damaged, or was made by a later version. The message names file and tensor."""


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A tensor of a safetensors file: where its bytes lie in it."""
    dtype: str
    shape: Tuple[int, ...]
    begin: int
    end: int


def _read_header(path: pathlib.Path) -> Dict[str, TensorInfo]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
            raise ArtifactError(f"{path}: the header claims {length} bytes of a file of {size}")
        text = file.read(length)
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        infos = {name: TensorInfo(entry["dtype"], tuple(int(n) for n in entry["shape"]),
                                  8 + length + int(entry["data_offsets"][0]), 8 + length + int(entry["data_offsets"][1]))
                 for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path}: the header is not that of a safetensors file: {error}") from error
    for name, info in infos.items():
        item = np.dtype(_DTYPES.get(info.dtype, "u1")).itemsize
        wanted = int(np.prod(info.shape, dtype=np.object_)) * item if info.shape else item
        if min(info.shape, default=0) < 0 or not 8 + length <= info.begin <= info.end <= size or (
                info.dtype in _DTYPES and info.end - info.begin != wanted):
            raise ArtifactError(f"{path}: tensor {name} ({info.dtype} {list(info.shape)}) has bytes {info.begin} to "
                                f"{info.end} of a file of {size}")
    return infos


class ArtifactReader:
    """An artifact's folder, opened and checked as far as its header goes. Weights are mapped and dequantized one by one as
    they are asked for. Not thread-safe."""

    def __init__(self, folder: PathLike):
        self.folder = pathlib.Path(folder)
        try:
            self.config: Dict[str, Any] = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            self._quantization: Dict[str, Any] = self.config["quantization_config"]
            if self._quantization["quant_method"] != "qamw" or int(self._quantization["version"]) > FORMAT_VERSION:
                raise ArtifactError(f"{self.folder}: quantization_config is {self._quantization['quant_method']!r}, version "
                                    f"{self._quantization['version']}; this reads 'qamw' up to version {FORMAT_VERSION}")
            self._default = (str(self._quantization["codec"]), int(self._quantization["pair_bits"]))
            self._formats = {name: (str(entry["codec"]), int(entry["pair_bits"]))
                             for name, entry in self._quantization.get("tensors", {}).items()}
            self._rotation_kind = str(self._quantization["rotation"])
            self._seed = int(self._quantization["rotation_seed"])
            self._scaled = bool(self._quantization["channel_scale"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"{self.folder}: config.json is not that of an artifact: {error!r}") from error
        self._path = self.folder / "model.safetensors"
        if not self._path.is_file():
            raise ArtifactError(f"{self._path} is not there")
        self._infos = _read_header(self._path)
        self._bytes = np.memmap(self._path, np.uint8, "r")
        self._rotations: Dict[int, _rotation.Rotation] = {}

    def names(self) -> List[str]:
        """The tensors as the checkpoint named them: "model.layers.0.self_attn.q_proj.weight", ..."""
        names = []
        for name in self._infos:
            layer, _, kind = name.rpartition(".")
            if kind == "codes":
                names.append(layer + ".weight")
            elif kind not in ("row_norm", "channel_scale"):
                names.append(name)
        return names

    def __getitem__(self, name: str) -> "np.ndarray":
        """A tensor as float32. KeyError if there is none of the name."""
        layer = name[:-len(".weight")] if name.endswith(".weight") else ""
        if name in self._infos:
            return self._plain(name)
        if layer + ".codes" not in self._infos:
            raise KeyError(name)
        return self._dequantized(layer)

    def items(self) -> Iterator[Tuple[str, "np.ndarray"]]:
        """Every tensor; one at a time is in memory."""
        for name in self.names():
            yield name, self[name]

    def format_of(self, name: str) -> Tuple[str, int]:
        """Codec and bits of a pair of weights of a quantized tensor."""
        return self._formats.get(name[:-len(".weight")] if name.endswith(".weight") else name, self._default)

    def hf_config(self) -> Dict[str, Any]:
        """config.json without what says that the weights are quantized."""
        return {key: value for key, value in self.config.items() if key != "quantization_config"}

    def _plain(self, name: str) -> "np.ndarray":
        info = self._infos[name]
        if info.dtype not in _DTYPES:
            raise ArtifactError(f"{self._path}: tensor {name} is {info.dtype}; F32, F16, BF16 or U8 is expected")
        values = self._bytes[info.begin:info.end].view(_DTYPES[info.dtype]).reshape(info.shape)
        if info.dtype == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32)

    def _part(self, name: str, dtype: str) -> "np.ndarray":
        info = self._infos.get(name)
        if info is None or info.dtype != dtype:
            raise ArtifactError(f"{self._path}: tensor {name} is {'missing' if info is None else info.dtype}; {dtype} is "
                                "expected")
        return self._bytes[info.begin:info.end].view(_DTYPES[dtype])

    def _dequantized(self, layer: str) -> "np.ndarray":
        norms = self._part(layer + ".row_norm", "F16").astype(np.float32)
        group = _group_of(layer)
        scale = self._part(group + ".channel_scale", "F16").astype(np.float32) if self._scaled and group else None
        cols = len(scale) if scale is not None else self._cols_of(layer)
        codec, pair_bits = self.format_of(layer)
        try:
            weight = _unpack.normalized(codec, pair_bits, self._part(layer + ".codes", "U8"), len(norms), cols)
        except ValueError as error:
            raise ArtifactError(f"{self._path}: tensor {layer}: {error}") from error
        weight *= norms[:, None]
        self._rotation(cols).apply_inverse(weight)
        if scale is not None:
            weight /= scale[None, :]
        if not np.isfinite(weight).all():
            raise ArtifactError(f"{self._path}: tensor {layer} has values that are not finite")
        return weight

    def _rotation(self, cols: int) -> "_rotation.Rotation":
        if cols not in self._rotations:
            self._rotations[cols] = _rotation.Rotation(cols, self._rotation_kind, self._seed)
        return self._rotations[cols]

    def _cols_of(self, layer: str) -> int:
        """Input dimension: codes alone tell it only up to the padding."""
        try:
            hidden, intermediate = int(self.config["hidden_size"]), int(self.config["intermediate_size"])
            heads = int(self.config["num_attention_heads"])
            head_dim = int(self.config.get("head_dim") or hidden // heads)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ArtifactError(f"{self.folder}: config.json has no dimensions: {error!r}") from error
        if layer.endswith("mlp.down_proj"):
            return intermediate
        return heads * head_dim if layer.endswith("self_attn.o_proj") else hidden


def _group_of(layer: str) -> str:
    """The input group of a linear layer; "" of embeddings, which have no channel scale."""
    match = _LAYER.fullmatch(layer)
    return match.group(1) + _GROUPS[match.group(2)] if match and match.group(2) in _GROUPS else ""
