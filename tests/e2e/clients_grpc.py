"""Generic gRPC clients against a running server: messages made from what reflection says, and grpcio's health client."""
import threading

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class ReflectionClient:
    """Calls methods that it learns of at run time; requests and answers are dicts."""

    def __init__(self, channel):
        self._channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def call(self, method, request):
        """'qamserve.v1.JobService/ListJobs'. Of a stream, a list."""
        service, name = method.split("/")
        found = self.pool.FindServiceByName(service).FindMethodByName(name)
        encode = message_factory.GetMessageClass(found.input_type)
        decode = message_factory.GetMessageClass(found.output_type).FromString
        kind = self._channel.unary_stream if found.server_streaming else self._channel.unary_unary
        stub = kind("/" + method, request_serializer=lambda m: m.SerializeToString(), response_deserializer=decode)
        answer = stub(json_format.ParseDict(request, encode()), timeout=60)
        if found.server_streaming:
            return [json_format.MessageToDict(m) for m in answer]
        return json_format.MessageToDict(answer)


class GrpcTests:
    """Mixed into a TestCase that has `server` and `model`."""

    def channel(self):
        channel = grpc.insecure_channel(self.server.grpc)
        self.addCleanup(channel.close)
        return channel

    def test_reflection_names_every_service(self):
        services = set(ReflectionClient(self.channel()).database.get_services())
        self.assertLessEqual({"qamserve.v1.CheckpointService", "qamserve.v1.JobService", "qamserve.v1.ArtifactService",
                              "qamserve.v1.ServingService", "qamserve.v1.InferenceService", "qamserve.v1.AccessService",
                              "qamserve.v1.SystemService", "grpc.health.v1.Health"}, services)

    def test_a_client_made_of_reflection_drives_the_server(self):
        client = ReflectionClient(self.channel())
        (artifact, *_) = client.call("qamserve.v1.ArtifactService/ListArtifacts", {"pageSize": 1})["artifacts"]
        job = client.call("qamserve.v1.JobService/CreateEvaluateJob", {
            "artifact": artifact["name"], "evaluation": {"text": "texts/built-in", "windows": 2, "windowTokens": 32}})
        seen = client.call("qamserve.v1.JobService/WatchJob", {"name": job["name"]})
        self.assertEqual(seen[-1]["state"], "JOB_STATE_SUCCEEDED")
        parts = client.call("qamserve.v1.InferenceService/Generate", {
            "model": self.model, "prompt": "hello", "params": {"maxTokens": 5, "temperature": 0, "ignoreEos": True}})
        self.assertEqual(parts[-1]["usage"]["completionTokens"], 5)
        with self.assertRaises(grpc.RpcError) as caught:
            client.call("qamserve.v1.ServingService/GetServedModel", {"name": "servedModels/nobody"})
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_reflection_tells_how_calls_are_reached_over_http(self):
        client = ReflectionClient(self.channel())
        method = client.pool.FindServiceByName("qamserve.v1.JobService").FindMethodByName("WatchJob")
        self.assertIn("/v1/{name=jobs/*}:watch", str(method.GetOptions()))

    def test_health(self):
        stub = health_pb2_grpc.HealthStub(self.channel())
        serving = health_pb2.HealthCheckResponse.SERVING
        for service in ("", "qamserve.v1.JobService", "qamserve.v1.InferenceService"):
            self.assertEqual(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status, serving)
        with self.assertRaises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=10)
        self.assertEqual(next(watch).status, serving)
        watch.cancel()


class HealthOfAStoppingServer:
    """Mixed into a TestCase whose `start_server()` gives a server of its own."""

    def test_watchers_hear_that_it_stops(self):
        with self.start_server() as server, grpc.insecure_channel(server.grpc) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""), timeout=60)
            self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
            heard = []

            def listen():
                try:
                    for answer in watch:
                        heard.append(answer.status)
                except grpc.RpcError:
                    pass

            thread = threading.Thread(target=listen)
            thread.start()
            self.assertEqual(server.stop(), 0)
            thread.join(60)
            self.assertEqual(heard, [health_pb2.HealthCheckResponse.NOT_SERVING])
            server.start()  # so that leaving the block finds something to stop
