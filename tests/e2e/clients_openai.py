"""The official openai package against a running server with a tiny model."""
import asyncio
import enum
import json
import math
import re
from typing import List, Literal

import openai
import pydantic

TOOL = {"type": "function", "function": {"name": "look", "description": "Looks something up.", "parameters": {
    "type": "object", "properties": {"where": {"enum": ["up", "down"]}, "exact": {"type": "boolean"}},
    "required": ["where", "exact"], "additionalProperties": False}}}
SAY_HI = [{"role": "user", "content": "hi"}]


class Color(str, enum.Enum):
    RED = "red"
    GREEN = "green"


class Answer(pydantic.BaseModel):
    """Small enough for a model that writes at random to end within its context."""
    model_config = pydantic.ConfigDict(extra="forbid")
    color: Color
    sure: bool
    sizes: List[Literal[1, 2]] = pydantic.Field(min_length=1, max_length=2)


class OpenAiTests:
    """Mixed into a TestCase that has `server` and `model`, the name of a served model."""

    def openai(self, **options):
        client = openai.OpenAI(base_url=self.server.url + "/v1", api_key="-", max_retries=0, timeout=60, **options)
        self.addCleanup(client.close)
        return client

    def test_models(self):
        models = self.openai().models
        self.assertIn(self.model, [m.id for m in models.list()])
        self.assertEqual(models.retrieve(self.model).object, "model")
        with self.assertRaises(openai.NotFoundError) as caught:
            models.retrieve("nobody")
        self.assertEqual(caught.exception.code, "model_not_found")

    def test_chat(self):
        create = self.openai().chat.completions.create
        answer = create(model=self.model, messages=SAY_HI, max_completion_tokens=8, temperature=0)
        choice = answer.choices[0]
        self.assertEqual((answer.object, answer.model, choice.message.role), ("chat.completion", self.model, "assistant"))
        self.assertIn(choice.finish_reason, ("stop", "length"))
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertTrue(answer.system_fingerprint)
        again = create(model=self.model, messages=SAY_HI, max_completion_tokens=8, temperature=0)
        self.assertEqual(again.choices[0].message.content, choice.message.content)
        self.assertNotEqual(again.id, answer.id)

    def test_a_stream_says_the_same_as_a_whole_answer(self):
        create = self.openai().chat.completions.create
        asked = {"model": self.model, "messages": SAY_HI, "max_completion_tokens": 24, "seed": 5, "temperature": 1.2}
        whole = create(**asked)
        chunks = list(create(**asked, stream=True, stream_options={"include_usage": True}))
        self.assertEqual(len({(c.id, c.created, c.model) for c in chunks}), 1)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual([c.choices[0].finish_reason for c in chunks if c.choices][-1], whole.choices[0].finish_reason)
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)

    def test_leaving_a_stream_frees_its_place(self):
        stream = self.openai().chat.completions.create(model=self.model, messages=SAY_HI, max_completion_tokens=200,
                                                       stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        self.wait_until_idle()

    def test_choices_and_seeds(self):
        create = self.openai().completions.create
        answer = create(model=self.model, prompt="ab", max_tokens=12, n=3, seed=7, temperature=1)
        self.assertEqual(sorted(c.index for c in answer.choices), [0, 1, 2])
        self.assertGreater(len({c.text for c in answer.choices}), 1, "further choices have seeds of their own")
        again = create(model=self.model, prompt="ab", max_tokens=12, n=3, seed=7, temperature=1)
        self.assertEqual([c.text for c in answer.choices], [c.text for c in again.choices])
        several = create(model=self.model, prompt=["ab", "cd"], max_tokens=4, temperature=0)
        self.assertEqual(len(several.choices), 2)

    def test_logprobs(self):
        answer = self.openai().chat.completions.create(model=self.model, messages=SAY_HI, max_completion_tokens=5,
                                                       temperature=0, logprobs=True, top_logprobs=4)
        content = answer.choices[0].logprobs.content
        self.assertEqual(len(content), answer.usage.completion_tokens)
        for token in content:
            self.assertEqual(len(token.top_logprobs), 4)
            self.assertAlmostEqual(token.logprob, token.top_logprobs[0].logprob, places=5, msg="greedy")
            self.assertLess(sum(math.exp(t.logprob) for t in token.top_logprobs), 1.0001)

    def test_stop_texts_end_an_answer(self):
        create = self.openai().completions.create
        whole = create(model=self.model, prompt="abc", max_tokens=30, temperature=0, extra_body={"ignore_eos": True})
        text = whole.choices[0].text
        stop = text[len(text) // 2]
        cut = create(model=self.model, prompt="abc", max_tokens=30, temperature=0, stop=[stop],
                     extra_body={"ignore_eos": True}).choices[0]
        self.assertEqual((cut.text, cut.finish_reason), (text[:text.index(stop)], "stop"))

    def test_structured_outputs(self):
        client = self.openai()
        for seed in range(1, 6):
            parsed = client.chat.completions.parse(model=self.model, messages=SAY_HI, response_format=Answer, seed=seed,
                                                   max_completion_tokens=150)
            self.assertIsInstance(parsed.choices[0].message.parsed, Answer)
        answer = client.chat.completions.create(model=self.model, messages=SAY_HI, max_completion_tokens=150, seed=3,
                                                response_format={"type": "json_object"})
        choice = answer.choices[0]
        if choice.finish_reason == "stop":
            self.assertIsInstance(json.loads(choice.message.content), dict)
        else:
            self.assertTrue(choice.message.content.lstrip().startswith("{"), "what is cut off is a beginning")

    def test_extensions_for_structured_outputs(self):
        def said(**constraint):
            return self.openai().chat.completions.create(
                model=self.model, messages=SAY_HI, max_completion_tokens=40, seed=2,
                extra_body={"structured_outputs": constraint}).choices[0].message.content

        self.assertIn(said(choice=["yes", "no"]), ("yes", "no"))
        self.assertTrue(re.fullmatch(r"[a-c]{2,5}-\d\d", said(regex=r"[a-c]{2,5}-\d\d")))
        self.assertRegex(said(grammar='root ::= ("a" | "b") "x"'), "^[ab]x$")

    def test_tools(self):
        client = self.openai()
        for choice in ("required", {"type": "function", "function": {"name": "look"}}):
            answer = client.chat.completions.create(model=self.model, messages=SAY_HI, tools=[TOOL], tool_choice=choice,
                                                    max_completion_tokens=100, seed=4)
            self.assertEqual(answer.choices[0].finish_reason, "tool_calls", answer.choices[0])
            call = answer.choices[0].message.tool_calls[0]
            self.assertEqual((call.type, call.function.name), ("function", "look"))
            arguments = json.loads(call.function.arguments)
            self.assertIn(arguments["where"], ("up", "down"))
            self.assertIsInstance(arguments["exact"], bool)
        after = client.chat.completions.create(model=self.model, max_completion_tokens=4, tools=[TOOL], messages=[
            *SAY_HI, {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
            {"role": "tool", "tool_call_id": call.id, "content": "nothing"}])
        self.assertEqual(len(after.choices), 1)

    def test_tools_in_a_stream(self):
        chunks = list(self.openai().chat.completions.create(
            model=self.model, messages=SAY_HI, tools=[TOOL], tool_choice="required", max_completion_tokens=100, seed=4,
            stream=True))
        calls = [c for chunk in chunks for choice in chunk.choices for c in choice.delta.tool_calls or ()]
        self.assertEqual(calls[0].function.name, "look")
        self.assertTrue(calls[0].id)
        json.loads("".join(c.function.arguments or "" for c in calls))
        self.assertEqual([c.choices[0].finish_reason for c in chunks if c.choices][-1], "tool_calls")

    def test_embeddings(self):
        create = self.openai().embeddings.create
        answer = create(model=self.model, input=["hello", "there"])  # as base64, which is the package's own choice
        self.assertEqual([e.index for e in answer.data], [0, 1])
        self.assertAlmostEqual(sum(v * v for v in answer.data[0].embedding), 1, places=4)
        self.assertGreater(answer.usage.prompt_tokens, 0)
        plain = create(model=self.model, input="hello", encoding_format="float").data[0].embedding
        for a, b in zip(plain, answer.data[0].embedding):
            self.assertAlmostEqual(a, b, places=6)

    def test_errors_are_those_that_the_package_knows(self):
        client = self.openai()
        create = client.chat.completions.create
        with self.assertRaises(openai.NotFoundError) as caught:
            create(model="nobody", messages=SAY_HI)
        self.assertEqual(caught.exception.code, "model_not_found")
        for wrong, param in (({"temperature": 9}, "temperature"), ({"n": 0}, "n"), ({"top_p": 2}, "top_p"),
                             ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
                             ({"extra_body": {"temprature": 1}}, "temprature"),
                             ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content")):
            with self.assertRaises(openai.BadRequestError, msg=wrong) as caught:
                create(**{"model": self.model, "messages": SAY_HI, **wrong})
            self.assertEqual(caught.exception.type, "invalid_request_error")
            self.assertEqual(caught.exception.param, param)
        with self.assertRaises(openai.BadRequestError) as caught:
            create(model=self.model, messages=[{"role": "user", "content": "x" * 5000}])
        self.assertEqual(caught.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.BadRequestError) as caught:
            create(model=self.model, messages=SAY_HI, response_format={"type": "json_schema", "json_schema": {
                "name": "x", "schema": {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}}})
        self.assertEqual(caught.exception.type, "invalid_request_error")

    def test_async(self):
        async def ask(client, seed):
            return (await client.completions.create(model=self.model, prompt="ab", max_tokens=10, seed=seed)).choices[0].text

        async def stream(client, seed):
            parts = [chunk.choices[0].text async for chunk in await client.completions.create(
                model=self.model, prompt="ab", max_tokens=10, seed=seed, stream=True)]
            return "".join(parts)

        async def run():
            async with openai.AsyncOpenAI(base_url=self.server.url + "/v1", api_key="-", max_retries=0) as client:
                whole = await asyncio.gather(*[ask(client, seed) for seed in range(1, 9)])
                parts = await asyncio.gather(*[stream(client, seed) for seed in range(1, 9)])
                return whole, parts

        whole, parts = asyncio.run(run())
        self.assertEqual(whole, parts)
        self.assertGreater(len(set(whole)), 1)

    def test_echo_gives_the_log_likelihoods_of_score(self):
        tokens = self.client.tokenize(self.model, "hello there, you")
        scored = self.client.score(self.model, tokens)
        answer = self.openai().completions.create(model=self.model, prompt=tokens, max_tokens=0, echo=True, logprobs=1)
        given = answer.choices[0].logprobs.token_logprobs
        self.assertIsNone(given[0])
        self.assertEqual(len(given), len(tokens))
        for a, b in zip(given[1:], scored.logprobs):
            self.assertAlmostEqual(a, b, places=5)
