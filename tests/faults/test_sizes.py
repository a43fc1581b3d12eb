"""Hostile sizes: 15 MiB of whatever repeats is refused, or decoded in little memory and in short turns of the event loop.

Time is the CPU time of the thread, the best of three runs, against a budget that grows with the time of decoding usual JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from client_calls import CALL, create_completion
from fault_costs import memory

from gradient_async import (
    APIResponseValidationError,
    APIStatusError,
    AsyncGradient,
    FanOutError,
    GradientError,
    Limits,
    StreamError,
    StreamLimitError,
)
from gradient_async.assembly import CompletionAssembler
from gradient_async.cli import main
from gradient_async.decoding import ChunkDecoder, decode_completion, parse_error, reply_error
from gradient_async.testing import reply_bytes, serve
from gradient_async.types.nesting import TooManyValuesError

MIB = 2**20
SIZE = 15 * MIB
TURN = 0.05  # seconds
PER_BYTE = 12  # bytes of memory for a byte of wire

CHOICE = '{"choices":[{"index":0,"PART":{"content":"a","%s":[FILL]},"finish_reason":"stop"}]}'
LOGPROBS = (
    '{"choices":[{"index":0,"PART":{"content":"a"},"logprobs":{"content":[FILL]},"finish_reason":"stop"}]}'
)
UNKNOWN = '{"x":[FILL],"choices":[{"index":0,"PART":{"content":"a"},"finish_reason":"stop"}]}'
ODD = UNKNOWN.replace('{"x"', '{"id":5,"x"')
TEXT = '{"choices":[{"index":0,"PART":{"content":"FILL"},"finish_reason":"stop"}]}'

# JSON in which PART is delta or message, and what fills it.
KINDS: dict[str, tuple[str, str]] = {
    "choices": ('{"choices":[FILL]}', "{},"),
    "choices of some text": ('{"choices":[FILL]}', '{"PART":{"content":"abcdefghijklm"}},'),
    "calls": (CHOICE % "tool_calls", "{},"),
    "fragments": (CHOICE % "tool_calls", '{"index":0,"function":{"arguments":"a"}},'),
    "details": (CHOICE % "reasoning_details", '{"type":"t","index":0,"text":"a"},'),
    "parts": (CHOICE.replace('"content":"a",', "") % "content", '{"type":"text","text":"a"},'),
    "annotations": (CHOICE % "annotations", "{},"),
    "lists": (CHOICE % "annotations", "[],"),
    "nested": (CHOICE % "annotations", "[" * 40 + "]" * 40 + ","),
    "objects": (CHOICE % "annotations", '{"a":1},'),
    "numbers": (CHOICE % "annotations", "7,"),
    "strings": (CHOICE % "annotations", '"a",'),
    "NaN": (CHOICE % "annotations", "NaN,"),
    "images": (CHOICE % "images", "{},"),
    "audio": (CHOICE % "audio", "7,"),
    "logprobs": (LOGPROBS, "{},"),
    "likeliest": (LOGPROBS.replace("[FILL]", '[{"top_logprobs":[FILL]}]'), "{},"),
    "logprobs of NaN": (LOGPROBS, '{"logprob":NaN},'),
    "bytes of a token": (LOGPROBS.replace("[FILL]", '[{"bytes":[FILL]}]'), "7,"),
    "retrieval": (UNKNOWN.replace('"x"', '"retrieval"'), "{},"),
    "unknown": (UNKNOWN, "{},"),
    "unknown, repaired": (ODD, "{},"),
    "unknown numbers, repaired": (ODD, "7,"),
    "numbers that are too large": (UNKNOWN, "1e999,"),
    "an object as arguments": (
        TEXT.replace('"content":"FILL"', '"tool_calls":[{"function":{"name":"f","arguments":[FILL]}}]'),
        "{},",
    ),
    "usage": (UNKNOWN.replace('"x":[FILL]', '"usage":{"x":[FILL]}'), "{},"),
    "errors": ('{"errors":[FILL]}', '{"message":"x"},'),
    "detail": ('{"detail":[FILL]}', "{},"),
    "glued": ("x[FILL", '{"error":7,'),
    "page": ("<html>FILL", "<a>x</a>,"),
    "a list": ("[FILL]", "{},"),
    "a long message": ('{"message":"FILL"}', "aaaaaaaaa "),
    "tags in the message behind a gateway": ('{"error":{"message":"x","metadata":{"raw":"FILL"}}}', "<a> "),
    "references to characters": ('{"error":{"message":"x","metadata":{"raw":"FILL"}}}', "&#65;&#65; "),
    "fields of an error": ('{"error":{FILL}}', '"a_b":1,'),
    "names of log probabilities": ('{FILL,"choices":[{}]}', '"logprobs":1,'),
    "long integers": (CHOICE % "annotations", "1" * 4300 + ","),
    "long integers, unknown": (UNKNOWN, "1" * 4300 + ","),
    "a text of digits": (TEXT, "1"),
    "texts, repaired": (ODD, '"' + "a" * 140 + '",'),
    "longer texts, repaired": (ODD, '"' + "a" * 170 + '",'),
    "texts beyond Latin, repaired": (ODD, '"\N{GRINNING FACE}' + "a" * 170 + '",'),
    "an id to be repaired behind texts": (
        UNKNOWN.replace("}]}", '}],"id":5}'),
        '"' + "a" * 170 + '",',
    ),
    "halves of surrogate pairs": (TEXT, "\\ud800 "),
    "halves of surrogate pairs, in other letters": (TEXT, "\\uDC00 "),
    "escapes": (TEXT, "\\u4e2d"),
    "escapes in JSON behind a gateway": ('{"error":{"message":"x","metadata":{"raw":"FILL"}}}', '\\"a'),
    "objects behind a deep array": (
        UNKNOWN.replace('"x":[FILL]', f'"x":{"[" * 70}{"]" * 70},"y":[FILL]'),
        "{},",
    ),
    "choices behind a deep array": (f'{{"x":{"[" * 70}{"]" * 70},"choices":[FILL]}}', "{},"),
    "one log probability many times": (
        LOGPROBS.replace("[FILL]", '[{FILL,"logprob":NaN}]'),
        '"logprob":1,',
    ),
    "white space before a log probability": (
        LOGPROBS.replace("[FILL]", '[{"logprob":FILL NaN},' + "{}," * 30_000 + "{}]"),
        " ",
    ),
}


def filled(kind: str, part: str, size: int = SIZE) -> bytes:
    frame, item = KINDS[kind]
    item = item.replace("PART", part)
    items = (item * (size // len(item)))[:-1]
    return frame.replace("PART", part).replace("FILL", items).encode()


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


Turns = Iterator[object]

# Kinds that 15 MiB would have too many of: as many as are accepted, or a few more.
ENTRIES = ("{}", '{"token":5}', '{"token":"\N{GRINNING FACE}aa"}', '{"logprob":null}')
KEYS = {
    "usage": '{"usage":{FILL},"choices":[{"PART":{"content":"a"}}]}',
    "audio": '{"choices":[{"PART":{"audio":{FILL}}}]}',
    "repaired": '{"id":5,"x":{FILL},"choices":[{"PART":{"content":"a"}}]}',
    "an error": '{"error":{FILL}}',
}


def in_stream(wire: bytes) -> Turns:
    """Decode and assemble as a stream does; each item is one turn of the event loop."""
    decoder, assembler = ChunkDecoder(n=1), CompletionAssembler()
    read = 64 * 1024
    for at in range(0, len(wire), read):
        decoder.push(wire[at : at + read])
        while decoder.pending or decoder.error is not None:
            try:
                assembler.extend(decoder.decode_slice())
            except StreamError:
                yield assembler.completion
                return
            yield None
    yield assembler.completion


def awaited(wire: bytes) -> Turns:
    try:
        yield decode_completion(wire)
    except (APIResponseValidationError, TooManyValuesError) as error:
        yield (error, reply_error(wire[:MIB]))  # a session searches no longer body for an error


def as_error(wire: bytes) -> Turns:
    yield parse_error(wire)


def longest_turn(turns: Turns) -> float:
    longest = 0.0
    while True:
        start = time.thread_time()
        done = next(turns, turns) is turns
        longest = max(longest, time.thread_time() - start)
        if done:
            return longest


def budget() -> float:
    """Seconds that a turn may take: this JSON takes 20 ms where the limit was measured.

    On a busy machine the caches are cold, so that whatever makes objects or copies text takes several times as long as alone.
    """
    data = b"[" + b",".join([b'{"a":[1.5,"bcd"]}'] * 50_000) + b"]"
    times: list[float] = []
    for _ in range(5):
        start = time.thread_time()
        msgspec.json.decode(data)
        times.append(time.thread_time() - start)
    # A tracer, such as that of coverage, makes the library's own code several times as slow, but not this decoding.
    traced = 4 if sys.gettrace() is not None else 1
    return 4 * TURN * traced * max(1.0, min(times) / 0.020)


def check_costs(make: Callable[[], Turns], size: int) -> None:
    with memory() as taken:
        for _ in make():
            pass
    assert taken.peak < PER_BYTE * size
    longest = 1.0
    for _ in range(3):
        longest = min(longest, longest_turn(make()))
        if longest < TURN:
            return
    assert longest < budget()


@pytest.mark.parametrize("kind", KINDS)
def test_in_one_event(kind: str) -> None:
    wire = event(filled(kind, "delta"))
    check_costs(lambda: in_stream(wire), SIZE)


@pytest.mark.parametrize("kind", KINDS)
def test_in_one_awaited_body(kind: str) -> None:
    wire = filled(kind, "message")
    check_costs(lambda: awaited(wire), SIZE)


@pytest.mark.parametrize("count", [99_000, 226_000])
@pytest.mark.parametrize("entry", ENTRIES)
def test_the_shortest_log_probabilities(entry: str, count: int) -> None:
    data = LOGPROBS.replace("FILL", ",".join([entry] * count)).encode()
    check_costs(lambda: in_stream(event(data.replace(b"PART", b"delta"))), SIZE)
    check_costs(lambda: awaited(data.replace(b"PART", b"message")), SIZE)


@pytest.mark.parametrize("kind", KEYS)
def test_as_many_keys_as_are_accepted(kind: str) -> None:
    data = KEYS[kind].replace("FILL", ",".join(f'"{key}":{key}' for key in range(99_000))).encode()
    check_costs(lambda: in_stream(event(data.replace(b"PART", b"delta"))), SIZE)
    check_costs(lambda: awaited(data.replace(b"PART", b"message")), SIZE)


@pytest.mark.parametrize("halves", [1, 99_000])
def test_few_halves_of_surrogate_pairs_are_replaced(halves: int) -> None:
    """In a long text, behind characters that take more memory than others."""
    text = "\N{GRINNING FACE}" + "a" * (SIZE - 6 * halves)
    data = TEXT.replace("FILL", text + "\\ud800" * halves).encode().replace(b"PART", b"message")
    check_costs(lambda: awaited(data), SIZE)
    assert decode_completion(data).choices[0].message.content == text + "\ufffd" * halves


@pytest.mark.parametrize("kind", ["choices", "errors", "detail", "glued", "page", "nested"])
def test_in_one_error(kind: str) -> None:
    wire = filled(kind, "message")
    check_costs(lambda: as_error(wire), SIZE)


MANY: dict[str, str] = {
    "choices": '{"choices":[{},{},{},{}]}',
    "calls": '{"choices":[{"delta":{"tool_calls":[FILL]}}]}',
    "details": '{"choices":[{"delta":{"reasoning_details":[FILL]}}]}',
    "a detail": '{"choices":[{"delta":{"reasoning_details":[{"type":"t","index":0,"text":"a"}]}}]}',
    "annotations": '{"choices":[{"delta":{"annotations":[FILL]}}]}',
    "images": '{"choices":[{"delta":{"images":[FILL]}}]}',
    "parts": '{"choices":[{"delta":{"content":[FILL]}}]}',
    "nested audio": '{"choices":[{"delta":{"audio":{"a":[FILL]}}}]}',
    "extra content": '{"choices":[{"delta":{"extra_content":{"a":[FILL]}}}]}',
    "custom": '{"choices":[{"delta":{"tool_calls":[{"index":0,"custom":[FILL]}]}}]}',
    "logprobs": '{"choices":[{"delta":{"content":"a"},"logprobs":{"content":[FILL]}}]}',
    "likeliest": '{"choices":[{"delta":{"content":"a"},"logprobs":{"content":[{"top_logprobs":[FILL]}]}}]}',
    "retrieval": '{"retrieval":[FILL],"choices":[{"delta":{"content":"a"}}]}',
}


@pytest.mark.parametrize("kind", MANY)
def test_spread_over_many_events(kind: str) -> None:
    """What the completion keeps is bounded, and is joined in a short time."""
    one = event(MANY[kind].replace("FILL", ",".join(["{}"] * 1000)).encode())
    wire = one * (
        (MIB // 16 if kind == "calls" else MIB) // len(one)
    )  # fragments of calls take long to merge
    check_costs(lambda: in_stream(wire), SIZE)


def test_new_keys_of_a_merged_object() -> None:
    wire = b"".join(
        event(
            b'{"choices":[{"delta":{"extra_content":{'
            + b",".join(b'"%d":1' % key for key in range(start, start + 9000))
            + b"}}}]}"
        )
        for start in range(0, 900_000, 9000)
    )
    check_costs(lambda: in_stream(wire), len(wire))


def test_whole_calls_without_index_that_differ_only_in_their_ids() -> None:
    """They are compared as JSON whenever a completion is made."""
    arguments = json.dumps(json.dumps({"a": [[]] * 20_000}, separators=(",", ":")))
    wire = b"".join(
        event(
            f'{{"choices":[{{"delta":{{"tool_calls":[{{"id":"c{number}","function":{{"name":"f","arguments":{arguments}}}}}]}}}}]}}'.encode()
        )
        for number in range(100)
    )
    check_costs(lambda: in_stream(wire), len(wire))
    assembler = CompletionAssembler()
    assembler.extend(ChunkDecoder().feed(wire))
    calls = assembler.completion.choices[0].message.tool_calls
    assert calls is not None
    assert len(calls) == 100


def test_an_event_stream_with_a_long_line_before_short_ones() -> None:
    """The whole stream is pushed at once, as if it were the reply to an awaited call."""
    wire = b":" + b"x" * 20_000 + b"\r\n" + b"data: null\r\n\r\n" * 100_000

    def decode() -> Turns:
        decoder = ChunkDecoder()
        decoder.push(wire)
        while decoder.pending:
            yield decoder.decode_slice()

    check_costs(decode, len(wire))
    assert len(list(decode())) > 50


LINES: dict[str, bytes] = {
    "a long name of the event": b"event: " + b"X" * 262_144 + b"\n" + b"data: {}\n" * 9000 + b"\n",
    "a name that is not UTF-8": b"event: " + b"\xff" * SIZE + b"\ndata: {}\n\n",
    "objects": b"data: {}\n" * 9999 + b"\n",
    "too many objects": b"data: {}\n" * 100_000 + b"\n",
    "words": b"data: x\n" * 100_000 + b"\n",
    "chunks": b'data: {"choices":[{"delta":{"content":"a"}}]}\n' * 9999 + b"\n",
    "events of nothing": b"data:{}\n\n" * 8_000,
    "no blank line at the end": b"data: {}\n" * 9999,
}


@pytest.mark.parametrize("kind", LINES)
def test_lines(kind: str) -> None:
    """Servers that forget the blank line send one event of many objects: other tasks run between them."""
    wire = LINES[kind]
    check_costs(lambda: in_stream(wire), SIZE)
    decoder = ChunkDecoder()
    try:
        chunks = decoder.feed(wire) + decoder.close()
    except StreamError:
        assert kind in {"words", "too many objects"}
    else:
        assert kind not in {"words", "too many objects"}
        assert len(chunks) == (9999 if kind == "chunks" else 0)


# Everything together


Way = Callable[[AsyncGradient], Awaitable[Any]]


async def create(client: AsyncGradient) -> None:
    await create_completion(client)


async def in_map(client: AsyncGradient) -> None:
    async for result in client.chat.completions.map([CALL]):
        result.unwrap()


async def in_fan_out(client: AsyncGradient) -> None:
    try:
        async with client.chat.completions.fan_out(n=1, **CALL) as fan:
            await fan.completion()
    except FanOutError as error:
        raise error.exceptions[0] from None


async def of_events(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(**CALL) as stream:
        async for _ in stream.events():
            pass


WAYS: dict[str, Way] = {
    "create": create,
    "map": in_map,
    "events": of_events,
    "fan_out": in_fan_out,
}


@pytest.mark.parametrize("as_json", [False, True], ids=["as events", "as JSON"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["choices", "nested", "logprobs", "unknown, repaired"])
async def test_a_call_is_refused_by_name(kind: str, way: str, *, as_json: bool) -> None:
    """Whatever was asked for, and whatever came: the loop of the call has short turns, and the error names the limit."""
    data = filled(kind, "message" if as_json else "delta", 4 * MIB)
    reply = (
        reply_bytes(data, 200, {"content-type": "application/json"})
        if as_json
        else reply_bytes(event(data), content_type="text/event-stream")
    )
    longest = 0.0
    running = serve(reply)
    with running as server:  # in a thread of its own
        async with AsyncGradient(base_url=server.url, model_access_key="k") as client:
            call = asyncio.ensure_future(WAYS[way](client))
            while not call.done():
                start = time.thread_time()
                await asyncio.sleep(0.001)
                longest = max(longest, time.thread_time() - start)
            error = call.exception()
    assert isinstance(error, (StreamLimitError, APIResponseValidationError))
    assert isinstance(error, GradientError)
    assert "values=100000" in error.message
    assert "Limits(values=" in error.message
    assert longest < 0.1 or longest < budget()  # the import of aiohttp and the first connection among it


@pytest.mark.parametrize(
    ("size", "expected"), [(1000, APIStatusError), (2 * MIB, APIResponseValidationError)]
)
async def test_an_error_in_a_reply_of_status_200(size: int, expected: type[GradientError]) -> None:
    """A long one is told as what it is not, with the server's words; it is not decoded again for its fields."""
    body = f'{{"error":{{"message":"no credit{" " * size}"}}}}'.encode()
    with serve(reply_bytes(body, 200, {"content-type": "application/json"})) as server:
        async with AsyncGradient(base_url=server.url, model_access_key="k") as client:
            with pytest.raises(expected, match="no credit"):
                await create_completion(client)


