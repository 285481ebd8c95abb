"""From the arguments of the clients' methods to the API's messages."""
from __future__ import annotations

import json
import uuid
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Union

from google.protobuf import json_format

from .v1 import checkpoint_pb2, inference_pb2, job_pb2, serving_pb2

TextSelection = Union[None, str, Mapping[str, Any], "job_pb2.TextSelection", "checkpoint_pb2.Text"]
Message = Union[Mapping[str, Any], "inference_pb2.ChatMessage"]
# Which field of SamplingParams.constraint a keyword fills.
_CONSTRAINTS = ("json_object", "json_schema", "regex", "grammar", "choices")


def new_request_id() -> str:
    """So that a call that was answered but whose answer was lost can be recognized."""
    return str(uuid.uuid4())


def name_of(resource: Any) -> str:
    """A resource's name, from the name itself, a message or a handle that has one."""
    if isinstance(resource, str):
        return resource
    name = getattr(resource, "name", None)
    if not isinstance(name, str):
        raise TypeError(f"a name such as 'checkpoints/...' is needed, or a message that has one; got {resource!r}")
    return name


def _enum(prefix: str, enum: Any, value: Union[str, int]) -> int:
    """'joint' or CODEC_JOINT for job_pb2.CODEC_JOINT."""
    if isinstance(value, int):
        return value
    name = value.upper()
    name = name if name.startswith(prefix) else prefix + name
    if name not in enum.keys():
        known = ", ".join(key[len(prefix):].lower() for key in enum.keys() if not key.endswith("UNSPECIFIED"))
        raise ValueError(f"{value!r} is not known; there are {known}")
    return int(enum.Value(name))


def _check_fields(message: Any, given: Iterable[str]) -> None:
    known = message.DESCRIPTOR.fields_by_name
    for field in given:
        if field not in known:
            raise TypeError(f"{message.DESCRIPTOR.name} has no field {field!r}; it has {', '.join(known)}")


def text_selection(value: TextSelection) -> "job_pb2.TextSelection":
    """A text's name ("texts/..."; "built-in" is one that comes with the server), a Text, or fields."""
    if isinstance(value, job_pb2.TextSelection):
        return value
    if value is None:
        return job_pb2.TextSelection()
    if isinstance(value, Mapping):
        _check_fields(job_pb2.TextSelection, value)
        fields = dict(value)
        if not isinstance(fields.get("text", ""), str):
            fields["text"] = name_of(fields["text"])
        return job_pb2.TextSelection(**fields)
    name = name_of(value)
    return job_pb2.TextSelection(text="texts/built-in" if name == "built-in" else name)


def quantize_spec(fields: Mapping[str, Any]) -> "job_pb2.QuantizeSpec":
    """A QuantizeSpec. codec and rotation by their short names; rates as {pattern: bpw}; target as fields."""
    _check_fields(job_pb2.QuantizeSpec, fields)
    given: Dict[str, Any] = {key: value for key, value in fields.items() if value is not None}
    if "codec" in given:
        given["codec"] = _enum("CODEC_", job_pb2.Codec, given["codec"])
    if "rotation" in given:
        given["rotation"] = _enum("ROTATION_", job_pb2.Rotation, given["rotation"])
    if isinstance(given.get("rates"), Mapping):
        given["rates"] = [job_pb2.RateRule(filter=pattern, bpw=bpw) for pattern, bpw in given["rates"].items()]
    if isinstance(given.get("target"), Mapping):
        _check_fields(job_pb2.RateTarget, given["target"])
        given["target"] = job_pb2.RateTarget(**given["target"])
    for text in ("calibration", "evaluation"):
        if text in given:
            given[text] = text_selection(given[text])
    return job_pb2.QuantizeSpec(**given)


def study_methods(methods: Sequence[Mapping[str, Any]]) -> List["job_pb2.StudyMethod"]:
    """Each a mapping of QuantizeSpec fields and "rates", a list of bits a weight."""
    out = []
    for method in methods:
        fields = dict(method)
        rates = fields.pop("rates", None)
        if not rates:
            raise ValueError(f"a method of a study needs rates, a list of bits a weight: {dict(method)!r}")
        out.append(job_pb2.StudyMethod(spec=quantize_spec(fields), rates=rates))
    return out


