// Made by tests/reference/make_chat_goldens.py; what Python's jinja2 makes of each template.
#pragma once

#include <string_view>
#include <vector>

#include "core/tokenizer/chat_template.h"

namespace qamserve {

struct ChatGolden {
  std::string_view name;
  std::string_view source;
  std::vector<ChatMessage> messages;
  bool add_generation_prompt;
  std::string_view tools_json;
  std::string_view args_json;
  bool goes_on;
  std::string_view prompt;  // "" if the template refuses
};

inline std::vector<ChatGolden> ChatGoldens() {
  return {
      {"smollm2", R"~~({% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, true,
       "", "", false,
       R"~~(<|im_start|>system
You are a helpful AI assistant.<|im_end|>
<|im_start|>user
Hi there<|im_end|>
<|im_start|>assistant
)~~"},
      {"smollm2", R"~~({% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, false,
       "", "", false,
       R"~~(<|im_start|>system
You are a helpful AI assistant.<|im_end|>
<|im_start|>user
Hi there<|im_end|>
)~~"},
      {"smollm2", R"~~({% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, true,
       "", "", false,
       R"~~(<|im_start|>system
Be brief.<|im_end|>
<|im_start|>user
  What is 2+2?  
<|im_end|>
<|im_start|>assistant
<think>
sum
</think>

4 <ok> & 'é' 漢<|im_end|>
<|im_start|>user
Thanks "you"

next 👍<|im_end|>
<|im_start|>assistant
)~~"},
      {"smollm2", R"~~({% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, false,
       "", "", false,
       R"~~(<|im_start|>system
Be brief.<|im_end|>
<|im_start|>user
  What is 2+2?  
<|im_end|>
<|im_start|>assistant
<think>
sum
</think>

4 <ok> & 'é' 漢<|im_end|>
<|im_start|>user
Thanks "you"

next 👍<|im_end|>
)~~"},
      {"smollm2", R"~~({% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, true,
       "", "", false,
       R"~~(<|im_start|>system
You are a helpful AI assistant.<|im_end|>
<|im_start|>user
<|im_end|>
<|im_start|>assistant
a
b<|im_end|>
<|im_start|>user
{{ messages }} {% if %}<|im_end|>
<|im_start|>assistant
)~~"},
      {"smollm2", R"~~({% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, false,
       "", "", false,
       R"~~(<|im_start|>system
You are a helpful AI assistant.<|im_end|>
<|im_start|>user
<|im_end|>
<|im_start|>assistant
a
b<|im_end|>
<|im_start|>user
{{ messages }} {% if %}<|im_end|>
)~~"},
      {"llama3", R"~~({{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}
    {{- 'Environment: ipython\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- '\n\n' }}
    {%- endfor %}
{%- endif %}
{{- system }}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
)~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, true,
       "", "", false,
       R"~~(<s><|start_header_id|>system<|end_header_id|>

<|eot_id|><|start_header_id|>user<|end_header_id|>

Hi there<|eot_id|><|start_header_id|>assistant<|end_header_id|>

)~~"},
      {"llama3", R"~~({{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}
    {{- 'Environment: ipython\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- '\n\n' }}
    {%- endfor %}
{%- endif %}
{{- system }}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
)~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, false,
       "", "", false,
       R"~~(<s><|start_header_id|>system<|end_header_id|>

<|eot_id|><|start_header_id|>user<|end_header_id|>

Hi there<|eot_id|>)~~"},
      {"llama3", R"~~({{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}
    {{- 'Environment: ipython\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- '\n\n' }}
    {%- endfor %}
{%- endif %}
{{- system }}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
)~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, true,
       R"~~([{"type": "function", "function": {"name": "get_weather", "description": "It's <b>&</b> \"fine\" é", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}])~~", "", false,
       R"~~(<s><|start_header_id|>system<|end_header_id|>

Environment: ipython
{
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "It's <b>&</b> \"fine\" é",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {
                    "type": "string"
                }
            },
            "required": [
                "city"
            ]
        }
    }
}

<|eot_id|><|start_header_id|>user<|end_header_id|>

Hi there<|eot_id|><|start_header_id|>assistant<|end_header_id|>

)~~"},
      {"llama3", R"~~({{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}
    {{- 'Environment: ipython\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- '\n\n' }}
    {%- endfor %}
{%- endif %}
{{- system }}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
)~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, true,
       "", "", false,
       R"~~(<s><|start_header_id|>system<|end_header_id|>

Be brief.<|eot_id|><|start_header_id|>user<|end_header_id|>

What is 2+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

<think>
sum
</think>

4 <ok> & 'é' 漢<|eot_id|><|start_header_id|>user<|end_header_id|>

Thanks "you"

next 👍<|eot_id|><|start_header_id|>assistant<|end_header_id|>

)~~"},
      {"llama3", R"~~({{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}
    {{- 'Environment: ipython\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- '\n\n' }}
    {%- endfor %}
{%- endif %}
{{- system }}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
)~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, false,
       "", "", false,
       R"~~(<s><|start_header_id|>system<|end_header_id|>

Be brief.<|eot_id|><|start_header_id|>user<|end_header_id|>

What is 2+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

<think>
sum
</think>

4 <ok> & 'é' 漢<|eot_id|><|start_header_id|>user<|end_header_id|>

Thanks "you"

next 👍<|eot_id|>)~~"},
      {"llama3", R"~~({{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}
    {{- 'Environment: ipython\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- '\n\n' }}
    {%- endfor %}
{%- endif %}
{{- system }}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
)~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, true,
       R"~~([{"type": "function", "function": {"name": "get_weather", "description": "It's <b>&</b> \"fine\" é", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}])~~", "", false,
       R"~~(<s><|start_header_id|>system<|end_header_id|>

Environment: ipython
{
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "It's <b>&</b> \"fine\" é",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {
                    "type": "string"
                }
            },
            "required": [
                "city"
            ]
        }
    }
}

Be brief.<|eot_id|><|start_header_id|>user<|end_header_id|>

What is 2+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

<think>
sum
</think>

4 <ok> & 'é' 漢<|eot_id|><|start_header_id|>user<|end_header_id|>

Thanks "you"

next 👍<|eot_id|><|start_header_id|>assistant<|end_header_id|>

)~~"},
      {"llama3", R"~~({{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}
    {{- 'Environment: ipython\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- '\n\n' }}
    {%- endfor %}
{%- endif %}
{{- system }}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
)~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, true,
       "", "", false,
       R"~~(<s><|start_header_id|>system<|end_header_id|>

<|eot_id|><|start_header_id|>user<|end_header_id|>

<|eot_id|><|start_header_id|>assistant<|end_header_id|>

a
b<|eot_id|><|start_header_id|>user<|end_header_id|>

{{ messages }} {% if %}<|eot_id|><|start_header_id|>assistant<|end_header_id|>

)~~"},
      {"llama3", R"~~({{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}
    {{- 'Environment: ipython\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- '\n\n' }}
    {%- endfor %}
{%- endif %}
{{- system }}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
)~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, false,
       "", "", false,
       R"~~(<s><|start_header_id|>system<|end_header_id|>

<|eot_id|><|start_header_id|>user<|end_header_id|>

<|eot_id|><|start_header_id|>assistant<|end_header_id|>

a
b<|eot_id|><|start_header_id|>user<|end_header_id|>

{{ messages }} {% if %}<|eot_id|>)~~"},
      {"llama3", R"~~({{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}
    {{- 'Environment: ipython\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- '\n\n' }}
    {%- endfor %}
{%- endif %}
{{- system }}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
)~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, true,
       R"~~([{"type": "function", "function": {"name": "get_weather", "description": "It's <b>&</b> \"fine\" é", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}])~~", "", false,
       R"~~(<s><|start_header_id|>system<|end_header_id|>

Environment: ipython
{
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "It's <b>&</b> \"fine\" é",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {
                    "type": "string"
                }
            },
            "required": [
                "city"
            ]
        }
    }
}

<|eot_id|><|start_header_id|>user<|end_header_id|>

<|eot_id|><|start_header_id|>assistant<|end_header_id|>

a
b<|eot_id|><|start_header_id|>user<|end_header_id|>

{{ messages }} {% if %}<|eot_id|><|start_header_id|>assistant<|end_header_id|>

)~~"},
      {"gemma", R"~~({{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {%- set role = 'model' -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {{ 'parts' }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
)~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, true,
       "", "", false,
       R"~~(<s><start_of_turn>user
Hi there<end_of_turn>
<start_of_turn>model
)~~"},
      {"gemma", R"~~({{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {%- set role = 'model' -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {{ 'parts' }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
)~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, false,
       "", "", false,
       R"~~(<s><start_of_turn>user
Hi there<end_of_turn>
)~~"},
      {"gemma", R"~~({{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {%- set role = 'model' -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {{ 'parts' }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
)~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, true,
       "", "", false,
       R"~~(<s><start_of_turn>user
Be brief.

What is 2+2?<end_of_turn>
<start_of_turn>model
<think>
sum
</think>

4 <ok> & 'é' 漢<end_of_turn>
<start_of_turn>user
Thanks "you"

next 👍<end_of_turn>
<start_of_turn>model
)~~"},
      {"gemma", R"~~({{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {%- set role = 'model' -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {{ 'parts' }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
)~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, false,
       "", "", false,
       R"~~(<s><start_of_turn>user
