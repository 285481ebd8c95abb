"""The API's messages under short names, and what sampling can be told. All fields are in proto/qamserve/v1."""
from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, TypedDict, Union

from ._channel import Tls
from ._flows import Progress
from ._results import Generation, Report, StudyTable
from ._retry import RetryPolicy
from .v1.admin_pb2 import Garbage, Instance, Lease, Queue, Replica, Schema
from .v1.artifact_pb2 import Artifact
from .v1.checkpoint_pb2 import Checkpoint, Text
from .v1.common_pb2 import FileInfo, QualityReport, TensorReport
from .v1.inference_pb2 import (ChatMessage, CompareResponse, GenerateResponse, ScoreResponse, TokenComparison,
                               TokenLogprob, Usage)
from .v1.job_pb2 import Candidate, Estimate, Job, JobProgress, QuantizeSpec, RateTarget, TextSelection
from .v1.serving_pb2 import Alias, AliasTarget, ServedModel
from .v1.system_pb2 import System


class Sampling(TypedDict, total=False):
    """Keyword arguments of generate() and chat(). At most one of the last five."""
    max_tokens: int  # 256
    temperature: float  # 0 = greedy; 1
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int  # 0 = chosen by the server and returned in usage
    stop: Union[str, Sequence[str]]
    ignore_eos: bool
    logprobs: int  # the chosen token and so many of the best
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    json_object: bool
    json_schema: Union[str, Dict[str, Any]]
    regex: str
    grammar: str
    choices: List[str]


__all__ = ["Alias", "AliasTarget", "Artifact", "Candidate", "ChatMessage", "Checkpoint", "CompareResponse", "Estimate",
           "FileInfo", "Garbage", "GenerateResponse", "Generation", "Instance", "Job", "JobProgress", "Lease", "Progress",
           "QualityReport", "QuantizeSpec", "Queue", "RateTarget", "Replica", "Report", "RetryPolicy", "Sampling", "Schema",
           "ScoreResponse", "ServedModel", "StudyTable", "System", "TensorReport", "Text", "TextSelection", "Tls",
           "TokenComparison", "TokenLogprob", "Usage"]
