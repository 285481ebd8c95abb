"""Which files on this machine make up a model or a text, and their digests. The same choice as qamctl makes."""
from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Callable, List, Optional, Set, Union

import grpc

from .errors import QamserveError, local_error

PathLike = Union[str, "os.PathLike[str]"]
_INDEX = "model.safetensors.index.json"
_SIDE_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
               "special_tokens_map.json", "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja",
               "chat_template.json")
_HASH_BYTES = 1 << 20
MAX_FILES = 4096  # what CreateUpload takes


@dataclasses.dataclass
class LocalFile:
    """A file to send: on disk, or (`content`) in memory."""
    name: str  # in the upload: no folder
    path: pathlib.Path
    size: int
    content: Optional[bytes] = None
    sha256: str = ""
    modified_ns: int = 0

    def read(self, offset: int, size: int) -> bytes:
        if self.content is not None:
            return self.content[offset:offset + size]
        with open(self.path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise _invalid("UPLOAD_FILE_CHANGED", f"{self.path} became shorter while it was sent")
        return data

    def hash(self, on_bytes: Callable[[int], None]) -> None:
        """Sets sha256; `on_bytes` gets how many bytes each block had, and stops the work by raising."""
        digest = hashlib.sha256()
        if self.content is not None:
            digest.update(self.content)
            on_bytes(self.size)
        else:
            self.modified_ns = os.stat(self.path).st_mtime_ns
            left = self.size
            with open(self.path, "rb") as file:
                while left > 0 and (block := file.read(min(left, _HASH_BYTES))):
                    digest.update(block)
                    left -= len(block)
                    on_bytes(len(block))
        self.sha256 = digest.hexdigest()

    def changed(self) -> bool:
        """Whether it differs from what hash() read."""
        if self.content is not None:
            return False
        before = self.sha256
        stat = os.stat(self.path)
        if stat.st_size != self.size or stat.st_mtime_ns != self.modified_ns:
            return True
        # Modification times have ticks: a change within one shows in the bytes alone.
        again = dataclasses.replace(self)
        again.hash(lambda _: None)
        return again.sha256 != before


def _invalid(reason: str, message: str) -> QamserveError:
    return local_error(grpc.StatusCode.INVALID_ARGUMENT, reason, message)


def _describe(path: pathlib.Path, name: str) -> LocalFile:
    if not path.is_file():
        raise local_error(grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND", f"{path} is not a file that can be read")
    size = path.stat().st_size
    if size == 0:
        raise _invalid("UPLOAD_FILE_EMPTY", f"{path} is empty")
    return LocalFile(name, path, size)


def _shards_of_index(path: pathlib.Path) -> Set[str]:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shards = set(weight_map.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _invalid("UPLOAD_INDEX_INVALID", f'{path} is not JSON with an object "weight_map"') from error
    for shard in shards:
        if not isinstance(shard, str) or "/" in shard or os.sep in shard:
            raise _invalid("UPLOAD_INDEX_INVALID", f'{path}: {shard!r} in "weight_map" is not a plain file name')
    return shards


def _safetensors_of(folder: pathlib.Path, names: Set[str]) -> Set[str]:
    if _INDEX in names:
        shards = _shards_of_index(folder / _INDEX)
        for shard in sorted(shards - names):
            raise _invalid("UPLOAD_FILE_MISSING", f"{_INDEX} names {shard}, which is not in {folder}; fetch it first")
        return shards | {_INDEX}
    if "model.safetensors" in names:
        return {"model.safetensors"}
    return {name for name in names if name.endswith(".safetensors")}


def find_model_files(path: PathLike) -> List[LocalFile]:
    """A GGUF file is itself. Of a folder: config.json, the safetensors (those of its index, where there is one), the
    tokenizer's files and the chat template; a folder without config.json may hold one GGUF file instead. Weights in
    other formats, README and hidden files stay behind. Sorted by name."""
    root = pathlib.Path(path)
    if not root.exists():
        raise local_error(grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND", f"{root} is not there")
    if not root.is_dir():
        if root.suffix != ".gguf":
            raise _invalid("UPLOAD_NOT_A_MODEL", f"{root} is neither a .gguf file nor a folder with config.json; for a "
                           "text to calibrate or evaluate on, use upload_text")
        return [_describe(root, root.name)]
    names = {entry.name for entry in root.iterdir() if not entry.name.startswith(".") and entry.is_file()}
    if "config.json" not in names:
        return [_only_gguf(root, names)]
    wanted = _safetensors_of(root, names)
    if not wanted:
        raise _invalid("UPLOAD_FILE_MISSING", f"{root} has a config.json but no .safetensors; pickled weights (.bin, .pt) "
                       "are not read: convert them to safetensors first")
    wanted |= names.intersection(_SIDE_FILES)
    if len(wanted) > MAX_FILES:
        raise _invalid("UPLOAD_TOO_MANY_FILES", f"{root} has {len(wanted)} model files; the limit is {MAX_FILES}")
    return [_describe(root / name, name) for name in sorted(wanted)]


def _only_gguf(root: pathlib.Path, names: Set[str]) -> LocalFile:
    ggufs = sorted(name for name in names if name.endswith(".gguf"))
    if len(ggufs) > 1:
        raise _invalid("UPLOAD_AMBIGUOUS", f"{root} has {len(ggufs)} GGUF files ({ggufs[0]}, {ggufs[1]}, ...); name the "
                       "one you want")
    if not ggufs:
        raise _invalid("UPLOAD_NOT_A_MODEL", f"{root} has neither config.json (a Hugging Face model) nor a .gguf file")
    return _describe(root / ggufs[0], ggufs[0])


def find_text_file(path: PathLike) -> List[LocalFile]:
    """One file that is not empty."""
    root = pathlib.Path(path)
    return [_describe(root, root.name)]


def text_in_memory(content: Union[str, bytes], name: str) -> List[LocalFile]:
    data = content.encode("utf-8") if isinstance(content, str) else content
    if not data:
        raise _invalid("UPLOAD_FILE_EMPTY", "the text is empty")
    return [LocalFile(name, pathlib.Path(name), len(data), data)]
