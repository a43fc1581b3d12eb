"""What servers really sent, assembled, is what an independent oracle made of it: whole and however it is cut."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from corpus import CORPUS, STREAMS, expected_of, needs_corpus, reads_of
from feeding import one_by_one
from oracle import (
    DIFFERENCES,
    actual_choice,
    by_index,
    differences,
    expected_choice,
    expected_usage,
    usage_of,
)

from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamServerError
from gradient_async.types import ChatCompletion

pytestmark = needs_corpus

BYTE_BY_BYTE = 60_000  # bytes: longest recording to feed byte by byte
EVERY_CUT = 2_048  # bytes: longest recording to cut at every position


def assemble(pieces: list[bytes]) -> tuple[ChatCompletion, StreamServerError | None, ChunkDecoder]:
    """Decode and assemble a stream; return the completion, the server's error, and the decoder."""
    decoder = ChunkDecoder()
    assembler = CompletionAssembler()
    error: StreamServerError | None = None
    try:
        for piece in pieces:
            assembler.extend(decoder.feed(piece))
        assembler.extend(decoder.close())
    except StreamServerError as raised:
        error = raised
    assembler.end(done=decoder.done)
    return assembler.completion, error, decoder


def outcome(pieces: list[bytes]) -> tuple[dict[str, Any], str | None, bool, int, int]:
    completion, error, decoder = assemble(pieces)
    reported = None if error is None else error.message
    return completion.model_dump(), reported, decoder.done, decoder.events, decoder.anomalies


def first_created(wire: bytes) -> int:
    """Return the first `created` that is not 0."""
    return next((int(found) for found in re.findall(rb'"created": ?([0-9]+)', wire) if int(found)), 0)


def words_of(error: Any) -> tuple[str, str | None, str | None]:
    """Return message, code and type of an error as the server wrote it."""
    if isinstance(error, str):
        return error, None, None
    code = error.get("code")
    return error["message"], None if code is None else str(code), error.get("type")


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_stream(path: Path) -> None:
    """Every field is what the oracle says, but for `DIFFERENCES`."""
    wire = path.read_bytes()
    completion, error, decoder = assemble([wire])
    expected = expected_of(path)
    errors = expected["errors"]
    applied = 0 if errors and errors[0]["event"] == 0 else 1

    actual = completion.model_dump()
    assert "chat.completion" == actual["object"]
    assert (expected["id_nonempty"] or "") * applied == actual["id"]
    assert (expected["model_nonempty"] or "") * applied == actual["model"]
    assert int(expected["created"] or first_created(wire)) * applied == actual["created"]
    assert expected["system_fingerprint"] == actual["system_fingerprint"]
    assert expected["service_tier"] == actual["service_tier"]
    assert expected_usage(usage_of(expected)) == actual["usage"]
    assert sorted(map(expected_choice, expected["choices"]), key=by_index) == [
        actual_choice(choice) for choice in actual["choices"]
    ]
    assert (None, None, None) == (actual["retrieval"], actual["functions"], actual["guardrails"])
    assert (expected["stream"]["done"] or expected["stream"]["undispatched_data_at_eof"]) == decoder.done
    assert bool(errors) == (error is not None)
    if error is not None:
        message, code, kind = words_of(errors[0]["error"])
        assert message in error.message
        assert code == error.code
        assert kind == error.type or kind is None
        assert errors[0]["event"] + 1 == decoder.events


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_stream_however_it_is_cut(path: Path) -> None:
    """Byte by byte, cut once at every position, and in the reads that brought it: the outcome is the same."""
    wire = path.read_bytes()
    whole = outcome([wire])
    if len(wire) <= BYTE_BY_BYTE:
        assert whole == outcome(one_by_one(wire))
    if len(wire) <= EVERY_CUT:
        for cut in range(len(wire) + 1):
            assert whole == outcome([wire[:cut], b"", wire[cut:]])
    for size in (1000, 8192, 65536):
        assert whole == outcome([wire[at : at + size] for at in range(0, len(wire), size)])


@pytest.mark.parametrize(("name", "sizes"), reads_of().items(), ids=reads_of())
def test_stream_in_recorded_reads(name: str, sizes: list[int]) -> None:
    """The reads that once brought the stream bring the same."""
    wire = (CORPUS / "streams" / name).read_bytes()
    ends = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
    pieces = [wire[start:end] for start, end in pairwise(ends)]
    assert wire == b"".join(pieces)
    assert outcome([wire]) == outcome(pieces)


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_cut_stream_is_a_prefix(path: Path) -> None:
    """Whatever is lost at the end, what came before is there: text is a prefix, and nothing is invented."""
    wire = path.read_bytes()
    whole, _, _ = assemble([wire])
    for share in (0.25, 0.5, 0.9):
        part, _, _ = assemble([wire[: int(len(wire) * share)]])
        for choice in part.choices:
            full = next(found for found in whole.choices if found.index == choice.index)
            assert (full.message.content or "").startswith(choice.message.content or "")
            assert (full.message.reasoning_content or "").startswith(choice.message.reasoning_content or "")


def test_every_difference_occurs() -> None:
    """The list of deliberate differences is what the recordings show, no more and no less."""
    found: set[str] = set()
    for path in STREAMS:
        completion, _, decoder = assemble([path.read_bytes()])
        found |= differences(expected_of(path), completion.model_dump(), done=decoder.done)
    assert DIFFERENCES.keys() == found
