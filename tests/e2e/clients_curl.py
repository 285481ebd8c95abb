"""curl against the REST API of a running server: from upload to chat, as a shell script would."""
import hashlib
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

SMALL = {"windows": 2, "windowTokens": 32}


class Answered:
    """What curl said: status, headers in small letters, body."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


def events_of(text):
    """Pairs (event, data) of a stream of server-sent events."""
    events = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "data" in fields:
            events.append((fields.get("event", "message"), fields["data"]))
    return events


class CurlTests:
    """Mixed into a TestCase that has `server`, `model`, `folder` (of the tiny model) and `scratch`."""

    def curl(self, method, path, *options, body=None, seconds=60):
        with tempfile.TemporaryDirectory() as folder:
            out, head = pathlib.Path(folder) / "body", pathlib.Path(folder) / "head"
            command = ["curl", "--silent", "--show-error", "--max-time", str(seconds), "--output", str(out), "--dump-header",
                       str(head), "--write-out", "%{http_code}", *map(str, options)]
            if body is not None:
                command += ["--header", "Content-Type: application/json", "--data-binary", json.dumps(body)]
            # HEAD with --request would wait for a body.
            command += ["--head"] if method == "HEAD" else ["--request", method]
            done = subprocess.run([*command, self.server.url + path], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  check=False)
            headers = {}
            if head.exists():
                for line in head.read_text().splitlines():
                    name, _, value = line.partition(":")
                    headers[name.strip().lower()] = value.strip()
            body = out.read_bytes() if out.exists() else b""
            return Answered(int(done.stdout[-3:] or 0), headers, body)

    def good(self, method, path, *options, **named):
        answer = self.curl(method, path, *options, **named)
        self.assertIn(answer.status, (200, 201, 204, 206), f"{method} {path}: {answer.status} {answer.body[:500]}")
        return answer

    def refused(self, status, reason, method, path, *options, **named):
        answer = self.curl(method, path, *options, **named)
        self.assertEqual(answer.status, status, f"{method} {path}: {answer.body[:500]}")
        details = answer.json["error"]["details"]
        self.assertIn(reason, [d.get("reason") for d in details], answer.body)
        return answer.json["error"]

    def test_from_upload_to_chat(self):
        files = []
        for path in sorted(self.folder.iterdir()):
            data = path.read_bytes()
            files.append({"name": path.name, "sha256": hashlib.sha256(data).hexdigest(), "sizeBytes": len(data)})
        # A display name of its own does not make it another upload; the files are there already, so nothing is missing.
        upload = self.good("POST", "/v1/uploads", body={"kind": "UPLOAD_KIND_CHECKPOINT", "files": files}).json
        for state in upload["files"]:
            if not state["complete"]:
                self.good("PUT", f"/v1/{upload['name']}/files/{state['file']['sha256']}", "--upload-file",
                          self.folder / state["file"]["name"])
        checkpoint = self.good("POST", f"/v1/{upload['name']}:complete", body={}).json["checkpoint"]
        job = self.good("POST", "/v1/jobs:quantize", "--header", "Idempotency-Key: 0e3a52ac-6a0d-4f39-8a5c-0c2d44fcbf81", body={
            "checkpoint": checkpoint["name"], "displayName": "by curl",
            "spec": {"bpw": 4.5, "calibration": SMALL, "evaluation": SMALL}}).json
        watched = self.good("GET", f"/v1/{job['name']}:watch", "--header", "Accept: text/event-stream")
        self.assertTrue(watched.headers["content-type"].startswith("text/event-stream"))
        events = events_of(watched.body.decode())
        self.assertEqual(events[-1][0], "end")
        states = [json.loads(data) for event, data in events if event == "message"]
        self.assertEqual(states[-1]["state"], "JOB_STATE_SUCCEEDED", states[-1].get("error"))
        self.assertEqual(sum(len(s["tensors"]) for s in states), 14, "7 layers in each of 2 blocks, each told once")
        artifact = states[-1]["artifact"]
        model = self.good("POST", "/v1/servedModels", body={"name": "curled", "source": artifact}).json
        self.assertEqual(model["state"], "SERVED_MODEL_STATE_READY")
        said = self.good("POST", "/v1/inference:chat", "--header", "Accept: text/event-stream", body={
            "model": "curled", "messages": [{"role": "user", "content": "hi"}], "params": {"maxTokens": 6, "ignoreEos": True}})
        parts = [json.loads(data) for event, data in events_of(said.body.decode()) if event == "message"]
        self.assertEqual(parts[-1]["usage"]["completionTokens"], 6)
        answer = self.good("POST", "/v1/chat/completions", body={
            "model": "curled", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 4})
        self.assertEqual(answer.json["object"], "chat.completion")
        streamed = self.good("POST", "/v1/chat/completions", body={
            "model": "curled", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 4, "stream": True})
        self.assertTrue(streamed.body.decode().rstrip().endswith("data: [DONE]"))
        self.good("POST", "/v1/servedModels/curled:unload", body={})

    def test_an_upload_in_parts(self):
        data = os.urandom(3_000_000).hex().encode()  # a text
        digest = hashlib.sha256(data).hexdigest()
        path = self.scratch / "text.txt"
        upload = self.good("POST", "/v1/uploads", body={"kind": "UPLOAD_KIND_TEXT", "files": [
            {"name": "text.txt", "sha256": digest, "sizeBytes": str(len(data))}]}).json
        where = f"/v1/{upload['name']}/files/{digest}"
        at = 0
        for size in (1_000_000, 1, 2_500_000, len(data) - 3_500_001):
            path.write_bytes(data[at:at + size])
            sent = self.good("PUT", where, "--header", f"Content-Range: bytes {at}-{at + size - 1}/{len(data)}", "--upload-file",
                             path).json
            at += size
            self.assertEqual(int(sent["committedBytes"]), at)
        self.assertTrue(sent["complete"])
        self.assertEqual(self.good("POST", f"/v1/{upload['name']}:complete", body={}).json["text"]["name"], f"texts/{digest}")

    def test_an_upload_that_is_cut_goes_on(self):
        data = os.urandom(4_000_000).hex().encode()
        digest = hashlib.sha256(data).hexdigest()
        path = self.scratch / "cut.txt"
        path.write_bytes(data)
        upload = self.good("POST", "/v1/uploads", body={"kind": "UPLOAD_KIND_TEXT", "files": [
            {"name": "cut.txt", "sha256": digest, "sizeBytes": len(data)}]}).json
        where = f"/v1/{upload['name']}/files/{digest}"
        cut = self.curl("PUT", where, "--upload-file", path, "--limit-rate", "2M", seconds=1)
        self.assertIn(cut.status, (0, 100), "curl ended in the middle: it has no answer, or only that it may go on")

        def committed():
            return int(self.good("GET", f"/v1/{upload['name']}").json["files"][0]["committedBytes"])

        # What was on its way when the connection broke may still be written.
        before, now = -1, committed()
        while before != now:
            time.sleep(0.1)
            before, now = now, committed()
        self.assertGreater(now, 0)
        self.assertLess(now, len(data))
        error = self.refused(400, "UPLOAD_OFFSET", "PUT", where, "--upload-file", path)
        self.assertIn(str(now), error["message"])
        rest = self.scratch / "rest.txt"
        rest.write_bytes(data[now:])
        done = self.good("PUT", where, "--header", f"Content-Range: bytes {now}-{len(data) - 1}/{len(data)}", "--upload-file", rest)
        self.assertTrue(done.json["complete"])

    def test_ranges_of_a_download(self):
        artifact = self.good("GET", "/v1/artifacts?pageSize=1").json["artifacts"][0]
        info = next(f for f in artifact["files"] if f["name"] == "model.safetensors")
        where = f"/v1/{artifact['name']}/files/model.safetensors"
        whole = self.good("GET", where)
        self.assertEqual(hashlib.sha256(whole.body).hexdigest(), info["sha256"])
        self.assertEqual(whole.headers["content-length"], info["sizeBytes"])
        self.assertEqual(whole.headers["etag"], f'"{info["sha256"]}"')
        for given, begin, end in (("100-199", 100, 200), ("0-0", 0, 1), ("-5", -5, None), ("200-", 200, None)):
            part = self.curl("GET", where, "--range", given)
            self.assertEqual((part.status, part.body), (206, whole.body[begin:end]), given)
        self.assertEqual(self.curl("GET", where, "--range", f"{len(whole.body)}-").status, 416)
        self.assertEqual(self.curl("GET", where, "--header", f"If-None-Match: {whole.headers['etag']}").status, 304)
        other = self.curl("GET", where, "--range", "0-9", "--header", 'If-Range: "another"')
        self.assertEqual((other.status, len(other.body)), (200, len(whole.body)))
        head = self.curl("HEAD", where)
        self.assertEqual((head.status, head.headers["content-length"], head.body[:5]), (200, info["sizeBytes"], head.body[:5]))
        target = self.scratch / "resumed"
        target.write_bytes(whole.body[:1000])
        subprocess.run(["curl", "--silent", "--fail", "--continue-at", "-", "--output", str(target), self.server.url + where],
                       check=True, stdin=subprocess.DEVNULL)
        self.assertEqual(target.read_bytes(), whole.body)

    def test_the_same_key_gives_the_same_job(self):
        checkpoint = self.good("GET", "/v1/checkpoints").json["checkpoints"][0]["name"]
        key = ("--header", "Idempotency-Key: 5b6ad3f0-51d4-4ef6-a5b0-d9e4a1f4b3a7")
        body = {"checkpoint": checkpoint, "spec": {"bpw": 3, "calibration": SMALL, "evaluation": SMALL}}
        first = self.good("POST", "/v1/jobs:quantize", *key, body=body).json
        self.assertEqual(self.good("POST", "/v1/jobs:quantize", *key, body=body).json["name"], first["name"])
        got = self.good("GET", f"/v1/{first['name']}")
        if got.json["state"] == "JOB_STATE_SUCCEEDED":
            self.assertEqual(self.curl("GET", f"/v1/{first['name']}", "--header", f"If-None-Match: {got.headers['etag']}").status,
                             304)

    def test_bad_requests(self):
        self.assertEqual(self.curl("GET", "/v1/jobs/none").status, 404)
        self.assertEqual(self.curl("GET", "/nowhere").status, 404)
        self.assertEqual(self.curl("PATCH", "/v1/jobs").status, 405)
        error = self.refused(400, "JSON_SYNTAX", "POST", "/v1/jobs:quantize", "--header", "Content-Type: application/json",
                             "--data-binary", '{"checkpoint": ')
        self.assertEqual(error["status"], "INVALID_ARGUMENT")
        error = self.refused(400, "JSON_FIELD", "POST", "/v1/jobs:quantize", body={"spec": {"rates": [{"bpw": "much"}]}})
        self.assertIn("spec.rates[0].bpw", json.dumps(error))
        self.refused(400, "JSON_FIELD", "POST", "/v1/jobs:quantize", body={"spec": {"bqw": 4}})
        self.refused(400, "QUERY_PARAMETER", "GET", "/v1/jobs?page=7")
        self.refused(415, "CONTENT_TYPE", "POST", "/v1/jobs:quantize", "--header", "Content-Type: text/xml", "--data-binary", "<a/>")
        self.assertEqual(self.curl("POST", "/v1/inference:generate", "--header", "Content-Type: application/json",
                                   "--data-binary", "[" * 100_000).status, 400)
        self.good("GET", "/v1/system")

    def test_pages_and_documents(self):
        document = self.good("GET", "/openapi.json").json
        self.assertEqual(document["openapi"].split(".")[0], "3")
        self.assertIn("/v1/jobs:quantize", document["paths"])
        self.assertIn("html", self.good("GET", "/docs").headers["content-type"])
        for path in ("/livez", "/readyz", "/startupz"):
            self.good("GET", path)
        self.assertRegex(self.good("GET", "/metrics").body.decode(), re.compile(r"^qamserve_\w+", re.MULTILINE))
