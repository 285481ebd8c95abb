"""A qamserve server that answers as a test tells it to. Behind the client lies real gRPC on loopback."""
import collections
import hashlib
from concurrent import futures

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from qamserve.v1 import (admin_pb2, admin_pb2_grpc, artifact_pb2, artifact_pb2_grpc, checkpoint_pb2,
                         checkpoint_pb2_grpc, inference_pb2, inference_pb2_grpc, job_pb2, job_pb2_grpc, serving_pb2,
                         serving_pb2_grpc)


def abort(context, code, message, reason="", retry_after=None, violations=()):
    """Ends a call as the server does, details included."""
    details = []
    if reason:
        details.append(error_details_pb2.ErrorInfo(reason=reason, domain="qamserve", metadata={"limit": "7"}))
    if violations:
        details.append(error_details_pb2.BadRequest(field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in violations]))
    if retry_after is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(
            seconds=int(retry_after), nanos=int(retry_after % 1 * 1e9))))
    packed = []
    for detail in details:
        any_message = any_pb2.Any()
        any_message.Pack(detail)
        packed.append(any_message)
    status = status_pb2.Status(code=code.value[0], message=message, details=packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, message)


class ScriptedServer(checkpoint_pb2_grpc.CheckpointServiceServicer, job_pb2_grpc.JobServiceServicer,
                     artifact_pb2_grpc.ArtifactServiceServicer, serving_pb2_grpc.ServingServiceServicer,
                     inference_pb2_grpc.InferenceServiceServicer, admin_pb2_grpc.AdminServiceServicer):
    """Keeps uploads as the real one does; whatever else is called is looked up in `answers`: a function of request and
    context, by method. `calls` has every request, `metadata` that of the last call. `cuts`: of the next streams, after how
    many messages each breaks off."""

    def __init__(self):
        self.answers, self.calls, self.metadata = {}, collections.defaultdict(list), {}
        self.cuts, self.store, self.complete, self.received = [], {}, set(), 0
        self.files = {}  # of the artifact that can be downloaded
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        checkpoint_pb2_grpc.add_CheckpointServiceServicer_to_server(self, self._server)
        job_pb2_grpc.add_JobServiceServicer_to_server(self, self._server)
        artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(self, self._server)
        serving_pb2_grpc.add_ServingServiceServicer_to_server(self, self._server)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self, self._server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self):
        self._server.stop(None).wait()

    def _seen(self, method, request, context):
        self.calls[method].append(request)
        self.metadata = dict(context.invocation_metadata())

    # --- Uploads ---

    def _upload(self, infos):
        states = [checkpoint_pb2.UploadFileState(
            file=info, committed_bytes=len(self.store.get(info.sha256, b"")), complete=info.sha256 in self.complete)
            for info in infos]
        return checkpoint_pb2.Upload(name="uploads/1", files=states)

    def CreateUpload(self, request, context):
        self._seen("CreateUpload", request, context)
        self.infos = list(request.files)
        return self._upload(self.infos)

    def QueryUpload(self, request, context):
        self._seen("QueryUpload", request, context)
        return self._upload(self.infos)

    def UploadFile(self, requests, context):
        cut = self.cuts.pop(0) if self.cuts else None
        digest = ""
        for n, request in enumerate(requests):
            if n == 0:
                self._seen("UploadFile", request, context)
                digest = request.sha256
                if request.offset != len(self.store.setdefault(digest, b"")):
                    abort(context, grpc.StatusCode.OUT_OF_RANGE, "not the committed size", "UPLOAD_OFFSET")
            if n == cut:
                abort(context, grpc.StatusCode.UNAVAILABLE, "cut")
            self.store[digest] += request.data
            self.received += len(request.data)
        size = next(info.size_bytes for info in self.infos if info.sha256 == digest)
        if len(self.store[digest]) == size:
            if hashlib.sha256(self.store[digest]).hexdigest() != digest:
                del self.store[digest]
                abort(context, grpc.StatusCode.DATA_LOSS, "the digest is another", "UPLOAD_DIGEST")
            self.complete.add(digest)
        return checkpoint_pb2.UploadFileResponse(committed_bytes=len(self.store[digest]), complete=digest in self.complete)

    def CompleteUpload(self, request, context):
        self._seen("CompleteUpload", request, context)
        if "CompleteUpload" in self.answers:
            return self.answers["CompleteUpload"](request, context)
        if self.calls["CreateUpload"][-1].kind == checkpoint_pb2.UPLOAD_KIND_TEXT:
            return checkpoint_pb2.CompleteUploadResponse(text=checkpoint_pb2.Text(name="texts/1"))
        return checkpoint_pb2.CompleteUploadResponse(
            checkpoint=checkpoint_pb2.Checkpoint(name="checkpoints/1", architecture="llama"))

    # --- Downloads ---

    def GetArtifact(self, request, context):
        self._seen("GetArtifact", request, context)
        if "GetArtifact" in self.answers:
            return self.answers["GetArtifact"](request, context)
        artifact = artifact_pb2.Artifact(name=request.name)
        for name, data in self.files.items():
            artifact.files.add(name=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        return artifact

    def DownloadFile(self, request, context):
        self._seen("DownloadFile", request, context)
        if "DownloadFile" in self.answers:
            yield from self.answers["DownloadFile"](request, context)
            return
        data = self.files[request.file][request.offset:]
        cut = self.cuts.pop(0) if self.cuts else None
        for n, at in enumerate(range(0, len(data), 1000)):
            if n == cut:
                abort(context, grpc.StatusCode.UNAVAILABLE, "cut")
            yield artifact_pb2.DownloadFileResponse(data=data[at:at + 1000])


def _scripted(method, streams):
    def unary(self, request, context):
        self._seen(method, request, context)
        return self.answers[method](request, context)

    def stream(self, request, context):
        self._seen(method, request, context)
        yield from self.answers[method](request, context)

    return stream if streams else unary


for _module in (checkpoint_pb2, job_pb2, artifact_pb2, serving_pb2, inference_pb2, admin_pb2):
    for _service in _module.DESCRIPTOR.services_by_name.values():
        for _method in _service.methods:
            if _method.name not in vars(ScriptedServer):
                setattr(ScriptedServer, _method.name, _scripted(_method.name, _method.server_streaming))
