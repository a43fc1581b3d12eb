"""Rows of the fault list about odd JSON, where it comes as a whole reply: awaited, or in place of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fault_requests import AMBIGUOUS, BOTH_WAYS, Ask
from fault_rows import TEXT, Seen, Start, asked, expect_connection, failed, streamed

from gradient_async import APIResponseValidationError, Limits, StreamLimitError, StreamProtocolError
from gradient_async.testing import completion, reply_bytes

WHOLE = completion(TEXT)
CHOICE = WHOLE["choices"][0]
WIRE = json.dumps(WHOLE)
JSON = {"content-type": "application/json"}
DEEP = "[" * 200_000 + "]" * 200_000


def put(old: str, new: str) -> str:
    """The reply changed as text."""
    assert old in WIRE
    return WIRE.replace(old, new)


def like(**fields: Any) -> str:
    """The reply with other fields of its choice; ... leaves one out."""
    choice = {name: value for name, value in (CHOICE | fields).items() if value is not ...}
    return json.dumps(WHOLE | {"choices": [choice]})


def message_body(content: Any, **fields: Any) -> str:
    return like(message={"role": "assistant", "content": content, **fields})


def content_of(seen: Seen) -> str | None:
    assert seen.completion is not None
    return seen.completion.choices[0].message.content


@BOTH_WAYS
@pytest.mark.parametrize(
    ("wire", "content"),
    [
        pytest.param(put("tok2", "to\udcff\udcfe2"), TEXT.replace("tok2", "to\ufffd\ufffd2"), id="invalid_utf8"),
        pytest.param(put('"created": ', '"x": [NaN, Infinity, -Infinity], "created": '), TEXT, id="nan_infinity"),
        pytest.param(put('"content": ', '"content": "no", "content": '), TEXT, id="dup_keys"),
        pytest.param(message_body([{"type": "text", "text": TEXT}]), TEXT, id="content_array"),
        pytest.param(like(index=...), TEXT, id="index_missing"),
        pytest.param(like(index="0"), TEXT, id="index_string"),
        pytest.param(put('"created": ', '"created": 1' + "0" * 10_000 + ', "x": '), TEXT, id="big_int"),
        pytest.param(put('"prompt_tokens": 7', '"prompt_tokens": 1e999'), TEXT, id="float_huge"),
        pytest.param(json.dumps(WHOLE | {"usage": None}), TEXT, id="usage_null"),
        pytest.param(put(TEXT, "\\ud83d\\ude00 x\\ud83dy"), "😀 x\ufffdy", id="lone_surrogate"),
        pytest.param(message_body("a\x00b\x1b[2Jc"), "a\x00b\x1b[2Jc", id="nul_in_text"),
        pytest.param(like(finish_reason="ünknown", x=[{}]), TEXT, id="unknown_fields"),
        pytest.param(like(message=None), None, id="delta_null"),
    ],
)  # fmt: skip
async def test_a_whole_reply_with_json_that_is_understood(
    start: Start, ask: Ask, wire: str, content: str | None
) -> None:
    server, client = await start(reply_bytes(wire.encode("utf-8", "surrogateescape"), 200, JSON), **AMBIGUOUS)
    seen = await ask(client)
    assert (None, 1) == (seen.error, len(server.requests))
    assert content == content_of(seen)
    assert (content or "").encode().decode() == (content or "")
    await expect_connection(server, client, "reused")


@BOTH_WAYS
@pytest.mark.parametrize(
    ("wire", "says"),
    [
        pytest.param(WIRE[:-1], "not a chat completion", id="invalid_json"),
        pytest.param(WIRE + "}", "not a chat completion", id="two values"),
        pytest.param("1", "not a chat completion", id="json_scalar"),
        pytest.param("[]", "not a chat completion", id="a list"),
        pytest.param(DEEP, "nested too deep", id="deep_json"),
        pytest.param(put('"created": ', f'"x": {DEEP}, "created": '), "nested too deep", id="deep inside"),
        pytest.param(json.dumps(WHOLE | {"choices": None}), "no choices", id="choices_null"),
        pytest.param(put('"choices"', '"chances"'), "no choices", id="choices_missing"),
    ],
)  # fmt: skip
async def test_a_whole_reply_that_is_no_completion(start: Start, ask: Ask, wire: str, says: str) -> None:
    """The error shows how it begins."""
    server, client = await start(reply_bytes(wire.encode(), 200, JSON), **AMBIGUOUS)
    error = failed(await ask(client), APIResponseValidationError, says=says, status_code=200, attempts=1)
    assert wire.encode()[:200] == error.body_head
    assert len(str(error)) < 700
    assert 1 == len(server.requests)
    await expect_connection(server, client, "reused")


async def test_a_whole_reply_without_content_is_whole(start: Start) -> None:
    """No token was ever there to be timed; the choice is, with nothing in it."""
    wire = json.dumps(
        {"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": None}}]}
    )
    server, client = await start(reply_bytes(wire.encode(), 200, JSON), **AMBIGUOUS)
    seen = await streamed(client)
    assert (None, 1) == (seen.error, len(server.requests))
    assert (None, None) == (content_of(seen), None if seen.stream is None else seen.stream.timing.first_token)
    assert [True] == [stream.was_buffered for stream in (seen.stream,) if stream is not None]
    await expect_connection(server, client, "reused")


CALLS = [{"id": f"c{number}", "function": {"name": "f", "arguments": ""}} for number in range(1025)]


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        pytest.param(streamed, StreamLimitError, id="stream"),
        pytest.param(asked, APIResponseValidationError, id="call"),
    ],
)
@pytest.mark.parametrize(
    ("wire", "says"),
    [
        pytest.param(like(index=10**9), "choices=128", id="index_huge"),
        pytest.param(like(index=10**30), "choices=128", id="index beyond all words"),
        pytest.param(
            json.dumps(WHOLE | {"choices": [CHOICE | {"index": index} for index in range(129)]}), "choices=128", id="too many choices",
        ),
        pytest.param(message_body(None, tool_calls=CALLS), "tool_calls=1024", id="tool_index_huge"),
    ],
)  # fmt: skip
async def test_a_whole_reply_is_bounded_as_a_stream_is(
    start: Start, ask: Ask, kind: Any, wire: str, says: str
) -> None:
    """The error names the limit."""
    server, client = await start(reply_bytes(wire.encode(), 200, JSON), **AMBIGUOUS)
    seen = await ask(client)
    failed(seen, kind, says=says, status_code=200, attempts=1)
    assert 1 == len(server.requests)
    if says == "choices=128" and ask is streamed:
        assert [] == seen.chunks  # whoever keeps choices in a list is not made to


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        pytest.param(streamed, StreamProtocolError, id="stream"),
        pytest.param(
            asked,
            APIResponseValidationError,
            id="call",
        ),
    ],
)
async def test_index_negative(start: Start, ask: Ask, kind: Any) -> None:
    server, client = await start(reply_bytes(like(index=-1).encode(), 200, JSON), **AMBIGUOUS)
    seen = await ask(client)
    failed(seen, kind, says="-1", status_code=200, attempts=1)
    assert ("", 1) == (seen.delivered, len(server.requests))


@BOTH_WAYS
async def test_who_asks_for_many_choices_gets_them(start: Start, ask: Ask) -> None:
    """A request's own n counts where it is larger than the limit; the choices come in order."""
    choices = [CHOICE | {"index": index} for index in reversed(range(5))]
    wire = json.dumps(WHOLE | {"choices": choices}).encode()
    server, client = await start(reply_bytes(wire, 200, JSON), limits=Limits(choices=4), **AMBIGUOUS)
    seen = await ask(client, n=5)
    assert seen.completion is not None
    assert list(range(5)) == [choice.index for choice in seen.completion.choices]
    assert 1 == len(server.requests)
    await expect_connection(server, client, "reused")


async def test_choice_order(start: Start) -> None:
    choices = [
        CHOICE | {"index": index, "message": {"role": "assistant", "content": content}}
        for index, content in ((1, "b"), (0, "a"))
    ]
    server, client = await start(
        reply_bytes(json.dumps(WHOLE | {"choices": choices}).encode(), 200, JSON), **AMBIGUOUS
    )
    seen = await asked(client, n=2)
    assert seen.completion is not None
    assert ["a", "b"] == [choice.message.content for choice in seen.completion.choices]
    assert 1 == len(server.requests)
    await expect_connection(server, client, "reused")
