"""Client of qamserve, a service that quantizes and serves language models.

    import qamserve

    with qamserve.Client("127.0.0.1:50051") as client:
        checkpoint = client.upload("SmolLM2-135M-Instruct.Q4_1.gguf")
        job = client.quantize(checkpoint, bpw=5.5)
        job.wait(on_progress=lambda job: print(job.progress.stage, job.progress.tasks_done))
        print(job.report().quality.kl_mean)
        client.load(job.artifact, "smol")
        print(client.chat("smol", [{"role": "user", "content": "Why is the sky blue?"}]).text)

Client has blocking calls, AsyncClient the same with `await`; qamserve.errors has the exceptions, qamserve.types the
messages; qamserve.artifact and qamserve.torch read a downloaded artifact without a server.
"""
from ._channel import Tls
from ._flows import Progress
from ._results import Generation, Report, StudyTable
from ._retry import RetryPolicy
from .aio import AsyncClient
from .client import Client
from .errors import JobError, QamserveError
from .handles import ArtifactHandle, AsyncArtifactHandle, AsyncJobHandle, JobHandle

__all__ = ["ArtifactHandle", "AsyncArtifactHandle", "AsyncClient", "AsyncJobHandle", "Client", "Generation", "JobError",
           "JobHandle", "Progress", "QamserveError", "Report", "RetryPolicy", "StudyTable", "Tls"]