Be brief.

What is 2+2?<end_of_turn>
<start_of_turn>model
<think>
sum
</think>

4 <ok> & 'é' 漢<end_of_turn>
<start_of_turn>user
Thanks "you"

next 👍<end_of_turn>
)~~"},
      {"gemma", R"~~({{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {%- set role = 'model' -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {{ 'parts' }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
)~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, true,
       "", "", false,
       R"~~(<s><start_of_turn>user
<end_of_turn>
<start_of_turn>model
a
b<end_of_turn>
<start_of_turn>user
{{ messages }} {% if %}<end_of_turn>
<start_of_turn>model
)~~"},
      {"gemma", R"~~({{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {%- set role = 'model' -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {{ 'parts' }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
)~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, false,
       "", "", false,
       R"~~(<s><start_of_turn>user
<end_of_turn>
<start_of_turn>model
a
b<end_of_turn>
<start_of_turn>user
{{ messages }} {% if %}<end_of_turn>
)~~"},
      {"mistral", R"~~({%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\n\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
)~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, true,
       "", "", false,
       R"~~(<s>[INST] Hi there [/INST])~~"},
      {"mistral", R"~~({%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\n\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
)~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, false,
       "", "", false,
       R"~~(<s>[INST] Hi there [/INST])~~"},
      {"mistral", R"~~({%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\n\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
)~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, true,
       "", "", false,
       R"~~(<s>[INST]   What is 2+2?  
 [/INST] <think>