def sampling_params(fields: Mapping[str, Any]) -> "inference_pb2.SamplingParams":
    """SamplingParams; `stop` may be one string, and one of json_object, json_schema, regex, grammar and choices says what
    the answer must look like."""
    given = {key: value for key, value in fields.items() if value is not None}
    wanted = [key for key in _CONSTRAINTS if key in given]
    if len(wanted) > 1:
        raise TypeError(f"an answer can have one constraint; got {' and '.join(wanted)}")
    constraint: Dict[str, Any] = {}
    for key in wanted:
        value = given.pop(key)
        if key == "choices":
            constraint["choice_json"] = json.dumps(list(value))
        elif key == "json_schema" and not isinstance(value, str):
            constraint[key] = json.dumps(value)
        else:
            constraint[key] = value
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    _check_fields(inference_pb2.SamplingParams, given)
    params = inference_pb2.SamplingParams(**given)
    if constraint:
        params.constraint.CopyFrom(inference_pb2.OutputConstraint(**constraint))
    return params


def _as_json(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def chat_messages(messages: Iterable[Message]) -> List["inference_pb2.ChatMessage"]:
    """Messages as OpenAI writes them ({"role", "content", "tool_calls", "tool_call_id", "name"}), or ChatMessages."""
    out = []
    for message in messages:
        if isinstance(message, inference_pb2.ChatMessage):
            out.append(message)
            continue
        fields = dict(message)
        if "tool_calls" in fields:
            fields["tool_calls_json"] = _as_json(fields.pop("tool_calls"))
        _check_fields(inference_pb2.ChatMessage, fields)
        out.append(inference_pb2.ChatMessage(**{key: value for key, value in fields.items() if value is not None}))
    return out


def generate_request(model: str, prompt: Union[str, Sequence[int]], params: Mapping[str, Any], priority: int,
                     timeout_seconds: float) -> "inference_pb2.GenerateRequest":
    request = inference_pb2.GenerateRequest(model=name_of(model), params=sampling_params(params), priority=priority,
                                            timeout_seconds=timeout_seconds)
    fill_tokens_or_text(request, prompt, "prompt", "prompt_tokens")
    return request


def chat_request(model: str, messages: Iterable[Message], params: Mapping[str, Any], priority: int,
                 timeout_seconds: float, tools: Any, template_args: Any,
                 continue_last_message: bool) -> "inference_pb2.ChatRequest":
    return inference_pb2.ChatRequest(
        model=name_of(model), messages=chat_messages(messages), params=sampling_params(params), priority=priority,
        timeout_seconds=timeout_seconds, tools_json=_as_json(tools), template_args_json=_as_json(template_args),
        continue_last_message=continue_last_message)


def fill_tokens_or_text(message: Any, value: Union[str, Sequence[int]], text_field: str, tokens_field: str) -> None:
    if isinstance(value, str):
        setattr(message, text_field, value)
    else:
        getattr(message, tokens_field).ids.extend(value)
        getattr(message, tokens_field).SetInParent()


def embed_request(model: str, inputs: Union[str, Sequence[Any]], normalize: bool) -> "inference_pb2.EmbedRequest":
    """One text, or a list of texts and lists of token ids."""
    request = inference_pb2.EmbedRequest(model=name_of(model), normalize=normalize)
    for value in [inputs] if isinstance(inputs, str) else inputs:
        fill_tokens_or_text(request.inputs.add(), value, "text", "tokens")
    return request


def alias_targets(targets: Union[str, Mapping[str, int], Sequence[Any]]) -> List["serving_pb2.AliasTarget"]:
    """One model, or weights by model."""
    if isinstance(targets, str):
        targets = {targets: 100}
    if isinstance(targets, Mapping):
        return [serving_pb2.AliasTarget(model=model, weight=weight) for model, weight in targets.items()]
    return list(targets)


def served_model_name(name: Any) -> str:
    return _with_prefix("servedModels/", name_of(name))


def alias_name(name: Any) -> str:
    return _with_prefix("aliases/", name_of(name))


def _with_prefix(prefix: str, name: str) -> str:
    return name if name.startswith(prefix) else prefix + name


def as_dict(message: Any) -> Dict[str, Any]:
    """A message as plain Python, fields named as in the API's definition."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


