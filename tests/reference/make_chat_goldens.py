#!/usr/bin/env python3
"""Writes tests/core/tokenizer/chat_goldens.h: compact chat templates of the common families and the prompts that
Python's jinja2 makes of them with the settings of transformers. Needs PyPI jinja2. Usage: make_chat_goldens.py > chat_goldens.h
"""
import json

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATES = {
    "smollm2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a helpful AI assistant.<|im_end|>\\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"),
    "llama3": (
        "{{- bos_token }}\n{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n"
        "{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0]['content']|trim %}\n"
        "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system = '' %}\n{%- endif %}\n"
        "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\n{%- if tools is not none %}\n"
        "    {{- 'Environment: ipython\\n' }}\n    {%- for t in tools %}\n        {{- t | tojson(indent=4) }}\n"
        "        {{- '\\n\\n' }}\n    {%- endfor %}\n{%- endif %}\n{{- system }}\n{{- '<|eot_id|>' }}\n"
        "{%- for message in messages %}\n"
        "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}\n"
        "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"),
    "gemma": (
        "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' -%}\n"
        "    {%- set prefix = messages[0]['content'] + '\\n\\n' -%}\n    {%- set loop_messages = messages[1:] -%}\n"
        "{%- else -%}\n    {%- set prefix = '' -%}\n    {%- set loop_messages = messages -%}\n{%- endif -%}\n"
        "{%- for message in loop_messages -%}\n    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n"
        "        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}\n    {%- endif -%}\n"
        "    {%- if message['role'] == 'assistant' -%}\n        {%- set role = 'model' -%}\n    {%- else -%}\n"
        "        {%- set role = message['role'] -%}\n    {%- endif -%}\n"
        "    {{ '<start_of_turn>' + role + '\\n' + (prefix if loop.first else '') }}\n"
        "    {%- if message['content'] is string -%}\n        {{ message['content'] | trim }}\n"
        "    {%- elif message['content'] is iterable -%}\n        {{ 'parts' }}\n    {%- endif -%}\n"
        "    {{ '<end_of_turn>\\n' }}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n    {{ '<start_of_turn>model\\n' }}\n{%- endif -%}\n"),
    "mistral": (
        "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content'] %}\n"
        "    {%- set loop_messages = messages[1:] %}\n{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n"
        "{{- bos_token }}\n{%- for message in loop_messages %}\n"
        "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
        "        {{- raise_exception('After the optional system message, conversation roles must alternate') }}\n    {%- endif %}\n"
        "    {%- if message['role'] == 'user' %}\n        {%- if loop.last and system_message is defined %}\n"
        "            {{- '[INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}\n        {%- else %}\n"
        "            {{- '[INST] ' + message['content'] + ' [/INST]' }}\n        {%- endif %}\n"
        "    {%- elif message['role'] == 'assistant' %}\n        {{- ' ' + message['content'] + eos_token }}\n    {%- else %}\n"
        "        {{- raise_exception('Only user and assistant roles are supported!') }}\n    {%- endif %}\n{%- endfor %}\n"),
    "qwen": (
        "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n    {%- if messages[0].role == 'system' %}\n"
        "        {{- messages[0].content + '\\n\\n' }}\n    {%- endif %}\n"
        "    {{- \"# Tools\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n<tools>\" }}\n"
        "    {%- for tool in tools %}\n        {{- \"\\n\" }}\n        {{- tool | tojson }}\n    {%- endfor %}\n"
        "    {{- \"\\n</tools><|im_end|>\\n\" }}\n{%- else %}\n    {%- if messages[0].role == 'system' %}\n"
        "        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endif %}\n"
        "{%- set ns = namespace(last=messages|length - 1) %}\n"
        "{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n"
        "    {%- if message.role == 'user' %}\n        {%- set ns.last = index %}\n    {%- endif %}\n{%- endfor %}\n"
        "{%- for message in messages %}\n    {%- set content = message.content %}\n"
        "    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}\n"
        "        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}\n"
        "    {%- elif message.role == 'assistant' %}\n        {%- if '</think>' in content %}\n"
        "            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n        {%- endif %}\n"
        "        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n"
        "    {%- if enable_thinking is defined and enable_thinking is false %}\n        {{- '<think>\\n\\n</think>\\n\\n' }}\n"
        "    {%- endif %}\n{%- endif %}\n"),
    "blocks": (
        "{# a comment #}\n{% for m in messages %}\n    {% if m.role == 'user' %}\n  U:{{ m.content }}\n    {% else %}\n"
        "  A:{{ m.role|upper }} {{ m.content }}\n    {% endif %}\n{% endfor %}\n{% macro tag(x, y='!') %}<{{ x }}{{ y }}>{% endmacro %}\n"
        "{{ tag('a') }}{{ tag('b', y='?') }} {{ [1, 2, 3] | join('-') }} {{ messages | length }}\n"),
}