sum
</think>

4 <ok> & 'é' 漢</s>[INST] Be brief.

Thanks "you"

next 👍 [/INST])~~"},
      {"mistral", R"~~({%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\n\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
)~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, false,
       "", "", false,
       R"~~(<s>[INST]   What is 2+2?  
 [/INST] <think>
sum
</think>

4 <ok> & 'é' 漢</s>[INST] Be brief.

Thanks "you"

next 👍 [/INST])~~"},
      {"mistral", R"~~({%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\n\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
)~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, true,
       "", "", false,
       R"~~(<s>[INST]  [/INST] a
b</s>[INST] {{ messages }} {% if %} [/INST])~~"},
      {"mistral", R"~~({%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\n\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
)~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, false,
       "", "", false,
       R"~~(<s>[INST]  [/INST] a
b</s>[INST] {{ messages }} {% if %} [/INST])~~"},
      {"qwen", R"~~({%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
)~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, true,
       "", "", false,
       R"~~(<|im_start|>user
Hi there<|im_end|>
<|im_start|>assistant
)~~"},
      {"qwen", R"~~({%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
)~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, false,
       "", "", false,
       R"~~(<|im_start|>user
Hi there<|im_end|>
)~~"},
      {"qwen", R"~~({%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
)~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, true,
       R"~~([{"type": "function", "function": {"name": "get_weather", "description": "It's <b>&</b> \"fine\" é", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}])~~", "", false,
       R"~~(<|im_start|>system
# Tools

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "get_weather", "description": "It's <b>&</b> \"fine\" é", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
</tools><|im_end|>
<|im_start|>user
Hi there<|im_end|>
<|im_start|>assistant
)~~"},
      {"qwen", R"~~({%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
)~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, true,
       "", "", false,
       R"~~(<|im_start|>system
Be brief.<|im_end|>
<|im_start|>user
  What is 2+2?  
<|im_end|>
<|im_start|>assistant
4 <ok> & 'é' 漢<|im_end|>
<|im_start|>user
Thanks "you"

next 👍<|im_end|>
<|im_start|>assistant
)~~"},
      {"qwen", R"~~({%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
)~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, false,
       "", "", false,
       R"~~(<|im_start|>system
Be brief.<|im_end|>
<|im_start|>user
  What is 2+2?  
<|im_end|>
<|im_start|>assistant
4 <ok> & 'é' 漢<|im_end|>
<|im_start|>user
Thanks "you"