# What is honest, and large


def tops(count: int) -> bytes:
    entry = '{"token":" th","logprob":-0.1234567,"bytes":[32,116,104]%s}'
    one = entry % (',"top_logprobs":[' + ",".join([entry % ""] * 20) + "]")
    return ",".join([one] * count).encode()


DETAIL = '{"choices":[{"delta":{"reasoning_details":[{"type":"reasoning.text","index":0,"text":"abc","format":"f"}]}}]}'


def test_many_fragments_of_one_detail_are_accepted() -> None:
    assembler = CompletionAssembler()
    chunks = ChunkDecoder().feed(event(DETAIL.encode()))
    for _ in range(100_000):
        assembler.extend(chunks)
    longest = min(longest_turn(assembler.completion for _ in range(1)) for _ in range(3))
    assert longest < budget()
    (detail,) = assembler.completion.choices[0].message.reasoning_details or [{}]
    assert detail == {"type": "reasoning.text", "index": 0, "text": "abc" * 100_000, "format": "f"}


HONEST: dict[str, bytes] = {
    "4,000 tokens with the 20 likeliest of each": LOGPROBS.encode().replace(b"FILL", tops(4000)),
    "the same, with an id to be repaired": LOGPROBS.replace('{"choices"', '{"id":5,"choices"')
    .encode()
    .replace(b"FILL", tops(4000)),
    "a picture": TEXT.replace('"content":"FILL"', '"images":[{"image_url":{"url":"FILL"}}]')
    .encode()
    .replace(b"FILL", b"A" * SIZE),
    "128 choices": (
        '{"choices":['
        + ",".join(
            f'{{"index":{n},"PART":{{"content":"{"word " * 1000}"}},"finish_reason":"stop"}}'
            for n in range(128)
        )
        + "]}"
    ).encode(),
    "arguments": TEXT.replace(
        '"content":"FILL"', '"tool_calls":[{"function":{"name":"f","arguments":"[FILL]"}}]'
    )
    .encode()
    .replace(b"FILL", b'{\\"k\\":[1,{},2]},' * 60_000 + b"1"),
    "an embedding": (CHOICE % "annotations").encode().replace(b"FILL", b"-0.0123456789," * 75_000 + b"1"),
}


