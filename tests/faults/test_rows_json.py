"""Rows of the fault list about odd JSON in events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fault_costs import memory
from fault_requests import RETRYING, expect_whole
from fault_rows import FINISH, TEXT, TOKENS, Start, expect_connection, failed, streamed, tokens

from gradient_async import Limits, StreamLimitError, StreamProtocolError
from gradient_async.testing import chunk, reply_sse, reply_writes

TWO, REST = TOKENS[:2], TOKENS[2:]
THIRD = json.dumps(TOKENS[2])


def like(**fields: Any) -> dict[str, Any]:
    """The third token's chunk with other fields of its choice; None leaves one out."""
    event: dict[str, Any] = json.loads(THIRD)
    choice = event["choices"][0] | fields
    event["choices"] = [{name: value for name, value in choice.items() if value is not ...}]
    return event


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in TOKENS[2].items() if key != name}


def put(old: str, new: str) -> str:
    """The third token's chunk, changed as text."""
    assert old in THIRD
    return THIRD.replace(old, new)


EVERY_USAGE_NULL = [{**token, "usage": None} for token in TOKENS]


@pytest.mark.parametrize(
    ("events", "anomalies"),
    [
        pytest.param([*TWO, put('"created": ', '"x": [NaN, Infinity, -Infinity], "created": '), *REST[1:]], 1, id="nan_infinity"),
        pytest.param([*TWO, put('"content": "tok2 "', '"content": "no", "content": "tok2 "'), *REST[1:]], 0, id="dup_keys"),
        pytest.param([*TWO, {**TOKENS[2], "choices": None}, *REST], 1, id="choices_null"),
        pytest.param([*TWO, without("choices"), *REST], 0, id="choices_missing"),
        pytest.param([*TWO, like(delta=None), *REST], 1, id="delta_null"),
        pytest.param([*TWO, like(index=...), *REST[1:]], 0, id="index_missing"),
        pytest.param([*TWO, like(index="0"), *REST[1:]], 1, id="index_string"),
        pytest.param([*TWO, put('"created": ', '"created": 1' + "0" * 10_000 + ', "x": '), *REST[1:]], None, id="big_int"),
        pytest.param([*TWO, put('"created": ', '"usage": {"prompt_tokens": 1e999}, "created": '), *REST[1:]], 1, id="float_huge"),
        pytest.param(EVERY_USAGE_NULL, 0, id="usage_null"),
        pytest.param([*TWO, "null", *REST], None, id="null alone"),
        pytest.param(
            [*TWO, {**like(finish_reason="ünknown", x=[{}]), "obfuscation": "xyz", "y": {"z": 1}}, *REST[1:]], 0, id="unknown_fields"
        ),
        pytest.param([*TWO, like(delta={"content": [{"type": "text", "text": "tok2 "}]}), *REST[1:]], None, id="content_array"),
    ],
)  # fmt: skip
async def test_json_that_is_understood(start: Start, events: list[Any], anomalies: int | None) -> None:
    server, client = await start(reply_sse(*events, FINISH), **RETRYING)
    seen = await streamed(client)
    await expect_whole(server, client, seen, "reused")
    assert seen.stream is not None
    assert anomalies is None or anomalies == seen.stream.anomalies


@pytest.mark.parametrize("count", ["1e999", "NaN", "-Infinity", "1" + "0" * 9000])
async def test_usage_that_counts_nothing_is_dropped(start: Start, count: str) -> None:
    """Not made up, and not an error: the stream is whole."""
    usage = put('"created": ', '"usage": {"prompt_tokens": ' + count + '}, "created": ')
    server, client = await start(reply_sse(*TWO, usage, *REST[1:], chunk(finish_reason="stop")), **RETRYING)
    seen = await streamed(client)
    await expect_whole(server, client, seen, "reused")
    assert seen.completion is not None
    assert seen.completion.usage is None or seen.completion.usage.prompt_tokens is None


async def test_invalid_json_shows_how_it_begins(start: Start) -> None:
    """Two hundred bytes of it, escaped in the message and as they came in `.body`."""
    bad = "{bad\x1b " + "y" * 1000
    _, client = await start(reply_sse(*TWO, bad), **RETRYING)
    error = failed(await streamed(client), StreamProtocolError, text=tokens(2), body=bad[:200])
    assert ("y" * 150 in str(error), "y" * 201 in str(error), "\x1b" in str(error)) == (True, False, False)