next 👍<|im_end|>
)~~"},
      {"qwen", R"~~({%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
)~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, true,
       R"~~([{"type": "function", "function": {"name": "get_weather", "description": "It's <b>&</b> \"fine\" é", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}])~~", "", false,
       R"~~(<|im_start|>system
Be brief.

# Tools

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "get_weather", "description": "It's <b>&</b> \"fine\" é", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
</tools><|im_end|>
<|im_start|>user
  What is 2+2?  
<|im_end|>
<|im_start|>assistant
4 <ok> & 'é' 漢<|im_end|>
<|im_start|>user
Thanks "you"

next 👍<|im_end|>
<|im_start|>assistant
)~~"},
      {"qwen", R"~~({%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
)~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, true,
       "", "", false,
       R"~~(<|im_start|>user
<|im_end|>
<|im_start|>assistant
a
b<|im_end|>
<|im_start|>user
{{ messages }} {% if %}<|im_end|>
<|im_start|>assistant
)~~"},
      {"qwen", R"~~({%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
)~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, false,
       "", "", false,
       R"~~(<|im_start|>user
<|im_end|>
<|im_start|>assistant
a
b<|im_end|>
<|im_start|>user
{{ messages }} {% if %}<|im_end|>
)~~"},
      {"qwen", R"~~({%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
)~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, true,
       R"~~([{"type": "function", "function": {"name": "get_weather", "description": "It's <b>&</b> \"fine\" é", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}])~~", "", false,
       R"~~(<|im_start|>system
# Tools

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "get_weather", "description": "It's <b>&</b> \"fine\" é", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
</tools><|im_end|>
<|im_start|>user
<|im_end|>
<|im_start|>assistant
a
b<|im_end|>
<|im_start|>user
{{ messages }} {% if %}<|im_end|>
<|im_start|>assistant
)~~"},
      {"blocks", R"~~({# a comment #}
{% for m in messages %}
    {% if m.role == 'user' %}
  U:{{ m.content }}
    {% else %}
  A:{{ m.role|upper }} {{ m.content }}
    {% endif %}
{% endfor %}
{% macro tag(x, y='!') %}<{{ x }}{{ y }}>{% endmacro %}
{{ tag('a') }}{{ tag('b', y='?') }} {{ [1, 2, 3] | join('-') }} {{ messages | length }}
)~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, true,
       "", "", false,
       R"~~(  U:Hi there
<a!><b?> 1-2-3 1)~~"},
      {"blocks", R"~~({# a comment #}
{% for m in messages %}
    {% if m.role == 'user' %}
  U:{{ m.content }}
    {% else %}
  A:{{ m.role|upper }} {{ m.content }}
    {% endif %}
{% endfor %}
{% macro tag(x, y='!') %}<{{ x }}{{ y }}>{% endmacro %}
{{ tag('a') }}{{ tag('b', y='?') }} {{ [1, 2, 3] | join('-') }} {{ messages | length }}
)~~",
       {{R"~~(user)~~", R"~~(Hi there)~~"}}, false,
       "", "", false,
       R"~~(  U:Hi there
<a!><b?> 1-2-3 1)~~"},
      {"blocks", R"~~({# a comment #}
{% for m in messages %}
    {% if m.role == 'user' %}
  U:{{ m.content }}
    {% else %}
  A:{{ m.role|upper }} {{ m.content }}
    {% endif %}
{% endfor %}
{% macro tag(x, y='!') %}<{{ x }}{{ y }}>{% endmacro %}
{{ tag('a') }}{{ tag('b', y='?') }} {{ [1, 2, 3] | join('-') }} {{ messages | length }}
)~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, true,
       "", "", false,
       R"~~(  A:SYSTEM Be brief.
  U:  What is 2+2?  

  A:ASSISTANT <think>
sum
</think>

4 <ok> & 'é' 漢
  U:Thanks "you"

