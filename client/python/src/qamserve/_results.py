"""What calls give back where a message alone would be unhandy."""
from __future__ import annotations

import dataclasses
import json
from typing import Any, Dict, Iterable, List, Set

from .v1 import common_pb2, inference_pb2, job_pb2

_FINAL = frozenset({job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_REJECTED, job_pb2.JOB_STATE_FAILED,
                    job_pb2.JOB_STATE_CANCELLED})


def is_final(state: int) -> bool:
    """SUCCEEDED, REJECTED, FAILED or CANCELLED."""
    return state in _FINAL


def drop_seen_tensors(job: "job_pb2.Job", seen: Set[str]) -> None:
    """A new stream begins with every tensor so far: takes out those that the one before it brought."""
    fresh = [tensor for tensor in job.tensors if tensor.name not in seen]
    seen.update(tensor.name for tensor in fresh)
    del job.tensors[:]
    job.tensors.extend(fresh)


@dataclasses.dataclass
class Generation:
    """A whole answer."""
    text: str = ""
    tokens: List[int] = dataclasses.field(default_factory=list)
    finish_reason: str = ""  # "stop", "length", "cancelled"
    model: str = ""  # servedModels/...: which one answered
    usage: "inference_pb2.Usage" = dataclasses.field(default_factory=inference_pb2.Usage)
    logprobs: List["inference_pb2.TokenLogprob"] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        return self.text

    def add(self, part: "inference_pb2.GenerateResponse") -> None:
        self.text += part.text
        self.tokens.extend(part.tokens)
        self.logprobs.extend(part.logprobs)
        self.model = part.model or self.model
        if part.finish_reason:
            self.finish_reason = inference_pb2.FinishReason.Name(part.finish_reason)[len("FINISH_REASON_"):].lower()
        if part.HasField("usage"):
            self.usage = part.usage


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured of an artifact. `data` is its report.json: spec, digests, quality, a row for each tensor."""
    artifact: str
    data: Dict[str, Any]
    quality: "common_pb2.QualityReport"
    tensors: List["common_pb2.TensorReport"]

    @classmethod
    def of(cls, message: Any) -> "Report":
        return cls(message.artifact, json.loads(message.json), message.quality, list(message.tensors))

    def to_dict(self) -> Dict[str, Any]:
        return self.data

    def metrics(self) -> Dict[str, float]:
        """The numbers of `quality` by name, as experiment trackers want them."""
        return {field.name: float(getattr(self.quality, field.name)) for field in self.quality.DESCRIPTOR.fields
                if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_INT64)}

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each tensor. Needs pandas."""
        return _frame([{field.name: getattr(tensor, field.name) for field in tensor.DESCRIPTOR.fields}
                       for tensor in self.tensors])


@dataclasses.dataclass(frozen=True)
class StudyTable:
    """What a job has measured so far: a row for each method, rate and checkpoint."""
    job: str
    data: Dict[str, Any]

    @classmethod
    def of(cls, message: Any) -> "StudyTable":
        return cls(message.job, json.loads(message.content))

    @property
    def rows(self) -> List[Dict[str, Any]]:
        return list(self.data["rows"])

    def to_dict(self) -> Dict[str, Any]:
        return self.data

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each row of the table, nested fields as "quality.kl_mean". Needs pandas."""
        return _frame([_flat(row) for row in self.rows])


def _flat(row: Dict[str, Any], prefix: str = "") -> Dict[str, Any]:
    out: Dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            out.update(_flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out


def _frame(rows: Iterable[Dict[str, Any]]) -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas() needs pandas: pip install 'qamserve[pandas]'") from error
    return pandas.DataFrame(list(rows))