# Templates of models that call tools, in short: what is called, what a tool answers, and a variable of the request.
CALLING = {
    "calls": (
        "{%- if tools %}\n    {{- '<tools>' ~ (tools | tojson(indent=2)) ~ '</tools>\\n' }}\n{%- endif %}\n"
        "{%- for message in messages %}\n    {{- '<|' ~ message.role ~ '|>' }}\n"
        "    {%- if message.name is defined %}{{ '(' ~ message.name ~ ')' }}{% endif %}\n"
        "    {%- if message.tool_call_id is defined %}{{ '#' ~ message.tool_call_id }}{% endif %}\n"
        "    {%- if message.content is defined %}\n        {{- message.content }}\n    {%- endif %}\n"
        "    {%- for call in message.tool_calls or [] %}\n        {%- set function = call.function %}\n"
        "        {{- '<call id=' ~ call.id ~ '>' ~ function.name ~ ': ' ~ (function.arguments | tojson) ~ function.arguments }}\n"
        "        {%- for key, value in function.arguments.items() %}{{ '[' ~ key ~ '=' ~ value ~ ']' }}{% endfor %}\n"
        "    {%- endfor %}\n    {{- '<|end|>\\n' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|assistant|>' ~ (style if style is defined else '') }}\n{%- endif %}\n"),
}

CALL = [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {
    "city": "東京", "it's": 'a "q"\n', "numbers": [1, 1.0, 1e-7, 123456.789, 1e22], "flags": {"a": True, "b": None}}}},
        {"id": "c2", "type": "function", "function": {"name": "now", "arguments": {}}}]
CALLED = [{"role": "user", "content": "Hi", "name": "Ann"}, {"role": "assistant", "tool_calls": CALL},
          {"role": "tool", "content": "21.5", "name": "get_weather", "tool_call_id": "c1"}]

CONVERSATIONS = [
    [["user", "Hi there"]],
    [["system", "Be brief."], ["user", "  What is 2+2?  \n"], ["assistant", "<think>\nsum\n</think>\n\n4 <ok> & 'é' 漢"],
     ["user", "Thanks \"you\"\n\nnext 👍"]],
    [["user", ""], ["assistant", "a\nb"], ["user", "{{ messages }} {% if %}"]],
]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "It's <b>&</b> \"fine\" é",
                                           "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
                                                          "required": ["city"]}}}]


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def raw(text):
    return f'R"~~({text})~~"' if text else '""'


def dump(value):
    return json.dumps(value, ensure_ascii=False) if value else ""


def row(message):
    fields = [("role", message["role"]), ("content", message.get("content", "")), ("name", message.get("name", "")),
              ("tool_calls_json", dump(message.get("tool_calls"))), ("tool_call_id", message.get("tool_call_id", ""))]
    return "{" + ", ".join(f".{k} = {raw(v)}" for k, v in fields if v) + "}"


def main():
    env = environment()
    print("// Made by tests/reference/make_chat_goldens.py; what Python's jinja2 makes of each template.")
    print("#pragma once\n\n#include <string_view>\n#include <vector>\n\n#include \"core/tokenizer/chat_template.h\"\n")
    print("namespace qamserve {\n")
    print("struct ChatGolden {\n  std::string_view name;\n  std::string_view source;\n  std::vector<ChatMessage> messages;\n"
          "  bool add_generation_prompt;\n  std::string_view tools_json;\n  std::string_view args_json;\n  bool goes_on;\n  std::string_view prompt;  // \"\" if the template refuses\n};\n")
    print("inline std::vector<ChatGolden> ChatGoldens() {\n  return {")
    for name, source in TEMPLATES.items():
        for conversation in CONVERSATIONS:
            for generation, tools in ((True, None), (False, None), (True, TOOLS)):
                if tools and name not in ("llama3", "qwen"):
                    continue
                messages = [{"role": r, "content": c} for r, c in conversation]
                try:
                    prompt = env.from_string(source).render(messages=messages, bos_token="<s>", eos_token="</s>", tools=tools,
                                                            documents=None, add_generation_prompt=generation)
                except jinja2.exceptions.TemplateError:
                    prompt = ""
                rows = ", ".join("{" + raw(r) + ", " + raw(c) + "}" for r, c in conversation)
                tools_json = json.dumps(tools, ensure_ascii=False) if tools else ""
                print(f'      {{"{name}", {raw(source)},\n       {{{rows}}}, {str(generation).lower()},\n       {raw(tools_json)}, "", false,\n       {raw(prompt)}}},')
    for name, source in CALLING.items():
        for messages, tools, args, goes_on in (
                (CALLED, TOOLS, {}, False), (CALLED, None, {"style": [0.5, "it's"]}, False),
                (CALLED[:1] + [{"role": "assistant", "content": " It is "}], TOOLS, {}, True)):
            tag = "CONTINUE_FINAL_MESSAGE_TAG " if goes_on else ""
            shown = messages[:-1] + [{**messages[-1], "content": messages[-1]["content"] + tag}]
            prompt = env.from_string(source).render(messages=shown, bos_token="<s>", eos_token="</s>", tools=tools, documents=None,
                                                    add_generation_prompt=not goes_on, **args)
            prompt = prompt[:prompt.rindex(tag)] if goes_on else prompt
            print(f'      {{"{name}", {raw(source)},\n       {{{", ".join(row(m) for m in messages)}}}, true,\n'
                  f'       {raw(dump(tools))}, {raw(dump(args))}, {str(goes_on).lower()},\n       {raw(prompt)}}},')
    print("  };\n}\n\n}  // namespace qamserve")


if __name__ == "__main__":
    main()