next 👍
<a!><b?> 1-2-3 4)~~"},
      {"blocks", R"~~({# a comment #}
{% for m in messages %}
    {% if m.role == 'user' %}
  U:{{ m.content }}
    {% else %}
  A:{{ m.role|upper }} {{ m.content }}
    {% endif %}
{% endfor %}
{% macro tag(x, y='!') %}<{{ x }}{{ y }}>{% endmacro %}
{{ tag('a') }}{{ tag('b', y='?') }} {{ [1, 2, 3] | join('-') }} {{ messages | length }}
)~~",
       {{R"~~(system)~~", R"~~(Be brief.)~~"}, {R"~~(user)~~", R"~~(  What is 2+2?  
)~~"}, {R"~~(assistant)~~", R"~~(<think>
sum
</think>

4 <ok> & 'é' 漢)~~"}, {R"~~(user)~~", R"~~(Thanks "you"

next 👍)~~"}}, false,
       "", "", false,
       R"~~(  A:SYSTEM Be brief.
  U:  What is 2+2?  

  A:ASSISTANT <think>
sum
</think>

4 <ok> & 'é' 漢
  U:Thanks "you"

next 👍
<a!><b?> 1-2-3 4)~~"},
      {"blocks", R"~~({# a comment #}
{% for m in messages %}
    {% if m.role == 'user' %}
  U:{{ m.content }}
    {% else %}
  A:{{ m.role|upper }} {{ m.content }}
    {% endif %}
{% endfor %}
{% macro tag(x, y='!') %}<{{ x }}{{ y }}>{% endmacro %}
{{ tag('a') }}{{ tag('b', y='?') }} {{ [1, 2, 3] | join('-') }} {{ messages | length }}
)~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, true,
       "", "", false,
       R"~~(  U:
  A:ASSISTANT a
b
  U:{{ messages }} {% if %}
