"""Addresses, credentials and channels, the same for both clients."""
from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any, List, Optional, Tuple, Union

import grpc

from ._files import PathLike
from .v1 import (access_pb2_grpc, admin_pb2_grpc, artifact_pb2_grpc, checkpoint_pb2_grpc, inference_pb2_grpc,
                 job_pb2_grpc, serving_pb2_grpc, system_pb2_grpc)

ADDRESS_VARIABLE = "QAMSERVE_ADDRESS"
API_KEY_VARIABLE = "QAMSERVE_API_KEY"
DEFAULT_ADDRESS = "127.0.0.1:50051"

QUICK_SECONDS = 60.0
SLOW_SECONDS = 3600.0  # loads, imports and checks

_OPTIONS: List[Tuple[str, Any]] = [
    # Reports of large models run to megabytes; 64 MiB is far above and still bounds what a broken server can make us hold.
    ("grpc.max_receive_message_length", 64 << 20),
    # Above the 5 minutes below which a gRPC server counts a ping as abuse; a dead peer is noticed within 6 minutes.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # gRPC itself waits up to 2 minutes between connection attempts; a server that restarts should be found sooner.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Two clients of one process share no connection, so that one's close() does not concern the other.
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclasses.dataclass(frozen=True)
class Tls:
    """How to speak TLS. Paths of PEM files; without `ca` the system's authorities count. `certificate` and `key` are the
    client's own, where the server asks for one. `server_name` is what the server's certificate must say, if not the host
    of the address."""
    ca: Optional[PathLike] = None
    certificate: Optional[PathLike] = None
    key: Optional[PathLike] = None
    server_name: Optional[str] = None


TlsOption = Union[None, bool, Tls]


def resolve_address(address: Optional[str]) -> str:
    return address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS


def call_metadata(api_key: Optional[str]) -> List[Tuple[str, str]]:
    key = api_key or os.environ.get(API_KEY_VARIABLE)
    return [("authorization", f"Bearer {key}")] if key else []


def _read(path: Optional[PathLike]) -> Optional[bytes]:
    return None if path is None else pathlib.Path(path).read_bytes()


def open_channel(module: Any, address: str, tls: TlsOption) -> Any:
    """`module` is grpc or grpc.aio."""
    if not tls:
        return module.insecure_channel(address, options=_OPTIONS)
    settings = tls if isinstance(tls, Tls) else Tls()
    if (settings.certificate is None) != (settings.key is None):
        raise ValueError("tls: a certificate needs its key, and a key its certificate")
    credentials = grpc.ssl_channel_credentials(_read(settings.ca), _read(settings.key), _read(settings.certificate))
    options = list(_OPTIONS)
    if settings.server_name:
        options.append(("grpc.ssl_target_name_override", settings.server_name))
    return module.secure_channel(address, credentials, options=options)


class Stubs:
    """The generated stubs, by service. For calls that the clients have no method for."""

    def __init__(self, channel: Any):
        self.checkpoints = checkpoint_pb2_grpc.CheckpointServiceStub(channel)
        self.jobs = job_pb2_grpc.JobServiceStub(channel)
        self.artifacts = artifact_pb2_grpc.ArtifactServiceStub(channel)
        self.serving = serving_pb2_grpc.ServingServiceStub(channel)
        self.inference = inference_pb2_grpc.InferenceServiceStub(channel)
        self.access = access_pb2_grpc.AccessServiceStub(channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(channel)
        self.system = system_pb2_grpc.SystemServiceStub(channel)

    def find(self, method: str) -> Any:
        """'jobs.GetJob'."""
        service, name = method.split(".")
        return getattr(getattr(self, service), name)


def is_repeatable(method: str, request: Any) -> bool:
    """Whether a call may be made again without knowing what became of the first: it only reads, sets what may be set twice, or
    carries a request_id."""
    name = method.split(".")[1]
    return name.startswith(("Get", "List", "Query", "Tokenize", "Detokenize", "Drain")) or bool(getattr(request, "request_id", ""))