async def test_content_parts_are_kept(start: Start) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image", "url": "x"}]
    _, client = await start(reply_sse(like(delta={"content": parts}), FINISH), **RETRYING)
    seen = await streamed(client)
    assert parts == seen.chunks[0].choices[0].delta.content_parts
    assert seen.completion is not None
    assert ("a", parts) == (
        seen.completion.choices[0].message.content,
        seen.completion.choices[0].message.content_parts,
    )


async def test_unknown_finish_reasons_are_passed_on(start: Start) -> None:
    _, client = await start(reply_sse(*TOKENS, chunk(finish_reason="ünknown")), **RETRYING)
    seen = await streamed(client)
    assert seen.completion is not None
    assert seen.completion.choices[0].finish_reason == "ünknown"


async def test_nul_in_text(start: Start) -> None:
    text = "a\x00b\x1b[2Jc"
    server, client = await start(reply_sse(chunk(text), FINISH), **RETRYING)
    assert (await streamed(client)).delivered == text
    assert len(server.requests) == 1
    await expect_connection(server, client, "reused")


async def test_lone_surrogate(start: Start) -> None:
    """A pair split over two chunks is joined, a lone one replaced; the text can always be written."""
    events: list[Any] = [put("tok2 ", "\\ud83d"), put("tok2 ", "\\ude00"), put("tok2 ", "x\\ud83dy"), FINISH]
    server, client = await start(reply_sse(*events), **RETRYING)
    seen = await streamed(client)
    assert seen.completion is not None
    content = seen.completion.choices[0].message.content
    assert content == "😀x\ufffdy"
    assert (content.encode(), seen.delivered.encode()) == (content.encode(), content.encode())
    await expect_connection(server, client, "reused")


@pytest.mark.parametrize("strict", [False, True])
async def test_invalid_utf8(start: Start, *, strict: bool) -> None:
    """Bytes that are no text become U+FFFD, and are counted; who insists gets an error."""
    bad = b"data: " + THIRD.encode().replace(b"tok2", b"to\xff\xfe2") + b"\n\n"
    server, client = await start(reply_sse(*TWO, bad, *REST[1:], FINISH), strict=strict, **RETRYING)
    seen = await streamed(client)
    if strict:
        failed(seen, StreamProtocolError, text=tokens(2), attempts=1)
        await expect_connection(server, client, "closed")
        return
    assert seen.stream is not None
    assert (TEXT.replace("tok2", "to\ufffd\ufffd2"), 1) == (seen.delivered, seen.stream.anomalies)
    await expect_connection(server, client, "reused")