<a!><b?> 1-2-3 3)~~"},
      {"blocks", R"~~({# a comment #}
{% for m in messages %}
    {% if m.role == 'user' %}
  U:{{ m.content }}
    {% else %}
  A:{{ m.role|upper }} {{ m.content }}
    {% endif %}
{% endfor %}
{% macro tag(x, y='!') %}<{{ x }}{{ y }}>{% endmacro %}
{{ tag('a') }}{{ tag('b', y='?') }} {{ [1, 2, 3] | join('-') }} {{ messages | length }}
)~~",
       {{R"~~(user)~~", ""}, {R"~~(assistant)~~", R"~~(a
b)~~"}, {R"~~(user)~~", R"~~({{ messages }} {% if %})~~"}}, false,
       "", "", false,
       R"~~(  U:
  A:ASSISTANT a
b
  U:{{ messages }} {% if %}
<a!><b?> 1-2-3 3)~~"},
      {"calls", R"~~({%- if tools %}
    {{- '<tools>' ~ (tools | tojson(indent=2)) ~ '</tools>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|' ~ message.role ~ '|>' }}
    {%- if message.name is defined %}{{ '(' ~ message.name ~ ')' }}{% endif %}
    {%- if message.tool_call_id is defined %}{{ '#' ~ message.tool_call_id }}{% endif %}
    {%- if message.content is defined %}
        {{- message.content }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {%- set function = call.function %}
        {{- '<call id=' ~ call.id ~ '>' ~ function.name ~ ': ' ~ (function.arguments | tojson) ~ function.arguments }}
        {%- for key, value in function.arguments.items() %}{{ '[' ~ key ~ '=' ~ value ~ ']' }}{% endfor %}
    {%- endfor %}
    {{- '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' ~ (style if style is defined else '') }}
{%- endif %}
)~~",
       {{.role = R"~~(user)~~", .content = R"~~(Hi)~~", .name = R"~~(Ann)~~"}, {.role = R"~~(assistant)~~", .tool_calls_json = R"~~([{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "東京", "it's": "a \"q\"\n", "numbers": [1, 1.0, 1e-07, 123456.789, 1e+22], "flags": {"a": true, "b": null}}}}, {"id": "c2", "type": "function", "function": {"name": "now", "arguments": {}}}])~~"}, {.role = R"~~(tool)~~", .content = R"~~(21.5)~~", .name = R"~~(get_weather)~~", .tool_call_id = R"~~(c1)~~"}}, true,
       R"~~([{"type": "function", "function": {"name": "get_weather", "description": "It's <b>&</b> \"fine\" é", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}])~~", "", false,
       R"~~(<tools>[
  {
    "type": "function",
    "function": {
      "name": "get_weather",
      "description": "It's <b>&</b> \"fine\" é",
      "parameters": {
        "type": "object",
        "properties": {
          "city": {
            "type": "string"
          }
        },
        "required": [
          "city"
        ]
      }
    }
  }
]</tools>
<|user|>(Ann)Hi<|end|>
<|assistant|><call id=c1>get_weather: {"city": "東京", "it's": "a \"q\"\n", "numbers": [1, 1.0, 1e-07, 123456.789, 1e+22], "flags": {"a": true, "b": null}}{'city': '東京', "it's": 'a "q"\n', 'numbers': [1, 1.0, 1e-07, 123456.789, 1e+22], 'flags': {'a': True, 'b': None}}[city=東京][it's=a "q"
][numbers=[1, 1.0, 1e-07, 123456.789, 1e+22]][flags={'a': True, 'b': None}]<call id=c2>now: {}{}<|end|>
<|tool|>(get_weather)#c121.5<|end|>
<|assistant|>)~~"},
      {"calls", R"~~({%- if tools %}
    {{- '<tools>' ~ (tools | tojson(indent=2)) ~ '</tools>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|' ~ message.role ~ '|>' }}
    {%- if message.name is defined %}{{ '(' ~ message.name ~ ')' }}{% endif %}
    {%- if message.tool_call_id is defined %}{{ '#' ~ message.tool_call_id }}{% endif %}
    {%- if message.content is defined %}
        {{- message.content }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {%- set function = call.function %}
        {{- '<call id=' ~ call.id ~ '>' ~ function.name ~ ': ' ~ (function.arguments | tojson) ~ function.arguments }}
        {%- for key, value in function.arguments.items() %}{{ '[' ~ key ~ '=' ~ value ~ ']' }}{% endfor %}
    {%- endfor %}
    {{- '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' ~ (style if style is defined else '') }}
{%- endif %}
)~~",
       {{.role = R"~~(user)~~", .content = R"~~(Hi)~~", .name = R"~~(Ann)~~"}, {.role = R"~~(assistant)~~", .tool_calls_json = R"~~([{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "東京", "it's": "a \"q\"\n", "numbers": [1, 1.0, 1e-07, 123456.789, 1e+22], "flags": {"a": true, "b": null}}}}, {"id": "c2", "type": "function", "function": {"name": "now", "arguments": {}}}])~~"}, {.role = R"~~(tool)~~", .content = R"~~(21.5)~~", .name = R"~~(get_weather)~~", .tool_call_id = R"~~(c1)~~"}}, true,
       "", R"~~({"style": [0.5, "it's"]})~~", false,
       R"~~(<|user|>(Ann)Hi<|end|>
<|assistant|><call id=c1>get_weather: {"city": "東京", "it's": "a \"q\"\n", "numbers": [1, 1.0, 1e-07, 123456.789, 1e+22], "flags": {"a": true, "b": null}}{'city': '東京', "it's": 'a "q"\n', 'numbers': [1, 1.0, 1e-07, 123456.789, 1e+22], 'flags': {'a': True, 'b': None}}[city=東京][it's=a "q"
][numbers=[1, 1.0, 1e-07, 123456.789, 1e+22]][flags={'a': True, 'b': None}]<call id=c2>now: {}{}<|end|>
<|tool|>(get_weather)#c121.5<|end|>
<|assistant|>[0.5, "it's"])~~"},
      {"calls", R"~~({%- if tools %}
    {{- '<tools>' ~ (tools | tojson(indent=2)) ~ '</tools>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|' ~ message.role ~ '|>' }}
    {%- if message.name is defined %}{{ '(' ~ message.name ~ ')' }}{% endif %}
    {%- if message.tool_call_id is defined %}{{ '#' ~ message.tool_call_id }}{% endif %}
    {%- if message.content is defined %}
        {{- message.content }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {%- set function = call.function %}
        {{- '<call id=' ~ call.id ~ '>' ~ function.name ~ ': ' ~ (function.arguments | tojson) ~ function.arguments }}
        {%- for key, value in function.arguments.items() %}{{ '[' ~ key ~ '=' ~ value ~ ']' }}{% endfor %}
    {%- endfor %}
    {{- '<|end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' ~ (style if style is defined else '') }}
{%- endif %}
)~~",
       {{.role = R"~~(user)~~", .content = R"~~(Hi)~~", .name = R"~~(Ann)~~"}, {.role = R"~~(assistant)~~", .content = R"~~( It is )~~"}}, true,
       R"~~([{"type": "function", "function": {"name": "get_weather", "description": "It's <b>&</b> \"fine\" é", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}])~~", "", true,
       R"~~(<tools>[
  {
    "type": "function",
    "function": {
      "name": "get_weather",
      "description": "It's <b>&</b> \"fine\" é",
      "parameters": {
        "type": "object",
        "properties": {
          "city": {
            "type": "string"
          }
        },
        "required": [
          "city"
        ]
      }
    }
  }
]</tools>
<|user|>(Ann)Hi<|end|>
<|assistant|> It is )~~"},
  };
}

}  // namespace qamserve
