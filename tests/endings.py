"""Every way in which a call can end, as a table."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import ending_calls as calls
from ending_calls import PROMPT, Work

from gradient_async import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    ConfigurationError,
    FanOutError,
    GradientError,
    Hook,
    InvalidRequestError,
    JournalError,
    Limits,
    OutputDecodeError,
    RateLimitError,
    Retry,
    StreamError,
    StreamInterruptedError,
    StreamLimitError,
    StreamProtocolError,
    StreamServerError,
    StreamTimeoutError,
    StreamTruncatedError,
    Timeout,
)
from gradient_async.testing import (
    CLOSE,
    HOLD,
    RESET,
    Handler,
    chunk,
    completion,
    forever,
    head,
    http_chunk,
    reply_bytes,
    reply_json,
    reply_sse,
    reply_writes,
    sse,
)

__all__ = ["ANSWER", "ENDINGS", "PROMPT", "Ending"]

ANSWER = "answer-9c2e"
"""A part of every text that is received."""


class Ending(NamedTuple):
    """One way in which a call can end.

    Attributes:
        work: Makes the call.
        replies: What the server answers.
        error: What the call raises, or None.
        options: Options of the client.
        warns: Whether the call drops an open stream, which warns; None if it may.
    """

    work: Work
    replies: tuple[Handler, ...]
    error: type[BaseException] | None
    options: dict[str, Any]
    warns: bool | None


# Replies

HEAD = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
FIRST = http_chunk(sse(chunk(f"{ANSWER} t0 "), done=False))
STREAM = reply_sse(chunk(ANSWER), chunk(finish_reason="stop"))
OPEN = reply_writes([HEAD, FIRST, HOLD])
CUT = reply_writes([HEAD, FIRST, CLOSE])
SILENT = reply_writes([HOLD])
WHOLE = reply_json(completion(ANSWER))
NO_JSON = reply_bytes(b"{")
LARGE = reply_json(completion("x" * 3000))
WAIT = reply_json({}, 500, {"retry-after": "9"})  # the client keeps such a reply until the wait is over
EVENT_OF_AN_ERROR = reply_sse(chunk(ANSWER), {"error": {"message": ANSWER}})

IMPATIENT: dict[str, Any] = {"timeout": Timeout(first_token=0.05, response=0.05)}
# On a busy machine the first content takes some time.
IDLE: dict[str, Any] = {"timeout": Timeout(first_token=20, idle=0.05)}
SMALL: dict[str, Any] = {"limits": Limits(event_bytes=2000, line_bytes=2000, body_bytes=2000)}
QUICK = Retry(max_backoff=0.01)
NOWHERE: dict[str, Any] = {"base_url": "http://127.0.0.1:9"}


def _status(status: int) -> Handler:
    return reply_json({"id": "x", "message": ANSWER}, status)


# The table

ENDINGS: dict[str, Ending] = {}


def _add(
    name: str,
    work: Work,
    error: type[BaseException] | None,
    *replies: Handler,
    warns: bool = False,
    **options: Any,
) -> None:
    assert name not in ENDINGS
    ENDINGS[name] = Ending(work, replies, error, options, warns)


def _add_awaited() -> None:
    for how, work in {"": calls.create, ", a large request": calls.create_large}.items():
        _add(f"success{how}", work, None, WHOLE)
        _add(f"no answer{how}", work, APIConnectionError, reply_writes([CLOSE]))
        _add(f"time limit{how}", work, APITimeoutError, SILENT, **IMPATIENT)
    for status in (204, 302, 400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529):
        kind = APIResponseValidationError if status == 204 else APIStatusError
        reply = reply_writes([head(204, {})]) if status == 204 else _status(status)
        _add(f"status {status}", calls.create, kind, reply)
        _add(f"status {status} to a stream", calls.completion, kind, reply)
    _add(
        "429 and success",
        calls.create,
        None,
        reply_json({}, 429, {"retry-after": "0.01"}),
        WHOLE,
        max_retries=1,
    )
    _add(
        "429 with a long wait",
        calls.create,
        RateLimitError,
        reply_json({}, 429, {"retry-after": "100"}),
        max_retries=1,
    )
    _add("500 to each attempt", calls.create, APIStatusError, *[_status(500)] * 3, max_retries=2, retry=QUICK)
    _add("a model list refused", calls.list_models, APIStatusError, _status(401))
    _add("a model list without JSON", calls.list_models, APIResponseValidationError, NO_JSON)

    _add("connection refused", calls.create, APIConnectionError, **NOWHERE)
    _add("connection refused to a stream", calls.completion, APIConnectionError, **NOWHERE)
    _add("connection refused twice", calls.create, APIConnectionError, **NOWHERE, max_retries=1, retry=QUICK)
    _add("connection refused, no name for the client", calls.without_a_name, APIConnectionError)
    _add("unknown host", calls.create, APIConnectionError, base_url="https://nowhere.invalid")
    _add("no TLS", calls.create, APIConnectionError, base_url="https")
    _add("connection reset", calls.create, APIConnectionError, reply_writes([RESET]))
    _add("half a head", calls.create, APIConnectionError, reply_writes([b"HTTP/1.1 200 OK\r\nCont", CLOSE]))
    _add("no HTTP", calls.create, APIConnectionError, reply_writes([b"SSH-2.0-x\r\n\r\n", CLOSE]))
    _add("no status", calls.create, APIConnectionError, reply_writes([b"HTTP/1.1 2x0 OK\r\n\r\n", CLOSE]))
    _add(
        "too many interim responses",
        calls.create,
        APIConnectionError,
        reply_writes([b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20, CLOSE]),
    )

    _add("no JSON", calls.create, APIResponseValidationError, NO_JSON)
    _add("no completion", calls.create, APIResponseValidationError, reply_json({}))
    _add("an error of status 200", calls.create, APIStatusError, reply_json({"error": {"message": ANSWER}}))
    _add(
        "a login page",
        calls.create,
        APIResponseValidationError,
        reply_bytes(b"<p>", content_type="text/html"),
    )
    _add("a large body", calls.create, APIResponseValidationError, LARGE, **SMALL)
    half: list[Any] = [head(200, {"content-length": "99"}), b"{"]
    _add("half a body", calls.create, APIConnectionError, reply_writes([*half, CLOSE]))
    _add("half a body and silence", calls.create, APITimeoutError, reply_writes([*half, HOLD]), **IMPATIENT)
    refusal: list[Any] = [head(400, {"content-length": "9"}), b"{", HOLD]
    _add(
        "half the body of an error",
        calls.create,
        APIStatusError,
        reply_writes(refusal),
        limits=Limits(error_body_seconds=0.05),
    )
    for coding in ("gzip", "br"):
        encoded = reply_bytes(b"zz", headers={"content-encoding": coding})
        _add(f"no {coding}", calls.create, APIResponseValidationError, encoded)
        _add(f"no {coding} in a stream", calls.completion, StreamProtocolError, encoded)

    _add("total limit", calls.create, APITimeoutError, SILENT, timeout=Timeout(total=0.05))
    _add("total limit of a stream", calls.completion, StreamTimeoutError, OPEN, timeout=Timeout(total=0.3))
    _add(
        "total limit before the second attempt",
        calls.create,
        APIStatusError,
        WAIT,
        timeout=Timeout(total=5),
        max_retries=3,
    )


def _add_streams() -> None:
    for how, work in calls.READERS.items():
        _add(f"success, read as {how}", work, None, STREAM)
        _add(f"interrupted, read as {how}", work, StreamInterruptedError, CUT)
        _add(f"time limit, read as {how}", work, StreamTimeoutError, OPEN, **IDLE)
        _add(f"an error event, read as {how}", work, StreamServerError, EVENT_OF_AN_ERROR)
        drops = work is not calls.block
        cancelled = calls.given(calls.cancelled_once_open if drops else calls.cancelled, work=work)
        _add(f"cancelled, read as {how}", cancelled, asyncio.CancelledError, OPEN, warns=drops)
    _add("two choices", calls.choices, StreamTruncatedError, reply_sse(chunk(ANSWER), done=False))
    _add(
        "no content after the head",
        calls.completion,
        StreamTimeoutError,
        reply_writes([HEAD, HOLD]),
        timeout=Timeout(first_token=0.3),
    )
    flood = reply_writes([HEAD, FIRST, forever(http_chunk(b": keep-alive\n\n"), 0.01)])
    _add("keep-alives without content", calls.completion, StreamTimeoutError, flood, **IDLE)
    _add("reset", calls.completion, StreamInterruptedError, reply_writes([HEAD, FIRST, RESET]))
    whole = [*STREAM.steps[:-1]]
    _add("lost after the last event", calls.completion, None, reply_writes([*whole, CLOSE]))
    _add(
        "a malformed chunk",
        calls.completion,
        StreamInterruptedError,
        reply_writes([HEAD, FIRST, b"zz\r\n", HOLD]),
    )
    _add("truncated", calls.completion, StreamTruncatedError, reply_sse(chunk(ANSWER), done=False))
    _add("[DONE] alone", calls.completion, StreamTruncatedError, reply_sse())
    empty = reply_bytes(b"", content_type="text/event-stream")
    _add("empty", calls.completion, StreamTruncatedError, empty)
    _add("no event", calls.completion, StreamProtocolError, reply_sse(b"data: {\n\n"))
    _add(
        "no event after a chunk", calls.chunks, StreamProtocolError, reply_sse(chunk(ANSWER), b"data: {\n\n")
    )
    _add("no stream", calls.completion, GradientError, NO_JSON)
    _add(
        "a login page in place of a stream",
        calls.completion,
        StreamError,
        reply_bytes(b"<p>", content_type="text/html"),
    )
    _add(
        "an error in place of a stream",
        calls.completion,
        StreamServerError,
        reply_json({"error": {"message": ANSWER}}),
    )
    _add("a completion in place of a stream", calls.completion, None, WHOLE)
    _add("a large completion in place of a stream", calls.completion, StreamLimitError, LARGE, **SMALL)
    _add("a large event", calls.completion, StreamLimitError, reply_sse(chunk("x" * 3000)), **SMALL)
    _add("a large index", calls.completion, StreamLimitError, reply_sse(chunk(ANSWER, index=500)))
    long = reply_sse(chunk(ANSWER), chunk("x" * 300), chunk("y"))
    _add("a long completion", calls.completion, StreamLimitError, long, limits=Limits(completion_bytes=100))
    filtered = reply_sse(chunk(ANSWER), chunk(finish_reason="content_filter"))
    _add("a content filter", calls.completion, None, filtered)
    _add("read on after the error", calls.read_on_after_the_error, StreamInterruptedError, CUT)
    _add("closed early", calls.close_early, None, OPEN)
    _add("read after closing", calls.read_after_closing, StreamInterruptedError, OPEN)
    _add("abandoned", calls.abandon, None, OPEN, warns=True)
    _add("the client closed meanwhile", calls.close_client_once_open, StreamInterruptedError, OPEN)


def _add_other_words() -> None:
    """Add answers that are no completions, or are in an odd form."""
    torn = reply_writes([HEAD, FIRST, http_chunk(b'data: {"choices": [{"delta\n\n' + sse(chunk(ANSWER)))])
    other = {"type": "response.output_text.delta", "delta": ANSWER}
    glued = reply_writes([HEAD, http_chunk(b'data: {"choices": [{"del{"error": {"message": "no"}}\n\n')])
    _add("awaited, a whole stream", calls.create, None, STREAM)
    _add(
        "awaited, a stream cut short",
        calls.create,
        StreamTruncatedError,
        reply_sse(chunk(ANSWER), done=False),
    )
    _add("awaited, another API", calls.create, APIResponseValidationError, reply_json(other))
    _add(
        "awaited, no choices",
        calls.create,
        APIResponseValidationError,
        reply_json({"choices": [], "id": ANSWER}),
    )
    _add("no choices", calls.completion, StreamProtocolError, reply_sse({"object": "chat.completion.chunk"}))
    _add("another API", calls.completion, StreamProtocolError, reply_sse(other))
    _add("a torn event", calls.completion, StreamProtocolError, torn)
    _add("an error glued to an event", calls.completion, StreamServerError, glued)
    _add("JSON too deep", calls.completion, StreamProtocolError, reply_sse({"choices": [{"delta": _deep()}]}))


def _deep() -> Any:
    value: Any = ANSWER
    for _ in range(100):
        value = [value]
    return value


def _add_refused() -> None:
    values: dict[str, dict[str, Any]] = {
        "a value beyond its limit": {"temperature": 99},
        "a value without JSON": {"metadata": {"a": object()}},
    }
    for name, params in values.items():
        _add(name, calls.given(calls.create, **params), InvalidRequestError)
    _add("an unknown parameter", calls.given(calls.create, nonsense=1), TypeError)
    _add(
        "a header that can't be sent",
        calls.given(calls.create, extra_headers={"x": "a\r\nb"}),
        ConfigurationError,
    )
    _add("a closed client", calls.close_then_create, ConfigurationError)


def _add_responses() -> None:
    _add("raw: success", calls.raw_response, None, WHOLE)
    _add("raw: status", calls.raw_response, APIStatusError, _status(400))
    _add("raw: no JSON", calls.raw_response, APIResponseValidationError, NO_JSON)
    _add("raw: a stream", calls.given(calls.raw_response, stream=True), None, STREAM)
    _add(
        "raw: a stream interrupted", calls.given(calls.raw_response, stream=True), StreamInterruptedError, CUT
    )
    half = reply_writes([head(200, {"content-length": "99"}), b"{\n", CLOSE])
    for how, work in {"lines": calls.lines, "parsed": calls.parse}.items():
        _add(f"streaming response, {how}: success", work, None, WHOLE)
        _add(f"streaming response, {how}: interrupted", work, APIConnectionError, half)
    _add("streaming response, parsed: no JSON", calls.parse, APIResponseValidationError, NO_JSON)


def _add_several() -> None:
    ways: dict[str, dict[str, Any]] = {
        "": {},
        " in a race": {"hedge_after": 5},
        " of one reply": {"native": True},
    }
    for how, work in {
        "chunks": calls.fan_out,
        "awaited": calls.fan_out_awaited,
        "choices": calls.fan_out_choices,
    }.items():
        _add(f"fan-out, {how}: success", work, None, STREAM, STREAM, STREAM)
        _add(f"fan-out, {how}: a status", work, FanOutError, STREAM, _status(400), SILENT)
        _add(f"fan-out, {how}: interrupted", work, FanOutError, STREAM, CUT, OPEN)
        collect = calls.given(work, on_error="collect")
        _add(f"fan-out, {how}: errors collected", collect, None, STREAM, _status(400), _status(500))
        _add(
            f"fan-out, {how}: no streams",
            calls.given(work, stream=False),
            FanOutError,
            WHOLE,
            _status(400),
            WHOLE,
        )
        hedged = calls.given(work, hedge_after=0.02)
        _add(f"fan-out, {how}: a race won", hedged, None, STREAM, SILENT, STREAM, STREAM)
        _add(
            f"fan-out, {how}: a race lost",
            hedged,
            FanOutError,
            *[SILENT] * 3,
            *[_status(400)] * 3,
            **IMPATIENT,
        )
        native = calls.given(work, native="auto")
        _add(f"fan-out, {how}: n refused", native, None, _status(400), STREAM, STREAM, STREAM)
        _add(
            f"fan-out, {how}: cancelled",
            calls.given(calls.cancelled, work=work),
            asyncio.CancelledError,
            OPEN,
            OPEN,
            SILENT,
        )
        closed = calls.given(calls.close_client_meanwhile, work=work)
        _add(f"fan-out, {how}: the client closed meanwhile", closed, FanOutError, OPEN, OPEN, OPEN)
        for name, options in ways.items():
            pieces = [chunk(ANSWER, index=index) for index in range(3)]
            pieces += [chunk(index=index, finish_reason="stop") for index in range(3)]
            replies = [reply_sse(*pieces)] if "native" in options else [STREAM] * 3
            failing = calls.given(work, stop_when=calls.fail, **options)
            _add(f"fan-out, {how}: stop_when fails{name}", failing, ZeroDivisionError, *replies)

    _add("map: success", calls.map_all, None, *[WHOLE] * 4)
    _add("map: errors collected", calls.map_all, None, WHOLE, _status(400), WHOLE, NO_JSON)
    for how, params in {"": {}, ", ordered": {"ordered": True}}.items():
        raising = calls.given(calls.map_all, on_error="raise", **params)
        _add(f"map: an error raised{how}", raising, FanOutError, WHOLE, _status(400), SILENT, SILENT)
    _add(
        "map: a stream interrupted",
        calls.given(calls.map_all, stream=True),
        None,
        STREAM,
        CUT,
        STREAM,
        STREAM,
    )
    _add("map: an unknown option", calls.given(calls.map_all, nonsense=1), TypeError)
    _add("map: an unknown parameter", calls.map_misspelt, None)
    _add("map: a journal", calls.map_twice_with_journal, None, *[WHOLE] * 3, _status(400))
    _add(
        "map: a journal left early", calls.given(calls.map_twice_with_journal, leave=True), None, *[WHOLE] * 8
    )
    _add("map: a journal that can't be used", calls.map_with_closed_journal, JournalError)
    _add("map: an error unwrapped", calls.map_and_unwrap, APIStatusError, _status(400))
    _add("map: the requests fail", calls.map_failing_requests, ZeroDivisionError, WHOLE)
    _add("map: left before the requests' failure", calls.leave_map_of_failing_requests, None, WHOLE)
    _add("map: left early", calls.map_and_leave, None, WHOLE, *[SILENT] * 3)
    _add(
        "map: cancelled",
        calls.given(calls.cancelled, work=calls.map_all),
        asyncio.CancelledError,
        *[SILENT] * 4,
    )
    _add("gather", calls.gather, APIStatusError, _status(400), _status(400))


def _add_typed() -> None:
    _add("typed answer: none", calls.parse_answer, OutputDecodeError, WHOLE)
    readers = {
        "the completion": calls.typed_completion,
        "events": calls.typed_events,
        "deltas": calls.typed_deltas,
    }
    for how, work in readers.items():
        valid = reply_sse(chunk('{"a":'), chunk("1}"), chunk(finish_reason="stop"))
        _add(f"typed {how}: success", work, None, valid)
        # The value is read before the stream has ended, and the error leaves the loop over it.
        _add(f"typed {how}: no answer", work, OutputDecodeError, STREAM, warns=how == "deltas")
        _add(f"typed {how}: interrupted", work, StreamInterruptedError, CUT)
    several: dict[str, Any] = {"response_format": dict[str, int]}
    fan = calls.given(calls.fan_out, first=1, **several)
    _add("typed fan-out: no answer", fan, FanOutError, *[STREAM] * 3)
    _add("typed map: no answers", calls.given(calls.map_all, **several), None, *[WHOLE] * 4)


def _add_circumstances() -> None:
    for how, work in {"": calls.create, " of a stream": calls.completion}.items():
        for when, reply in {"before the head": SILENT, "before the second attempt": WAIT}.items():
            cancelled = calls.given(calls.cancelled, work=work)
            _add(f"cancelled {when}{how}", cancelled, asyncio.CancelledError, reply, max_retries=1)
            timed_out = calls.given(calls.timed_out, work=work)
            _add(f"asyncio.timeout {when}{how}", timed_out, TimeoutError, reply, max_retries=1)
        name = f"while an exception is handled{how}"
        handling = calls.given(calls.while_handling, work=work)
        _add(f"a status {name}", handling, APIStatusError, _status(404))
        _add(f"no connection {name}", handling, APIConnectionError, **NOWHERE)
    _add(
        "interrupted while an exception is handled",
        calls.given(calls.while_handling, work=calls.chunks),
        StreamError,
        CUT,
    )
    _add(
        "a status to a copy",
        lambda client: calls.create(client.with_options(timeout=3)),
        APIStatusError,
        _status(404),
    )
    settings: dict[str, dict[str, Any]] = {
        "a hook": {"hooks": [Hook()]},
        "the environment": {"trust_env": True},
    }
    for how, option in settings.items():
        _add(f"{how}: success", calls.create, None, WHOLE, **option)
        _add(f"{how}: a status", calls.create, APIStatusError, _status(400), **option)
        _add(f"{how}: no JSON", calls.create, APIResponseValidationError, NO_JSON, **option)
        _add(f"{how}: interrupted", calls.completion, StreamInterruptedError, CUT, **option)
        retried = [_status(500)] * 2
        _add(f"{how}: attempts", calls.create, APIStatusError, *retried, max_retries=1, retry=QUICK, **option)
        _add(
            f"{how}: cancelled",
            calls.given(calls.cancelled, work=calls.create),
            asyncio.CancelledError,
            SILENT,
            **option,
        )


_add_awaited()
_add_streams()
_add_other_words()
_add_refused()
_add_responses()
_add_several()
_add_typed()
_add_circumstances()