@pytest.mark.parametrize("kind", HONEST)
def test_what_is_honest_is_accepted(kind: str) -> None:
    data = HONEST[kind].replace(b"PART", b"message")
    check_costs(lambda: awaited(data), len(data))
    completion = decode_completion(data)
    data = HONEST[kind].replace(b"PART", b"delta")
    check_costs(lambda: in_stream(event(data)), len(data))
    assembler = CompletionAssembler()
    assembler.extend(ChunkDecoder(n=1).feed(event(data)))
    assert completion.choices == assembler.completion.choices


@pytest.mark.parametrize("name", ["retrieval", "annotations", "calls", "logprobs"])
def test_a_limit_may_be_raised(name: str) -> None:
    wire = event(filled(name, "delta", 100_000) if name != "calls" else b'{"choices":[{"delta":{"tool_calls":['
                 + b",".join(b'{"index":%d}' % n for n in range(1000)) + b"]}}]}")  # fmt: skip
    for values in (1000, None):
        limits = Limits(values=values)
        decoder, assembler = ChunkDecoder(limits=limits), CompletionAssembler(limits=limits)
        if values is None:
            assembler.extend(decoder.feed(wire))
            assert assembler.choices
        else:
            with pytest.raises(StreamLimitError, match="values=1000"):
                decoder.feed(wire)


@pytest.mark.parametrize("options", [[], ["--json"]], ids=str)
def test_the_command_line_shows_a_long_text_in_little_memory(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one emoji in the text, each of its characters takes four bytes."""
    file = tmp_path / "stream.sse"
    text = "\N{GRINNING FACE}" + "a" * SIZE
    file.write_bytes(event(TEXT.replace("FILL", text).replace("PART", "delta").encode()))
    with Path(os.devnull).open("w") as nowhere, memory() as taken:
        monkeypatch.setattr(sys, "stdout", nowhere)
        assert main(["replay", *options, str(file)]) == 0
    assert taken.peak < PER_BYTE * SIZE
