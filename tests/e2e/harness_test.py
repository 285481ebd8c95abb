#!/usr/bin/env python3
"""Other engines' figures beside ours on SmolLM2: transformers running an artifact through qamserve.torch, and lm-eval asking
our OpenAI endpoint. Not part of `./run test`, since torch takes 6 GiB; by hand or at night:

    QAMSERVE_SMOLLM2=$(scripts/fetch_model.py smollm2) tests/python/environment.py --with-client --work /tmp/harness \\
        --requirements tests/python/harness.txt tests/e2e/harness_test.py build
"""
import os
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
from clients_support import Server, build_folder, smollm2  # noqa: E402

import qamserve  # noqa: E402

BUILD = build_folder()
# Activations are rounded to 14 bits here and not there, and floats add in another order.
MAX_DIFFERENCE = 1e-2
TOKENS = 512
TEXTS = {"calibration": {"text": "texts/built-in", "windows": 2, "window_tokens": 128},
         "evaluation": {"text": "texts/built-in", "windows": 2, "window_tokens": 128}}
QUESTIONS = [
    ("The capital of France is", [" Paris", " London", " a fish"]),
    ("Water boils at a temperature of", [" 100 degrees Celsius", " 7 apples", " yesterday"]),
    ("Once upon a time there was", [" a little girl who lived in a village", " of the and to in", " 11000101"]),
    ("def add(a, b):\n    return", [" a + b", " a - b", " None of these"]),
]


class Harness(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if smollm2() is None:
            raise unittest.SkipTest("QAMSERVE_SMOLLM2 is not set")
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.scratch = pathlib.Path(folder.name)
        cls.server = Server(BUILD, "--kv-mib", "512")
        cls.server.__enter__()
        cls.addClassCleanup(cls.server.__exit__, None, None, None)
        cls.client = qamserve.Client(cls.server.grpc)
        cls.addClassCleanup(cls.client.close)
        cls.checkpoint = cls.client.upload(smollm2())

    def artifact(self, codec, bpw):
        job = self.client.quantize(self.checkpoint, bpw, codec, **TEXTS)
        job.wait()
        folder = self.scratch / f"{codec}-{bpw}"
        job.artifact.download(folder)
        self.client.load(job.artifact, codec)
        return folder

    def test_transformers_says_what_we_say(self):
        import torch
        from qamserve.torch import load_model

        text = pathlib.Path(__file__).resolve().parents[2].joinpath("README.md").read_text()
        for codec, bpw in (("joint", 5.5), ("trellis", 4)):
            folder = self.artifact(codec, bpw)
            scored = self.client.score(codec, self.client.tokenize(codec, text)[:TOKENS])
            ids = torch.tensor([list(scored.tokens)])
            with torch.no_grad():
                theirs = torch.log_softmax(load_model(folder)(ids).logits[0].double(), -1)
            difference = theirs[:-1].gather(1, ids[0, 1:, None])[:, 0] - torch.tensor(list(scored.logprobs)).double()
            print(f"{codec} at {bpw}: {len(difference)} log-probabilities, largest difference {difference.abs().max():.2e}, mean "
                  f"{difference.abs().mean():.2e}")
            self.assertLess(difference.abs().max().item(), MAX_DIFFERENCE)
            self.client.unload(codec)

    def test_lm_eval_finds_the_log_likelihoods_of_score(self):
        import json

        import lm_eval

        folder = self.artifact("joint", 5.5)
        data = self.scratch / "task.jsonl"
        data.write_text("".join(json.dumps({"question": q, "choices": c, "answer": 0}) + "\n" for q, c in QUESTIONS))
        task = {"task": "local", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
                "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_target": "answer",
                "doc_to_choice": "{{choices}}", "target_delimiter": "", "metric_list": [{"metric": "acc"}]}
        result = lm_eval.simple_evaluate(
            model="local-completions", tasks=[task], log_samples=True, bootstrap_iters=0, model_args={
                "model": "joint", "base_url": self.server.url + "/v1/completions", "tokenizer": str(folder),
                "num_concurrent": 1, "max_length": 2048})
        worst, count = 0.0, 0
        for sample in result["samples"]["local"]:
            question, choices = QUESTIONS[sample["doc_id"]]
            for choice, ((likelihood, greedy), *_) in zip(choices, sample["resps"]):
                before = self.client.tokenize("joint", question)
                tokens = self.client.tokenize("joint", question + choice)
                scored = self.client.score("joint", tokens, top=1)
                ours = sum(list(scored.logprobs)[len(before) - 1:])
                best = all(d.token == d.top[0].token for d in list(scored.details)[len(before) - 1:])
                worst, count = max(worst, abs(ours - float(likelihood))), count + 1
                self.assertEqual(str(greedy) == "True", best, f"{question}{choice}")
        print(f"lm-eval: {count} log-likelihoods, largest difference {worst:.2e}, accuracy {result['results']['local']}")
        self.assertEqual(count, sum(len(c) for _, c in QUESTIONS))
        self.assertLess(worst, 1e-4)
        self.client.unload("joint")


if __name__ == "__main__":
    unittest.main()
