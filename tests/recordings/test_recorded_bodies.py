"""Bodies that servers really sent, of completions and of errors, are understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from corpus import BODIES, ERRORS, body_of, error_of, needs_corpus
from oracle import expected_call, expected_logprobs, expected_usage

from gradient_async.decoding import decode_completion, parse_error, reply_error
from gradient_async.errors import APIResponseValidationError, escape

pytestmark = needs_corpus


def naive_message(message: dict[str, Any]) -> dict[str, Any]:
    content: Any = message.get("content")
    reasoning: Any = message.get("reasoning_content")
    if reasoning is None:
        reasoning = message.get("reasoning")
    if isinstance(content, list):
        parts: list[dict[str, Any]] = message["content"]
        texts: list[str] = [part["text"] for part in parts if part["type"] == "text"]
        thoughts: list[Any] = [part["thinking"] for part in parts if part["type"] == "thinking"]
        content = "".join(texts) if texts else None
        if thoughts:
            reasoning = "".join(piece["text"] for thought in thoughts for piece in thought)
    calls: list[dict[str, Any]] = message.get("tool_calls") or []
    return {
        "role": message.get("role") or "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "refusal": message.get("refusal"),
        "tool_calls": [{**expected_call(call), "custom": call.get("custom")} for call in calls],
        "function_call": message.get("function_call"),
        "annotations": message.get("annotations"),
        "audio": message.get("audio"),
        "reasoning_details": message.get("reasoning_details"),
    }


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.stem)
def test_body(path: Path) -> None:
    """Every field is what a naive reading of the body says, by the same rules."""
    body = body_of(path)
    completion = decode_completion(path.read_bytes())
    assert (body.get("id") or "", body.get("model") or "") == (completion.id, completion.model)
    assert int(body.get("created") or 0) == completion.created
    assert body.get("system_fingerprint") == completion.system_fingerprint
    assert body.get("service_tier") == completion.service_tier
    actual = completion.model_dump()
    assert expected_usage(body.get("usage")) == actual["usage"]
    assert len(body["choices"]) == len(completion.choices)
    for choice, found in zip(
        sorted(body["choices"], key=lambda c: c.get("index", 0)), actual["choices"], strict=True
    ):
        message = found["message"]
        expected = naive_message(choice["message"])
        calls = [
            {name: call[name] for name in ("id", "type", "function", "custom")}
            for call in message["tool_calls"] or ()
        ]
        assert expected == {name: message[name] for name in expected} | {"tool_calls": calls}
        # An empty finish_reason is none.
        assert (choice.get("index", 0), choice.get("finish_reason") or None) == (
            found["index"],
            found["finish_reason"],
        )
        assert naive_logprobs(choice.get("logprobs")) == found["logprobs"]


def naive_logprobs(logprobs: Any) -> dict[str, Any] | None:
    if logprobs is None or "content" not in logprobs:
        return None
    return expected_logprobs({"content": logprobs["content"], "refusal": logprobs.get("refusal")})


def naive_error(body: Any) -> tuple[str, str | None, str | None]:
    """Return message, code and type of an error's body, in one of the four shapes."""
    reported = body.get("error", body)
    error: dict[str, Any] = {**body, "message": reported} if isinstance(reported, str) else reported
    message: Any = error.get("message") or error.get("detail")
    if not isinstance(message, str):
        message = str(message[0]["msg"])
    code = error.get("code")
    if code is None and "error" not in body:
        code = body.get("id")
    return message, None if code is None else str(code), error.get("type") or None


@pytest.mark.parametrize("path", ERRORS, ids=lambda path: path.stem)
def test_error(path: Path) -> None:
    """The message, the code and the type of every error are found."""
    status, content = error_of(path)
    found = parse_error(content)
    assert found.message
    assert found.message.isprintable()
    try:
        body = json.loads(content)
    except ValueError:
        assert content.decode()[:2048] == found.body
        return
    message, code, kind = naive_error(body)
    assert escape(message) in found.message or found.message.startswith(escape(message)[:400])
    assert (code, kind) == (found.code, found.type)
    assert body == found.body
    if status == 200:
        assert found == reply_error(content)
        with pytest.raises(APIResponseValidationError, match="it is an error"):
            decode_completion(content)
