"""Writes event streams as servers do, and decodes them, cut in every possible way."""

from __future__ import annotations

import json
from typing import Any

from feeding import feedings

from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamError
from gradient_async.types import ChatCompletionChunk

__all__ = ["DONE", "contents", "decoded", "delta", "event", "raw", "refused", "run", "text"]

DONE = b"data: [DONE]\n\n"


def delta(index: int = 0, /, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": fields, "finish_reason": None}


def event(*choices: dict[str, Any], **fields: Any) -> bytes:
    """Write one event as servers usually do."""
    body = {
        "id": "c-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m",
        "choices": choices,
        **fields,
    }
    return b"data: " + json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n\n"


def text(content: str, **fields: Any) -> bytes:
    return event(delta(content=content), **fields)


def raw(payload: str) -> bytes:
    return b"data: " + payload.encode() + b"\n\n"


def run(decoder: ChunkDecoder, pieces: list[bytes]) -> tuple[list[dict[str, Any]], StreamError | None]:
    """Feed and close, and go on after an error as `feed` promises; return chunks and the error."""
    chunks: list[ChatCompletionChunk] = []
    errors: list[StreamError] = []
    for step in (
        *(lambda piece=piece: decoder.feed(piece) for piece in pieces),
        decoder.close,
        decoder.close,
    ):
        try:
            chunks += step()
        except StreamError as raised:
            errors.append(raised)
    assert all(error is errors[0] for error in errors), "it is always the same error"
    return [chunk.to_dict() for chunk in chunks], errors[0] if errors else None


def decoded(wire: bytes, **options: Any) -> tuple[list[dict[str, Any]], ChunkDecoder]:
    """Decode a stream without an error in every way it can be cut; return what came whole."""
    decoder = ChunkDecoder(**options)
    whole, error = run(decoder, [wire])
    assert error is None
    state = (decoder.done, decoder.events, decoder.anomalies)
    for pieces in feedings(wire):
        other = ChunkDecoder(**options)
        assert (whole, None) == run(other, pieces)
        assert state == (other.done, other.events, other.anomalies)
    return whole, decoder


def refused(wire: bytes, **options: Any) -> tuple[list[dict[str, Any]], StreamError]:
    """Decode a stream that ends in an error in every way it can be cut; return chunks and error."""
    whole, error = run(ChunkDecoder(**options), [wire])
    assert error is not None
    for pieces in feedings(wire):
        chunks, other = run(ChunkDecoder(**options), pieces)
        assert whole == chunks, "errors never overtake chunks"
        assert (type(error), str(error), error.events) == (
            type(other),
            str(other),
            getattr(other, "events", 0),
        )
    return whole, error


def contents(chunks: list[dict[str, Any]], name: str = "content") -> list[Any]:
    return [choice["delta"].get(name) for chunk in chunks for choice in chunk["choices"]]
