"""Makes the bytes of replies: chunks, completions, errors, events, and their HTTP framing."""

from __future__ import annotations

import http
import json
from collections.abc import Mapping, Sequence
from typing import Any

CREATED = 1_767_225_600
"""The ``created`` of every payload, in seconds since the epoch: fixed, so that replies never vary."""

_USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
_STATUSES = frozenset(http.HTTPStatus)


def dump(value: object) -> bytes:
    """Encode JSON without white space, as UTF-8; text that UTF-8 cannot hold (lone surrogates) is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def chunk(
    content: str | None = None,
    *,
    index: int = 0,
    role: str | None = None,
    reasoning_content: str | None = None,
    refusal: str | None = None,
    tool_calls: Sequence[Mapping[str, Any]] | None = None,
    finish_reason: str | None = None,
    logprobs: Mapping[str, Any] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Make one chunk of a stream, as a dict for `reply_sse` or `sse`.

    Args:
        content: Text of the delta. None leaves the field out; the same holds for the delta's other fields.
        index: Index of the choice that the delta belongs to.
        role: Usually ``assistant``, in the first chunk of a choice.
        reasoning_content: Reasoning text of the delta.
        refusal: Refusal text of the delta.
        tool_calls: Tool-call deltas, sent unchanged.
        finish_reason: Why the choice ends; None while it continues.
        logprobs: ``{"content": [...], "refusal": None}`` for the tokens of this delta.
        **extra: Fields of the chunk itself, to add or to replace: ``usage={...}, choices=[]`` makes the
            usage chunk, ``model="m"`` or ``id=""`` replace the defaults.

    Returns:
        A new dict; change it as you please.
    """
    fields = {
        "role": role,
        "content": content,
        "reasoning_content": reasoning_content,
        "refusal": refusal,
        "tool_calls": tool_calls,
    }
    delta = {name: value for name, value in fields.items() if value is not None}
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}
    return {**_frame("chat.completion.chunk"), "choices": [choice], **extra}


def completion(
    content: str | None = "Hello!",
    *,
    reasoning_content: str | None = None,
    refusal: str | None = None,
    tool_calls: Sequence[Mapping[str, Any]] | None = None,
    finish_reason: str | None = "stop",
    logprobs: Mapping[str, Any] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Make a whole completion with one choice, as a dict for `reply_json`.

    Args:
        content: Text of the message.
        reasoning_content: Reasoning of the message; left out if None.
        refusal: Refusal of the message.
        tool_calls: Tool calls of the message; left out if None.
        finish_reason: Why the choice ended.
        logprobs: ``{"content": [...], "refusal": None}``.
        **extra: Fields of the completion itself, to add or to replace: ``usage=None``, ``model="m"``,
            ``choices=[...]``.

    Returns:
        A new dict; change it as you please.
    """
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": refusal}
    if reasoning_content is not None:
        message["reasoning_content"] = reasoning_content
    if tool_calls is not None:
        message["tool_calls"] = tool_calls
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": logprobs}
    return {**_frame("chat.completion"), "choices": [choice], "usage": dict(_USAGE), **extra}


def _frame(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": CREATED, "model": "simulated"}


def digitalocean_error(name: str, message: str) -> dict[str, str]:
    """Make the body of an error in the shape of DigitalOcean's API."""
    return {"id": name, "message": message}


def openai_error(
    message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, dict[str, str | None]]:
    """Make the body of an error in the shape of OpenAI's API."""
    return {"error": {"message": message, "type": kind, "code": code, "param": param}}


def sse(*events: Mapping[str, Any] | str | bytes, done: bool = True) -> bytes:
    """Encode an event stream.

    Args:
        *events: A mapping becomes the JSON of one event, a string becomes its data, and bytes are inserted
            unchanged, for comments and broken events.
        done: Whether to end with ``data: [DONE]``.

    Returns:
        The bytes of the stream, without HTTP's framing.
    """
    return b"".join(frame_events(events, done=done))


def frame_events(events: Sequence[Mapping[str, Any] | str | bytes], *, done: bool) -> list[bytes]:
    """Encode each event by itself; see `sse`."""
    return [_frame_event(event) for event in (*events, *(["[DONE]"] if done else []))]


def _frame_event(event: Mapping[str, Any] | str | bytes) -> bytes:
    if isinstance(event, bytes):
        return event
    if isinstance(event, str):
        return b"".join(b"data: %s\n" % line.encode() for line in event.split("\n")) + b"\n"
    return b"data: %s\n\n" % dump(event)


def head(status: int = 200, headers: Mapping[str, str | None] | None = None) -> bytes:
    r"""Encode a status line and headers, blank line included.

    Args:
        status: Status code; a code without a standard phrase gets "Unknown".
        headers: Header fields; a field whose value is None is left out.

    Returns:
        Bytes for `reply_writes`, for example ``head(200, {"transfer-encoding": "chunked"})``.
    """
    phrase = http.HTTPStatus(status).phrase if status in _STATUSES else "Unknown"
    lines = [f"{name}: {value}" for name, value in (headers or {}).items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status} {phrase}", *lines, "", ""]).encode("latin-1")


def http_chunk(data: bytes) -> bytes:
    """Frame data as one HTTP chunk; without data, the last chunk, which ends the body."""
    return b"%x\r\n%s\r\n" % (len(data), data)