@pytest.mark.parametrize(
    ("event", "kind", "says"),
    [
        pytest.param("{bad json", StreamProtocolError, "event 3 of the stream", id="invalid_json"),
        pytest.param("1", StreamProtocolError, "event 3 of the stream", id="json_scalar"),
        pytest.param('"x"', StreamProtocolError, "event 3 of the stream", id="a string"),
        pytest.param("[]", StreamProtocolError, "event 3 of the stream", id="a list"),
        pytest.param("[" * 200_000 + "]" * 200_000, StreamProtocolError, "event 3", id="deep_json"),
        pytest.param(like(index=-1), StreamProtocolError, "-1", id="index_negative"),
        pytest.param(like(index=10**9), StreamLimitError, "choices=128", id="index_huge"),
        pytest.param(like(index=10**30), StreamLimitError, "choices=128", id="an index beyond all words"),
        pytest.param(
            put('"index": 0', '"index": 1' + "0" * 10_000),
            StreamProtocolError,
            "event 3",
            id="an index of thousands of digits",
        ),
        pytest.param(
            put('"index": 0', '"index": 1e999'), StreamProtocolError, "event 3", id="an infinite index"
        ),
        pytest.param(
            like(delta={"tool_calls": [{"index": 10**9, "id": "a", "function": {"name": "f"}}]}),
            StreamLimitError,
            "tool_calls=1024",
            id="tool_index_huge",
        ),
        pytest.param(
            like(delta={"tool_calls": [{"index": -1, "id": "a", "function": {"name": "f"}}]}),
            StreamProtocolError,
            "-1",
            id="tool_index_negative",
        ),
        pytest.param(
            put('"index": 0', '"index": "1000", "x": NaN'),
            StreamLimitError,
            "choices=128",
            id="a huge index as text",
        ),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
async def test_json_that_is_no_chunk(
    start: Start, event: Any, kind: Any, says: str, *, at_once: bool
) -> None:
    """The error shows where; what came before is delivered, and nothing behind it, even if all came at once."""
    reply = reply_sse(*TWO, event, *REST, FINISH)
    server, client = await start(reply_writes([reply.data]) if at_once else reply, **RETRYING)
    with memory() as taken:
        error = failed(await streamed(client), kind, text=tokens(2), says=says, attempts=1)
    assert taken.peak < 8 * 2**20
    assert len(str(error)) < 800
    assert len(server.requests) == 1
    await expect_connection(server, client, "closed")


async def test_bad_events_may_be_passed_over(start: Start) -> None:
    server, client = await start(
        reply_sse(*TWO, "{bad json", "1", *REST, FINISH), on_bad_event="skip", **RETRYING
    )
    seen = await streamed(client)
    await expect_whole(server, client, seen, "reused")
    assert seen.stream is not None
    assert seen.stream.anomalies == 2


async def test_what_was_read_behind_too_many_calls_is_in_the_partial(start: Start) -> None:
    """They are too many only once they are added up: by then the chunks behind them have been read."""
    many = [entry("f", id=str(number)) for number in range(3)]
    reply = reply_sse(*TWO, calls(*many), *REST, FINISH)
    server, client = await start(reply_writes([reply.data]), limits=Limits(tool_calls=2), **RETRYING)
    seen = await streamed(client)
    failed(seen, StreamLimitError, text=TEXT, says="tool_calls=2", attempts=1)
    assert 1 == len(server.requests)
    await expect_connection(server, client, "closed")


def calls(*entries: dict[str, Any]) -> dict[str, Any]:
    return chunk(tool_calls=list(entries))


def entry(name: str = "", arguments: str = "", **fields: Any) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": arguments} | ({"name": name} if name else {})
    return {"function": function, **fields}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param(
            [
                calls(entry("a", id="1")),
                calls(entry(arguments="{", index=None)),
                calls(entry("b", id="2")),
                calls(entry(arguments="[")),
                calls(entry(arguments="}", id="1")),
                calls(entry(arguments="]")),
            ],
            [("1", "a", "{}"), ("2", "b", "[]")],
            id="tool_index_null",
        ),
        pytest.param(
            [
                calls(entry("c", "x", index=2, id="3")),
                calls(entry("a", "1", index=0, id="1")),
                calls(entry(arguments="y", index=2), entry(arguments="2", index=0)),
            ],
            [("1", "a", "12"), ("3", "c", "xy")],
            id="tool_index_gap",
        ),
    ],
)
async def test_tool_calls_in_any_order(start: Start, events: list[Any], expected: Any) -> None:
    server, client = await start(reply_sse(*events, chunk(finish_reason="tool_calls")), **RETRYING)
    seen = await streamed(client)
    assert seen.completion is not None
    made = seen.completion.choices[0].message.tool_calls or []
    assert expected == [(call.id, call.function.name, call.function.arguments) for call in made]
    await expect_connection(server, client, "reused")


async def test_choice_order(start: Start) -> None:
    """Index 1 comes before index 0, one now and then the other."""
    events = [
        chunk(f"{name}{turn} ", index=index) for turn in range(2) for index, name in ((1, "b"), (0, "a"))
    ]
    ends = [chunk(finish_reason="stop", index=index) for index in (1, 0)]
    server, client = await start(reply_sse(*events, *ends), **RETRYING)
    seen = await streamed(client, n=2)
    assert seen.completion is not None
    assert ["a0 a1 ", "b0 b1 "] == [choice.message.content for choice in seen.completion.choices]
    await expect_connection(server, client, "reused")
