#!/usr/bin/env python3
"""Renders the chat templates of published models with Python's jinja2, set up as transformers sets it up, and with
render_main, and compares: each template with each conversation, to the last byte. What render() gives for these was
compared with transformers 5.24's own render_jinja_template, and is the same throughout. The templates lie in a folder
(scripts/fetch_jinja.sh puts one beside the Jinja engine) and are read there.

Usage: compare_chat.py RENDER_MAIN FOLDER [--verbose] [--write FILE]
--write puts all prompts that both render alike into one file, for compare_tokenizer.py.
Ends with 77, which is "skipped", where there is no jinja2 or no folder. Needs nothing but jinja2.
"""
import argparse
import datetime
import json
import pathlib
import subprocess
import sys

try:
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError:
    print("skipped: there is no jinja2")
    sys.exit(77)

NOW = datetime.datetime(2025, 1, 1, 12, 0, 0, tzinfo=datetime.timezone.utc)
CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
BOS, EOS = "<s>", "</s>"


class GenerationBlocks(jinja2.ext.Extension):
    """{% generation %} marks what a model said, for training; it prints what it holds."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[GenerationBlocks, jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: NOW.strftime(form)
    return env


def reference(template, case):
    """The prompt, or None if the template refuses, and why. Where a template trips over a message that says nothing
    (it has no "content"), or adds arguments of a call to a text, what is expected is the prompt of a message that is
    empty, or of arguments that are text."""
    first = None
    for content, as_text in ((False, False), (True, False), (False, True), (True, True)):
        messages = json.loads(json.dumps(case["messages"]))
        for message in messages:
            if content:
                message.setdefault("content", "")
            for one in message.get("tool_calls", []) if as_text else []:
                one["function"]["arguments"] = arguments_text(one["function"]["arguments"], case)
        text, why, meant = render(template, {**case, "messages": messages})
        first = first or why
        if text is not None or meant:
            return text, first
    return None, first


def arguments_text(arguments, case):
    """As they are sent, or else as the server writes an object."""
    style = {} if case.get("arguments_as_text") else {"separators": (",", ":")}
    return json.dumps(arguments, ensure_ascii=False, **style)


def render(template, case):
    """The prompt or None, why there is none, and whether the template itself says so."""
    messages = [dict(m) for m in case["messages"]]
    last = messages[-1].get("content")
    if case.get("continue"):
        messages[-1]["content"] = last + CONTINUE_TAG
    try:
        text = template.render(
            messages=messages, tools=case.get("tools"), documents=None,
            add_generation_prompt=case.get("generation", True) and not case.get("continue", False),
            **{"bos_token": BOS, "eos_token": EOS, **case.get("args", {})})
    except Exception as error:  # whatever a template does wrong: transformers lets it pass on
        return None, f"{type(error).__name__}: {error}", type(error) is jinja2.exceptions.TemplateError
    if not case.get("continue"):
        return text, "", False
    if last.strip() not in text or CONTINUE_TAG.strip() not in text:
        return None, "the last message is not there", True
    at = text.rindex(CONTINUE_TAG.strip())
    kept = text[at:at + len(CONTINUE_TAG)] == CONTINUE_TAG
    return (text[:at] if kept else text[:at].rstrip()), "", False


def request(path, case):
    messages = []
    for message in case["messages"]:
        ours = {k: v for k, v in message.items() if k != "tool_calls"}
        if "tool_calls" in message:
            calls = json.loads(json.dumps(message["tool_calls"]))
            if case.get("arguments_as_text"):
                for call in calls:
                    call["function"]["arguments"] = arguments_text(call["function"]["arguments"], case)
            ours["tool_calls_json"] = json.dumps(calls, ensure_ascii=False)
        messages.append(ours)
    return {"template": str(path), "bos_token": BOS, "eos_token": EOS, "messages": messages,
            "add_generation_prompt": case.get("generation", True), "continue_last_message": case.get("continue", False),
            "tools_json": json.dumps(case["tools"], ensure_ascii=False) if case.get("tools") else "",
            "template_args_json": json.dumps(case["args"]) if case.get("args") else "",
            "now_seconds": int(NOW.timestamp())}


def tool(name, description, properties, required=()):
    return {"type": "function",
            "function": {"name": name, "description": description,
                         "parameters": {"type": "object", "properties": properties, "required": list(required)}}}


WEATHER = tool("get_weather", "It's <b>&</b> \"fine\" in 東京?\nA second line.", {
    "city": {"type": "string", "description": "Where"},
    "unit": {"type": "string", "enum": ["C", "F"], "default": "C"}}, ["city"])
NUMBERS = tool("measure", "Numbers of all sorts", {
    "x": {"type": "number", "minimum": 0.1, "maximum": 1.0, "default": 1e-7, "examples": [1e22, -0.0, 123456.789, 3]},
    "deep": {"type": "object", "description": "More", "properties": {"flag": {"type": "boolean", "default": False}, "none": {"default": None},
                                              "list": {"type": "array", "items": {"type": "integer"}, "default": []}}}})
BARE = {"type": "function", "function": {"name": "now", "description": "The time",
                                         "parameters": {"type": "object", "properties": {}}}}


def call(identifier, name, arguments):
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "Be brief, and say \"please\"."}
USER = {"role": "user", "content": "  What's the weather in 東京? <b>&amp;</b>\n"}
ANSWER = {"role": "assistant", "content": "It is 21 °C.\n\nAnything else?"}
THANKS = {"role": "user", "content": "Thanks 👍"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm {x}\n</think>\n\nDone."}
# The ids have nine letters and digits, which Mistral's templates ask for.
ONE_CALL = {"role": "assistant", "tool_calls": [call("abcdef123", "get_weather", {"city": "東京", "unit": "C"})]}
SAID_AND_CALLED = {"role": "assistant", "content": "Let me see.",
                   "tool_calls": [call("abcdef123", "get_weather", {"city": "Aarhus \"A\"", "days": 2, "exact": True}),
                                  call("abcdef124", "measure", {"x": 0.25, "deep": {"list": [1, 2.0], "none": None}})]}
NO_ARGUMENTS = {"role": "assistant", "tool_calls": [call("abcdef125", "now", {})]}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": '{"temperature": 21.5}'}
RESULT_2 = {"role": "tool", "name": "measure", "tool_call_id": "abcdef124", "content": "text, not JSON"}
TOOLS = [WEATHER, NUMBERS, BARE]

CASES = {
    "user": {"messages": [USER]},
    "user, no generation prompt": {"messages": [USER], "generation": False},
    "system": {"messages": [SYSTEM, USER]},
    "turns": {"messages": [SYSTEM, USER, ANSWER, THANKS]},
    "turns, ended": {"messages": [USER, ANSWER], "generation": False},
    "thoughts": {"messages": [USER, THOUGHT, THANKS, THOUGHT, USER]},
    "nothing said": {"messages": [{"role": "user", "content": ""}]},
    "tools": {"messages": [USER], "tools": TOOLS},
    "tools and system": {"messages": [SYSTEM, USER], "tools": [WEATHER]},
    "tool called": {"messages": [USER, ONE_CALL], "tools": TOOLS, "generation": False},
    "tool answered": {"messages": [SYSTEM, USER, ONE_CALL, RESULT], "tools": TOOLS},
    "tool answered, arguments as text": {"messages": [USER, ONE_CALL, RESULT], "tools": [WEATHER],
                                         "arguments_as_text": True},
    "tools answered": {"messages": [USER, SAID_AND_CALLED, RESULT, RESULT_2], "tools": TOOLS},
    "tool without arguments": {"messages": [USER, NO_ARGUMENTS, {**RESULT, "name": "now", "tool_call_id": "abcdef125"}],
                               "tools": [BARE]},
    "turns with tools": {"messages": [SYSTEM, USER, ONE_CALL, RESULT, ANSWER, THANKS], "tools": TOOLS},
    "calls without a list of tools": {"messages": [USER, ONE_CALL, RESULT]},
    "go on": {"messages": [SYSTEM, USER, {"role": "assistant", "content": "It is"}], "continue": True},
    "go on behind a space": {"messages": [USER, {"role": "assistant", "content": "  It is \n"}], "continue": True},
    "go on from nothing": {"messages": [USER, {"role": "assistant", "content": ""}], "continue": True},
    "go on in a thought": {"messages": [USER, {"role": "assistant", "content": "<think>\nwell"}], "continue": True},
    "go on behind tools": {"messages": [USER, ONE_CALL, RESULT, {"role": "assistant", "content": "So"}], "tools": TOOLS,
                           "continue": True},
    "no thinking": {"messages": [SYSTEM, USER], "args": {"enable_thinking": False, "thinking": False}},
    "thinking": {"messages": [USER], "args": {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}},
    "arguments": {"messages": [USER], "tools": [WEATHER],
                  "args": {"date_string": "01 Feb 2024", "tools_in_user_message": False, "keep_past_thinking": True,
                           "builtin_tools": ["python"], "xml_tools": None, "custom": {"a": [1, 0.5]}, "functions": "[]", "datetime": "today"}},
}

# Templates that may differ, and why. Each does with some of the conversations, or it would not be listed.
KNOWN = {
    "Kimi-K2-Instruct.jinja": "appends to a list, which the reference's sandbox forbids",
    "Kimi-K2-Thinking.jinja": "appends to a list, which the reference's sandbox forbids",
    "llama-cpp-deepseek-r1.jinja": "tojson of what map gives, which is no list to the reference",
    "meetkai-functionary-medium-v3.1.jinja": "adds texts to one marked safe, which makes HTML of them in the reference",
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--write", type=pathlib.Path)
    arguments = parser.parse_args()
    program, folder, verbose = arguments.program, arguments.folder, arguments.verbose
    paths = sorted(pathlib.Path(folder).glob("*.jinja"))
    if not paths:
        print(f"skipped: there are no templates in {folder} (scripts/fetch_jinja.sh puts some there)")
        sys.exit(77)
    env = environment()
    work = [(path, name, case) for path in paths for name, case in CASES.items()]
    lines = "".join(json.dumps(request(path, case), ensure_ascii=False) + "\n" for path, _, case in work)
    run = subprocess.run([program], input=lines.encode(), capture_output=True, check=True)
    answers = [json.loads(line) for line in run.stdout.decode().splitlines()]
    assert len(answers) == len(work), f"{len(answers)} answers to {len(work)} requests"
    same = refused = 0
    prompts, wrong = [], []
    known = set()
    templates = {path: env.from_string(path.read_text(encoding="utf-8")) for path in paths}
    for (path, name, case), answer in zip(work, answers):
        expected, why = reference(templates[path], case)
        got = answer.get("text")
        if expected == got:
            same += expected is not None
            refused += expected is None
            prompts += [expected] if expected is not None else []
            continue
        if path.name in KNOWN and got is not None:
            known.add(path.name)
        else:
            wrong.append((path.name, name, expected, got, answer.get("message", ""), why))
    for template, name, expected, got, message, why in wrong:
        print(f"{template}, {name}:")
        if expected is not None and got is not None:
            at = next((i for i, (a, b) in enumerate(zip(expected, got)) if a != b), min(len(expected), len(got)))
            print(f"  at {at}: expected ...{expected[max(0, at - 40):at + 60]!r}\n  got ...{got[max(0, at - 40):at + 60]!r}")
        else:
            print(f"  expected {'a prompt' if expected is not None else 'a refusal: ' + why[:200]}, "
                  f"got {'a prompt' if got is not None else 'a refusal: ' + message[:300]}")
        if verbose:
            print(f"  expected: {expected!r}\n  got: {got!r}")
    if arguments.write:
        arguments.write.write_text("\n".join(prompts), encoding="utf-8")
    stale = KNOWN.keys() - known
    print(f"{len(paths)} templates x {len(CASES)} conversations: {same} the same, {refused} refused by both, "
          f"{len(wrong)} wrong, {len(work) - same - refused - len(wrong)} known to differ")
    if stale:
        print(f"listed as different, but are not: {sorted(stale)}")
    sys.exit(1 if wrong or stale or same < len(work) // 2 else 0)


if __name__ == "__main__":
    main()
