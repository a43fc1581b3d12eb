"""The facts that ``test_streaming.py`` of ``gradient`` and ``openai`` asserts of event streams, and those for chunks."""

from __future__ import annotations

import importlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from feeding import feedings
from sdk_clients import differs

from gradient_async.decoding import ChunkDecoder
from gradient_async.sse import EventDecoder
from gradient_async.testing import chunk, sse

# Bytes of the stream, and names and data of its events. A name of None stands for an event without one.
CASES: dict[str, tuple[bytes, list[tuple[str | None, str]]]] = {
    "basic": (b'event: completion\ndata: {"foo":true}\n\n', [("completion", '{"foo":true}')]),
    "data_missing_event": (b'data: {"foo":true}\n\n', [(None, '{"foo":true}')]),
    "multiple_events_with_data": (
        b'event: ping\ndata: {"foo":true}\n\nevent: completion\ndata: {"bar":false}\n\n',
        [("ping", '{"foo":true}'), ("completion", '{"bar":false}')],
    ),
    "multiple_data_lines_with_empty_line": (
        b'event: ping\ndata: {\ndata: "foo":\ndata: \ndata:\ndata: true}\n\n\n',
        [("ping", '{\n"foo":\n\n\ntrue}')],
    ),
    "data_json_escaped_double_new_line": (
        b'event: ping\ndata: {"foo": "my long\\n\\ncontent"}\n\n',
        [("ping", '{"foo": "my long\\n\\ncontent"}')],
    ),
    "multiple_data_lines": (
        b'event: ping\ndata: {\ndata: "foo":\ndata: true}\n\n\n',
        [("ping", '{\n"foo":\ntrue}')],
    ),
    "special_new_line_character": (
        'data: {"content":" one"}\n\ndata: {"content":" \u2028"}\n\ndata: {"content":"two"}\n\n'.encode(),
        [(None, '{"content":" one"}'), (None, '{"content":" \u2028"}'), (None, '{"content":"two"}')],
    ),
    "multi_byte_character_multiple_chunks": (
        'data: {"content":"известни"}\n\n'.encode(),
        [(None, '{"content":"известни"}')],
    ),
}
EACH = pytest.mark.parametrize(("wire", "events"), CASES.values(), ids=CASES)


def decode(pieces: list[bytes]) -> list[tuple[str, str]]:
    """Return names and data of the events."""
    decoder = EventDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return [(event.type, event.data.decode()) for event in (*events, *decoder.close())]


@differs("An event without an `event:` line has the name None")
@EACH
def test_events(wire: bytes, events: list[tuple[str | None, str]]) -> None:
    """Whatever the cuts."""
    expected = [("message" if name is None else name, data) for name, data in events]
    for pieces in feedings(wire):
        assert expected == decode(pieces)


@pytest.mark.parametrize("package", ["gradient", "openai"])
@pytest.mark.filterwarnings("default")
@EACH
async def test_events_of_the_peers(package: str, wire: bytes, events: list[tuple[str | None, str]]) -> None:
    """The table above has what the peers' decoders give, too."""
    pytest.importorskip(package)
    decoder: Any = importlib.import_module(f"{package}._streaming").SSEDecoder()
    for pieces in feedings(wire):

        async def body(pieces: list[bytes] = pieces) -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        assert events == [(event.event, event.data) async for event in decoder.aiter_bytes(body())]


@differs("An `event:` line without data is an event, whose data is empty")
def test_event_missing_data_and_multiple_events() -> None:
    """The name of such a block does not pass on to the next event."""
    for pieces in feedings(b"event: ping\n\nevent: completion\n\ndata: 1\n\n"):
        assert [("message", "1")] == decode(pieces)


@EACH
def test_in_a_stream_of_chunks(wire: bytes, events: list[tuple[str | None, str]]) -> None:
    """The same framing around chunks, whose text is the data above: names and cuts do not matter."""
    texts = [data for _, data in events]
    blocks: list[bytes] = []
    for name, text in events:
        head = b"" if name is None else f"event: {name}\n".encode()
        lines = json.dumps(chunk(text), ensure_ascii=False, indent=1).split("\n")
        blocks.append(head + "".join(f"data: {line}\n" for line in lines).encode() + b"\n")
    for pieces in feedings(b"".join(blocks) + b"event: ping\n\n" + sse(chunk(finish_reason="stop"))):
        decoder = ChunkDecoder()
        chunks = [each for piece in pieces for each in decoder.feed(piece)] + decoder.close()
        assert [*texts, None] == [each.choices[0].delta.content for each in chunks]
        assert decoder.done
