"""Chunks that keep their JSON, with `keep_body`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from feeding import feedings
from wire import DONE, delta, event, raw, text

from gradient_async.decoding import ChunkDecoder, as_chunk, decode_body, decode_completion
from gradient_async.types import ChatCompletionChunk


def chunks_of(pieces: list[bytes], **options: Any) -> list[ChatCompletionChunk]:
    decoder = ChunkDecoder(**options)
    chunks: list[ChatCompletionChunk] = []
    for piece in pieces:
        chunks += decoder.feed(piece)
    return chunks + decoder.close()


WIRE = (
    event(delta(role="assistant"), citations=["x"])
    + b": keep-alive\n\n"
    + text("a", obfuscation="zzz")
    + text("b", obfuscation="zz")
    + text("c", choice_extra={"a": None})
    + raw('{"choices":[],"usage":{"prompt_tokens":1},"provider":"p"}')
)
BODIES = [json.loads(line[6:]) for line in WIRE.splitlines() if line.startswith(b"data:")]


@pytest.mark.parametrize(
    "wire", [WIRE + DONE, WIRE, WIRE.replace(b"\n", b"\r\n"), WIRE.replace(b"data: ", b"data:")]
)
def test_every_chunk_has_the_json_of_its_event(wire: bytes) -> None:
    """Wherever the network cuts, and with the fields that have no names here; the chunks are the same."""
    expected = chunks_of([wire])
    assert [None] * len(BODIES) == [chunk.body for chunk in expected]
    for pieces in feedings(wire):
        chunks = chunks_of(pieces, keep_body=True)
        assert expected == chunks
        assert BODIES == [chunk.body for chunk in chunks]
        assert BODIES == [json.loads(json.dumps(chunk.body)) for chunk in chunks]


def test_events_in_another_shape_have_their_own_json() -> None:
    """The chunk is repaired; the body is what the server sent, as JSON that can be written again."""
    sent = [
        '{"choices":[{"message":{"content":"a"}}],"created":"7"}',
        '{"choices":[{"delta":{"content":"b"}}],"score":NaN,"odd":"\\ud83d"}',
        '{"choices":null,"usage":{"total_tokens":1}}',
    ]
    chunks = chunks_of([b"".join(map(raw, sent))], keep_body=True)
    assert ["a", "b", None] == [chunk.choices[0].delta.content if chunk.choices else None for chunk in chunks]
    assert [
        {"choices": [{"message": {"content": "a"}}], "created": "7"},
        {"choices": [{"delta": {"content": "b"}}], "score": None, "odd": "\ufffd"},
        {"choices": None, "usage": {"total_tokens": 1}},
    ] == [chunk.body for chunk in chunks]


def test_events_of_one_read_are_decoded_in_slices() -> None:
    wire = text("x" * 100, n=1) * 1000
    decoder = ChunkDecoder(keep_body=True)
    decoder.push(wire)
    count = 0
    while decoder.pending:
        chunks = decoder.decode_slice()
        assert all(chunk.body["n"] == 1 for chunk in chunks)
        count += len(chunks)
    assert 1000 == count


def test_a_surrogate_pair_that_is_cut_stays_in_the_chunk_that_ends_it() -> None:
    cut = [r'{"choices":[{"delta":{"content":"a\ud83d"}}]}', r'{"choices":[{"delta":{"content":"\ude00"}}]}']
    chunks = chunks_of([b"".join(map(raw, cut))], keep_body=True)
    assert ["a", "😀"] == [chunk.choices[0].delta.content for chunk in chunks]
    assert ["a\ufffd", "\ufffd"] == [chunk.body["choices"][0]["delta"]["content"] for chunk in chunks]


def test_a_completion_as_a_chunk_keeps_its_body() -> None:
    content = b'{"choices":[{"message":{"content":"a"}}],"x":1}'
    completion = decode_completion(content)
    completion.receive(content, decode_body)
    assert {"choices": [{"message": {"content": "a"}}], "x": 1} == as_chunk(completion).body
    assert None is as_chunk(decode_completion(content)).body
