"""What is fuzzed: functions of bytes that raise only if a promise is broken."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator

from gradient_async import APIResponseValidationError, Limits, StreamError
from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder, decode_completion, decode_models, parse_error, reply_error
from gradient_async.events import EventBuilder
from gradient_async.policy.ratelimit import rate_limits, retry_after
from gradient_async.session.inflate import Gunzip
from gradient_async.sse import Event, EventDecoder
from gradient_async.types import ChatCompletionChunk

__all__ = ["TARGETS"]

LIMITS = Limits(event_bytes=4096, line_bytes=4096, completion_bytes=8192, choices=8, tool_calls=8)


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut data where it says itself: the first byte tells how."""
    step = 1 + (data[0] if data else 0)
    for start in range(0, len(data), step):
        yield data[start : start + step]


def _events(*feeds: bytes) -> tuple[list[Event], str | None]:
    decoder = EventDecoder(max_event_bytes=4096, max_line_bytes=4096)
    events: list[Event] = []
    try:
        for data in feeds:
            events += decoder.feed(data)
            held = (*decoder._blocks, *decoder._data, *decoder._line)
            assert sum(map(len, held)) <= 3 * 4096
        events += decoder.close()
    except StreamError as error:
        return events, str(error)
    return events, None


def events(data: bytes) -> None:
    """Events are the same wherever they are cut."""
    assert _events(data) == _events(*pieces(data))


def _chunks(*feeds: bytes, strict: bool, n: int | None) -> tuple[list[ChatCompletionChunk], str | None]:
    decoder = ChunkDecoder(limits=LIMITS, strict=strict, n=n)
    chunks: list[ChatCompletionChunk] = []
    try:
        for data in feeds:
            chunks += decoder.feed(data)
        chunks += decoder.close()
    except StreamError as error:
        return chunks, f"{error} {error.partial}"
    return chunks, None


def chunks(data: bytes) -> None:
    """So are chunks; and what they add up to can be told as events, and written as JSON and as text."""
    strict = bool(data[-1:] < b"@")
    n = 9 if len(data) % 2 else None
    whole = _chunks(data, strict=strict, n=n)
    assert whole == _chunks(*pieces(data), strict=strict, n=n)
    assert n is None or all(0 <= choice.index < n for chunk in whole[0] for choice in chunk.choices)
    assembler = CompletionAssembler(limits=LIMITS)
    builder = EventBuilder(assembler)
    try:
        for chunk in whole[0]:
            chunk.to_json()
            assembler.add(chunk)
            for event in builder.add(chunk):
                getattr(event, "snapshot", None)
        assembler.end(done=True)
    except StreamError:
        pass
    for event in builder.end():
        repr(event).encode()
    completion = assembler.completion
    completion.to_json()
    assert [choice.index for choice in completion.choices] == sorted({c.index for c in completion.choices})
    for choice in completion.choices:
        (choice.message.content or "").encode()


def replies(data: bytes) -> None:
    """A body is a completion, a list of models, an error, or no valid reply."""
    try:
        decode_completion(data).to_json()
    except APIResponseValidationError as error:
        str(error).encode()
    try:
        decode_models(data).to_json()
    except APIResponseValidationError as error:
        str(error).encode()
    reply_error(data)
    message = parse_error(data).message
    assert len(message) <= 4000
    assert not {unicodedata.category(character) for character in message} & {"Cc", "Zl", "Zp", "Cs"}


def headers(data: bytes) -> None:
    """Headers tell a wait and limits, or nothing."""
    values = data.decode("utf-8", "surrogateescape").split("\n")
    names = [
        "retry-after",
        "retry-after-ms",
        "date",
        "x-ratelimit-reset-requests",
        "x-ratelimit-limit-requests",
    ]
    names += ["x-ratelimit-reset-tokens-per-day", "ratelimit-reset", "ratelimit-remaining"]
    found = dict(zip(names, values, strict=False))
    wait = retry_after(found, status=429, now=1.8e9, jitter=0.5)
    assert wait is None or wait >= 0
    rate_limits(found, 1.8e9)


def gunzip(data: bytes) -> None:
    """What is unpacked is the same wherever it is cut, and bounded."""

    def unpack(*feeds: bytes) -> tuple[bytes, str | None, bool]:
        decoder = Gunzip(Limits(decompression_ratio=10, gzip_members=3))
        out = b""
        try:
            for feed in feeds:
                decoder.push(feed)
                while decoder.pending:
                    out += decoder.read()
                    assert len(out) < 4 * 2**20
        except StreamError as error:
            return b"", type(error).__name__, False
        return out, None, decoder.whole

    assert unpack(data) == unpack(*pieces(data))


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (events, chunks, replies, headers, gunzip)
}
