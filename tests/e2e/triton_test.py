#!/usr/bin/env python3
"""Triton's own client, over HTTP and gRPC, against a running server with a tiny model.

usage: triton_test.py BUILD_FOLDER

Needs numpy and tritonclient[all]; skips (exit code 77) without.
"""
import json
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
    import tritonclient.grpc as triton_grpc
    import tritonclient.http as triton_http
    from tritonclient.utils import InferenceServerException
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

BUILD = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build").resolve()
PROMPT = "The river was"


class Tritons:
    """What both clients must find; `module` and `client` are given by the classes below."""

    module = None
    server = None

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="qamserve-triton-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        subprocess.run([BUILD / "tests/support/make_tiny_model", "llama", cls.folder / "tiny"], check=True)
        command = [BUILD / "server/qamserve", "--data-dir", cls.folder / "data", "--import-root", cls.folder, "--listen",
                   "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--metrics-listen", "off", "--log-level", "error"]
        cls.server = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                      text=True)
        cls.addClassCleanup(cls.stop)
        cls.address = cls.server.stdout.readline().removeprefix("listening on ").strip()
        cls.http_address = cls.server.stdout.readline().removeprefix("http on http://").strip()
        cls.source = cls.qamctl("import", "tiny")["checkpoint"]["name"]
        cls.qamctl("load", cls.source, "--name", "tiny")
        cls.client = cls.connect()
        cls.addClassCleanup(cls.client.close)

    @classmethod
    def stop(cls):
        cls.server.terminate()
        cls.server.wait()
        cls.server.stdout.close()

    @classmethod
    def qamctl(cls, *arguments):
        """The last message that it prints; of a stream the one with the whole text."""
        done = subprocess.run([str(BUILD / "client/qamctl"), *arguments, "--json", "--address", cls.address], check=True,
                              capture_output=True, text=True, stdin=subprocess.DEVNULL)
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError:
            return {"text": "".join(json.loads(line)["text"] for line in done.stdout.splitlines())}

    def text_input(self, texts, **options):
        tensor = self.module.InferInput("text_input", [len(texts)], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_), **options)
        return tensor

    def greedy(self, **more):
        return {"temperature": 0, "max_tokens": 6, "ignore_eos": True, **more}

    def expected(self):
        return self.qamctl("generate", "tiny", PROMPT, "--temperature", "0", "--max-tokens", "6", "--ignore-eos")["text"]

    def test_health_and_metadata(self):
        self.assertTrue(self.client.is_server_live())
        self.assertTrue(self.client.is_server_ready())
        self.assertTrue(self.client.is_model_ready("tiny"))
        self.assertTrue(self.client.is_model_ready("tiny", "1"))
        self.assertFalse(self.is_ready("other"))
        metadata = self.as_dict(self.client.get_server_metadata())
        self.assertEqual(metadata["name"], "qamserve")
        metadata = self.as_dict(self.client.get_model_metadata("tiny"))
        self.assertEqual(metadata["versions"], ["1"])
        self.assertIn("text_input", [tensor["name"] for tensor in metadata["inputs"]])

    def is_ready(self, model):
        try:
            return self.client.is_model_ready(model)
        except InferenceServerException:
            return False

    def test_text(self):
        result = self.client.infer("tiny", [self.text_input([PROMPT, PROMPT])], parameters=self.greedy(), request_id="r1")
        texts = result.as_numpy("text_output")
        self.assertEqual(len(texts), 2)
        self.assertEqual(texts[0], texts[1])
        self.assertEqual(list(result.as_numpy("output_tokens")), [6, 6])
        self.assertEqual([bytes(reason) for reason in result.as_numpy("finish_reason")], [b"length", b"length"])
        self.assertEqual(bytes(texts[0]).decode(), self.expected())

    def test_token_ids(self):
        ids = self.qamctl("tokenize", "tiny", PROMPT)["tokens"]
        tensor = self.module.InferInput("input_ids", [1, len(ids)], "INT64")
        tensor.set_data_from_numpy(np.array([ids], dtype=np.int64))
        output = self.module.InferRequestedOutput("output_ids")
        result = self.client.infer("tiny", [tensor], outputs=[output], parameters=self.greedy())
        self.assertEqual(result.as_numpy("output_ids").shape, (6,))
        self.assertIsNone(result.as_numpy("text_output"))

    def test_errors_name_what_is_wrong(self):
        for arguments, text in ((("other", [self.text_input([PROMPT])]), "other"),
                                (("tiny", []), "text_input")):
            with self.assertRaises(InferenceServerException) as caught:
                self.client.infer(*arguments)
            self.assertIn(text, str(caught.exception))
        with self.assertRaises(InferenceServerException) as caught:
            self.client.infer("tiny", [self.text_input([PROMPT])], parameters={"beams": 4})
        self.assertIn("beams", str(caught.exception))

    def test_models_come_and_go(self):
        with self.assertRaises(InferenceServerException):
            self.client.load_model("second")
        self.client.load_model("second", config=json.dumps({"source": self.source, "context_tokens": 64}))
        self.assertTrue(self.client.is_model_ready("second"))
        index = self.as_dict(self.client.get_model_repository_index())
        models = index if isinstance(index, list) else index["models"]
        self.assertEqual(sorted(model["name"] for model in models), ["second", "tiny"])
        self.client.unload_model("second")
        self.assertFalse(self.is_ready("second"))


class HttpTest(Tritons, unittest.TestCase):
    module = triton_http

    @classmethod
    def connect(cls):
        return triton_http.InferenceServerClient(cls.http_address)

    def as_dict(self, answer):
        return answer

    def test_json_tensors(self):
        tensor = self.text_input([PROMPT], binary_data=False)
        output = triton_http.InferRequestedOutput("text_output", binary_data=False)
        result = self.client.infer("tiny", [tensor], outputs=[output], parameters=self.greedy())
        self.assertEqual(result.as_numpy("text_output")[0], self.expected())


class GrpcTest(Tritons, unittest.TestCase):
    module = triton_grpc

    @classmethod
    def connect(cls):
        return triton_grpc.InferenceServerClient(cls.address)

    def as_dict(self, answer):
        from google.protobuf import json_format
        return json_format.MessageToDict(answer, preserving_proto_field_name=True)

    def test_stream(self):
        answers = queue.Queue()
        self.client.start_stream(lambda result, error: answers.put((result, error)))
        self.client.async_stream_infer("tiny", [self.text_input([PROMPT])], parameters=self.greedy(), request_id="s")
        text, final = b"", False
        while not final:
            result, error = answers.get(timeout=60)
            self.assertIsNone(error)
            response = result.get_response()
            final = response.parameters["triton_final_response"].bool_param
            if not final:
                text += bytes(result.as_numpy("text_output")[0])
        whole = self.client.infer("tiny", [self.text_input([PROMPT])], parameters=self.greedy())
        self.assertEqual(text, bytes(whole.as_numpy("text_output")[0]))
        # An error is a message, after which the stream goes on.
        self.client.async_stream_infer("tiny", [self.text_input([PROMPT])], parameters={"max_tokens": -1})
        self.assertIsNotNone(answers.get(timeout=60)[1])
        self.client.async_stream_infer("tiny", [self.text_input([PROMPT])], parameters=self.greedy())
        self.assertIsNone(answers.get(timeout=60)[1])
        self.client.stop_stream(cancel_requests=True)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
