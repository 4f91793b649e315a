"""/v1/chat/completions: text and pictures in, a judged, described or rewritten answer out."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from .. import judge
from ..judge_forms import forced_verdict
from .images import open_picture
from .problems import bad, refuse_unknown, unsupported
from .reading import data_url
from .usage import chat_usage, sent_picture_tokens, text_tokens

if TYPE_CHECKING:
    from .service import Job

CHAT_MODELS = ("sandbox-judge", "sandbox-text")
MAX_PICTURES = 17
_MESSAGE_TOKENS = 4
_LONGEST_REPLY = 4096
# Known and without effect here: sampling has none in a service without chance.
_KNOWN = (
    *("model", "messages", "temperature", "top_p", "seed", "n", "stream", "response_format"),
    *("max_tokens", "max_completion_tokens", "user", "safety_identifier", "store", "metadata"),
    *("tools", "tool_choice", "logprobs", "stop", "frequency_penalty", "presence_penalty"),
    *("service_tier", "parallel_tool_calls", "stream_options"),
)
_FLAGS = ("unsafe", "minor", "trademark")
_GARBAGE = (
    "Sure! Here is what I think: the picture is quite nice and I like it.",
    "<html><body>upstream error</body></html>",
    '{"correct": 1, "reason": "cut of',
    "",
)


def complete(job: "Job") -> dict[str, Any]:
    """Answer the last user message by looking at its pictures."""
    body = job.body
    refuse_unknown(body, _KNOWN)
    _refuse_unsupported(body)
    longest = _limit(body)
    question, texts = _read_messages(body)
    fault = job.outcome("refuse", "garbage", "flag")
    text, refusal = "", None
    if fault == "refuse":
        refusal = "I'm sorry, I can't help with that."
    elif fault == "garbage":
        text = _GARBAGE[job.content.seed % len(_GARBAGE)]
    else:
        flag = _FLAGS[job.content.seed % len(_FLAGS)] if fault == "flag" else None
        text = judge.answer(replace(question, flag=flag))
    spoken, is_cut = _truncate(text if refusal is None else refusal, longest)
    prompt = sum(map(text_tokens, texts)) + _MESSAGE_TOKENS * len(body["messages"])
    images = sum(sent_picture_tokens(*picture.size) for picture in question.pictures)
    job.charge(prompt, images, text_tokens(spoken))
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if refusal else spoken,
        "refusal": spoken if refusal else None,
        "annotations": [],
    }
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": "length" if is_cut else "stop",
    }
    return {
        "id": f"chatcmpl-{job.content.key[:29]}",
        "object": "chat.completion",
        "created": job.content.created,
        "model": f"{body['model']}-2026-01-01",
        "choices": [choice],
        "usage": chat_usage(prompt=prompt + images, completion=text_tokens(spoken)),
        "service_tier": "default",
        "system_fingerprint": "fp_sandbox",
    }


def _read_messages(body: dict[str, Any]) -> tuple[judge.Question, list[str]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad("messages", "'messages' must be a list that is not empty.")
    texts: list[str] = []
    user: list[str] = []
    pictures: list[Image.Image] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise bad(f"{where}.role", f"'role' must be one of {', '.join(_ROLES)}.")
        for kind, value in read_parts(message.get("content"), where):
            if kind == "image":
                pictures.append(open_picture(value, f"{where}.content"))
                continue
            texts.append(value)
            if message["role"] == "user":
                user.append(value)
    if len(pictures) > MAX_PICTURES:
        raise bad("messages", f"At most {MAX_PICTURES} pictures, got {len(pictures)}.")
    form, schema = _response_format(body)
    text = "\n".join(user)
    return judge.Question(text=text, pictures=tuple(pictures), form=form, schema=schema), texts


_ROLES = ("system", "developer", "user", "assistant")


def read_parts(content: object, where: str) -> list[tuple[str, Any]]:
    """(kind, value) of every part: texts, and pictures as bytes."""
    if isinstance(content, str):
        return [("text", content)]
    if not isinstance(content, list):
        raise bad(f"{where}.content", "'content' must be a string or a list of parts.")
    parts: list[tuple[str, Any]] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(("text", part["text"]))
        elif kind == "image_url":
            parts.append(("image", _data_url(part.get("image_url"), where)))
        else:
            raise bad(f"{where}.content", f"Parts are 'text' or 'image_url'; got {kind!r}.")
    return parts


def _data_url(value: object, where: str) -> bytes:
    url = value.get("url") if isinstance(value, dict) else None
    if not isinstance(url, str):
        raise bad(f"{where}.content", "'image_url' needs a 'url'.")
    return data_url(url, f"{where}.content")


def _response_format(body: dict[str, Any]) -> tuple[judge.Form, dict[str, Any] | None]:
    wanted = body.get("response_format") or {"type": "text"}
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "text":
        return "text", None
    if kind == "json_object":
        return "json", None
    if kind != "json_schema":
        raise bad("response_format", f"Unknown response format {kind!r}.")
    schema = (wanted.get("json_schema") or {}).get("schema")
    if not isinstance(schema, dict):
        raise bad("response_format", "Missing 'response_format.json_schema.schema'.")
    forced = forced_verdict(schema)
    if forced is not None:
        message = f"The schema leaves one answer to the verdict '{forced}'; a judge needs a choice."
        raise bad("response_format", message)
    return "json", schema


def _limit(body: dict[str, Any]) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise bad(name, f"'{name}' must be a whole number of 1 or more; got {value!r}.")
        return min(value, _LONGEST_REPLY)
    return _LONGEST_REPLY


def _truncate(text: str, tokens: int) -> tuple[str, bool]:
    encoded = text.encode()
    if len(encoded) <= 4 * tokens:
        return text, False
    return encoded[: 4 * tokens].decode(errors="ignore"), True


def _refuse_unsupported(body: dict[str, Any]) -> None:
    if body.get("stream"):
        raise unsupported("stream", "streaming of answers")
    if body.get("tools"):
        raise unsupported("tools", "tools")
    if body.get("logprobs"):
        raise unsupported("logprobs", "log probabilities")
    if body.get("stop") is not None:
        raise unsupported("stop", "stop sequences")
    if body.get("n") not in (None, 1):
        raise unsupported("n", "more than one choice")
    temperature = body.get("temperature")
    if temperature is not None and not (
        isinstance(temperature, int | float) and 0 <= temperature <= 2
    ):
        raise bad("temperature", f"'temperature' must be from 0 to 2; got {temperature!r}.")
