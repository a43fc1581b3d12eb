"""Every way in which a call can end, as a table."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from client_calls import create_completion, open_stream

from gradient_async import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AsyncGradient,
    Choice,
    ConfigurationError,
    FanOutError,
    GradientError,
    Hook,
    InvalidRequestError,
    Limits,
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

__all__ = ["ANSWER", "ENDINGS", "PROMPT", "Ending", "Work"]

PROMPT = "prompt-5b1f"
"""A part of every message that is sent."""
ANSWER = "answer-9c2e"
"""A part of every text that is received."""

Work: TypeAlias = Callable[[AsyncGradient], Awaitable[Any]]


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


def _messages() -> list[Any]:
    return [{"role": "user", "content": f"{PROMPT} {id(object())}"}]


async def _create(client: AsyncGradient, **params: Any) -> None:
    await create_completion(client, **{"messages": _messages(), **params})


async def _create_large(client: AsyncGradient) -> None:
    await _create(client, messages=[*_messages(), {"role": "user", "content": "x" * 300_000}])


# Streams


async def _open(client: AsyncGradient, **params: Any) -> Any:
    return await open_stream(client, messages=_messages(), **params)


async def _chunks(client: AsyncGradient) -> None:
    async for _ in await _open(client):
        pass


async def _text(client: AsyncGradient) -> None:
    async for _ in (await _open(client)).text:
        pass


async def _events(client: AsyncGradient) -> None:
    async for _ in (await _open(client)).events():
        pass


async def _bytes(client: AsyncGradient) -> None:
    async for _ in (await _open(client)).raw:
        pass


async def _choice(client: AsyncGradient) -> None:
    async for _ in (await _open(client)).choice(0):
        pass


async def _choices(client: AsyncGradient) -> None:
    stream = await _open(client, n=2)

    async def read(index: int) -> None:
        async for _ in stream.choice(index):
            pass

    await asyncio.gather(read(0), read(1))


async def _completion(client: AsyncGradient) -> None:
    await (await _open(client)).completion()


async def _half_then_completion(client: AsyncGradient) -> None:
    stream = await _open(client)
    await anext(stream)
    await stream.completion()


async def _block(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(model="m", messages=_messages()) as stream:
        async for _ in stream:
            pass


async def _read_on_after_the_error(client: AsyncGradient) -> None:
    stream = await _open(client)
    for _ in range(2):
        try:
            await stream.completion()
        except GradientError:
            pass
    await anext(stream)


async def _close_early(client: AsyncGradient) -> None:
    stream = await _open(client)
    await anext(stream)
    await stream.aclose()


async def _read_after_closing(client: AsyncGradient) -> None:
    stream = await _open(client)
    await anext(stream)
    await stream.aclose()
    await anext(stream)


async def _abandon(client: AsyncGradient) -> None:
    await anext(await _open(client))


async def _close_client_meanwhile(client: AsyncGradient, work: Work = _completion) -> None:
    closing: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    loop.call_later(0.03, lambda: closing.append(loop.create_task(client.close())))
    await work(client)


READERS: dict[str, Work] = {
    "chunks": _chunks,
    "text": _text,
    "events": _events,
    "bytes": _bytes,
    "a choice": _choice,
    "the completion": _completion,
    "the completion of a stream half read": _half_then_completion,
    "a block": _block,
}

# Responses


async def _raw_response(client: AsyncGradient, **params: Any) -> None:
    response: Any = await client.chat.completions.with_raw_response.create(
        model="m", messages=_messages(), **params
    )
    result = await response.parse()
    if params:
        await result.completion()


async def _lines(client: AsyncGradient) -> None:
    create = client.chat.completions.with_streaming_response.create
    async with create(model="m", messages=_messages()) as response:
        async for _ in response.iter_lines():
            pass


async def _parse(client: AsyncGradient) -> None:
    create = client.chat.completions.with_streaming_response.create
    async with create(model="m", messages=_messages()) as response:
        await response.parse()


async def _list_models(client: AsyncGradient) -> None:
    await client.models.list()


# Several requests


async def _fan_out(client: AsyncGradient, **options: Any) -> None:
    async with client.chat.completions.fan_out(model="m", messages=_messages(), n=3, **options) as fan:
        async for _ in fan:
            pass


async def _fan_out_awaited(client: AsyncGradient, **options: Any) -> None:
    await client.chat.completions.fan_out(model="m", messages=_messages(), n=3, **options).completion()


async def _fan_out_choices(client: AsyncGradient, **options: Any) -> None:
    async with client.chat.completions.fan_out(model="m", messages=_messages(), n=3, **options) as fan:

        async def read(index: int) -> None:
            async for _ in fan.choice(index):
                pass

        await asyncio.gather(*map(read, range(3)))


def _fail(_choice: Choice) -> bool:
    raise ZeroDivisionError


async def _map(client: AsyncGradient, **options: Any) -> None:
    requests = [{"model": "m", "messages": _messages()} for _ in range(4)]
    async for _ in client.chat.completions.map(requests, **options):
        pass


async def _map_and_unwrap(client: AsyncGradient) -> None:
    async for result in client.chat.completions.map([{"model": "m", "messages": _messages()}]):
        result.unwrap()


async def _map_and_leave(client: AsyncGradient) -> None:
    requests = [{"model": "m", "messages": _messages()} for _ in range(4)]
    async for _ in client.chat.completions.map(requests):
        break


def _failing_requests() -> Iterator[dict[str, Any]]:
    yield {"model": "m", "messages": _messages()}
    raise ZeroDivisionError


async def _map_failing_requests(client: AsyncGradient) -> None:
    async for _ in client.chat.completions.map(_failing_requests()):
        pass


async def _leave_map_of_failing_requests(client: AsyncGradient) -> None:
    async for _ in client.chat.completions.map(_failing_requests()):
        await asyncio.sleep(0.01)
        break


async def _gather(client: AsyncGradient) -> None:
    await asyncio.gather(_create(client), _create(client))


# Circumstances


async def _cancelled(client: AsyncGradient, work: Work) -> None:
    task: Any = asyncio.current_task()
    asyncio.get_running_loop().call_later(0.03, task.cancel)
    del task  # the task keeps its exception, and the traceback of the exception keeps this frame
    await work(client)


async def _timed_out(client: AsyncGradient, work: Work) -> None:
    async with asyncio.timeout(0.03):
        await work(client)


async def _while_handling(client: AsyncGradient, work: Work) -> None:
    try:
        raise LookupError(_messages())
    except LookupError:
        await work(client)


async def _without_a_name(client: AsyncGradient) -> None:
    del client
    await AsyncGradient(base_url="http://127.0.0.1:9", model_access_key="k").chat.completions.create(
        model="m", messages=_messages()
    )


async def _close_then_create(client: AsyncGradient) -> None:
    await client.close()
    await _create(client)


def _with(work: Callable[..., Awaitable[Any]], /, **params: Any) -> Work:
    return lambda client: work(client, **params)


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

LIMITED: dict[str, Any] = {
    "timeout": Timeout(connect=1, first_token=0.05, idle=0.05, response=0.05),
    "limits": Limits(event_bytes=2000, line_bytes=2000, body_bytes=2000, error_body_seconds=0.05),
}
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
    for how, work in {"": _create, ", a large request": _create_large}.items():
        _add(f"success{how}", work, None, WHOLE)
        _add(f"no answer{how}", work, APIConnectionError, reply_writes([CLOSE]))
        _add(f"time limit{how}", work, APITimeoutError, SILENT, **LIMITED)
    for status in (204, 302, 400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529):
        kind = APIResponseValidationError if status == 204 else APIStatusError
        reply = reply_writes([head(204, {})]) if status == 204 else _status(status)
        _add(f"status {status}", _create, kind, reply)
        _add(f"status {status} to a stream", _completion, kind, reply)
    _add("429 and success", _create, None, reply_json({}, 429, {"retry-after": "0.01"}), WHOLE, max_retries=1)
    _add("429 with a long wait", _create, RateLimitError, reply_json({}, 429, {"retry-after": "100"}), max_retries=1)
    _add("500 to each attempt", _create, APIStatusError, *[_status(500)] * 3, max_retries=2, retry=QUICK)
    _add("a model list refused", _list_models, APIStatusError, _status(401))
    _add("a model list without JSON", _list_models, APIResponseValidationError, NO_JSON)

    _add("connection refused", _create, APIConnectionError, **NOWHERE)
    _add("connection refused to a stream", _completion, APIConnectionError, **NOWHERE)
    _add("connection refused twice", _create, APIConnectionError, **NOWHERE, max_retries=1, retry=QUICK)
    _add("connection refused, no name for the client", _without_a_name, APIConnectionError)
    _add("unknown host", _create, APIConnectionError, base_url="https://nowhere.invalid")
    _add("no TLS", _create, APIConnectionError, base_url="https")
    _add("connection reset", _create, APIConnectionError, reply_writes([RESET]))
    _add("half a head", _create, APIConnectionError, reply_writes([b"HTTP/1.1 200 OK\r\nCont", CLOSE]))
    _add("no HTTP", _create, APIConnectionError, reply_writes([b"SSH-2.0-x\r\n\r\n", CLOSE]))
    _add("no status", _create, APIConnectionError, reply_writes([b"HTTP/1.1 2x0 OK\r\n\r\n", CLOSE]))
    _add(
        "too many interim responses",
        _create,
        APIConnectionError,
        reply_writes([b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20, CLOSE]),
    )

    _add("no JSON", _create, APIResponseValidationError, NO_JSON)
    _add("no completion", _create, APIResponseValidationError, reply_json({}))
    _add("an error of status 200", _create, APIStatusError, reply_json({"error": {"message": ANSWER}}))
    _add("a login page", _create, APIResponseValidationError, reply_bytes(b"<p>", content_type="text/html"))
    _add("a large body", _create, APIResponseValidationError, LARGE, **LIMITED)
    half = [head(200, {"content-length": "99"}), b"{"]
    _add("half a body", _create, APIConnectionError, reply_writes([*half, CLOSE]))
    _add("half a body and silence", _create, APITimeoutError, reply_writes([*half, HOLD]), **LIMITED)
    refusal = [head(400, {"content-length": "9"}), b"{", HOLD]
    _add("half the body of an error", _create, APIStatusError, reply_writes(refusal), **LIMITED)
    for coding in ("gzip", "br"):
        encoded = reply_bytes(b"zz", headers={"content-encoding": coding})
        _add(f"no {coding}", _create, APIResponseValidationError, encoded)
        _add(f"no {coding} in a stream", _completion, StreamProtocolError, encoded)

    total: dict[str, Any] = {"timeout": Timeout(total=0.05)}
    _add("total limit", _create, APITimeoutError, SILENT, **total)
    _add("total limit of a stream", _completion, StreamTimeoutError, OPEN, **total)
    _add(
        "total limit before the second attempt",
        _create,
        APIStatusError,
        WAIT,
        **total,
        max_retries=3,
    )


def _add_streams() -> None:
    for how, work in READERS.items():
        _add(f"success, read as {how}", work, None, STREAM)
        _add(f"interrupted, read as {how}", work, StreamInterruptedError, CUT)
        _add(f"time limit, read as {how}", work, StreamTimeoutError, OPEN, **LIMITED)
        _add(f"an error event, read as {how}", work, StreamServerError, EVENT_OF_AN_ERROR)
        _add(
            f"cancelled, read as {how}",
            _with(_cancelled, work=work),
            asyncio.CancelledError,
            OPEN,
            warns=work is not _block,
        )
    _add("two choices", _choices, StreamTruncatedError, reply_sse(chunk(ANSWER), done=False))
    _add("no content after the head", _completion, StreamTimeoutError, reply_writes([HEAD, HOLD]), **LIMITED)
    flood = reply_writes([HEAD, FIRST, forever(http_chunk(b": keep-alive\n\n"), 0.01)])
    _add("keep-alives without content", _completion, StreamTimeoutError, flood, **LIMITED)
    _add("reset", _completion, StreamInterruptedError, reply_writes([HEAD, FIRST, RESET]))
    whole = [*STREAM.steps[:-1]]
    _add("lost after the last event", _completion, None, reply_writes([*whole, CLOSE]))
    _add("a malformed chunk", _completion, StreamInterruptedError, reply_writes([HEAD, FIRST, b"zz\r\n", HOLD]))
    _add("truncated", _completion, StreamTruncatedError, reply_sse(chunk(ANSWER), done=False))
    _add("[DONE] alone", _completion, StreamTruncatedError, reply_sse())
    empty = reply_bytes(b"", content_type="text/event-stream")
    _add("empty", _completion, StreamTruncatedError, empty)
    _add("no event", _completion, StreamProtocolError, reply_sse(b"data: {\n\n"))
    _add("no event after a chunk", _chunks, StreamProtocolError, reply_sse(chunk(ANSWER), b"data: {\n\n"))
    _add("no stream", _completion, GradientError, NO_JSON)
    _add("a login page in place of a stream", _completion, StreamError, reply_bytes(b"<p>", content_type="text/html"))
    _add("an error in place of a stream", _completion, StreamServerError, reply_json({"error": {"message": ANSWER}}))
    _add("a completion in place of a stream", _completion, None, WHOLE)
    _add("a large completion in place of a stream", _completion, StreamLimitError, LARGE, **LIMITED)
    _add("a large event", _completion, StreamLimitError, reply_sse(chunk("x" * 3000)), **LIMITED)
    _add("a large index", _completion, StreamLimitError, reply_sse(chunk(ANSWER, index=500)))
    long = reply_sse(chunk(ANSWER), chunk("x" * 300), chunk("y"))
    _add("a long completion", _completion, StreamLimitError, long, limits=Limits(completion_bytes=100))
    filtered = reply_sse(chunk(ANSWER), chunk(finish_reason="content_filter"))
    _add("a content filter", _completion, None, filtered)
    _add("read on after the error", _read_on_after_the_error, StreamInterruptedError, CUT)
    _add("closed early", _close_early, None, OPEN)
    _add("read after closing", _read_after_closing, StreamInterruptedError, OPEN)
    _add("abandoned", _abandon, None, OPEN, warns=True)
    _add("the client closed meanwhile", _close_client_meanwhile, StreamInterruptedError, OPEN)


def _add_refused() -> None:
    for name, params in {
        "a value beyond its limit": {"temperature": 99},
        "a value without JSON": {"metadata": {"a": object()}},
    }.items():
        _add(name, _with(_create, **params), InvalidRequestError)
    _add("an unknown parameter", _with(_create, nonsense=1), TypeError)
    _add("a header that can't be sent", _with(_create, extra_headers={"x": "a\r\nb"}), ConfigurationError)
    _add("a closed client", _close_then_create, ConfigurationError)


def _add_responses() -> None:
    _add("raw: success", _raw_response, None, WHOLE)
    _add("raw: status", _raw_response, APIStatusError, _status(400))
    _add("raw: no JSON", _raw_response, APIResponseValidationError, NO_JSON)
    _add("raw: a stream", _with(_raw_response, stream=True), None, STREAM)
    _add("raw: a stream interrupted", _with(_raw_response, stream=True), StreamInterruptedError, CUT)
    half = reply_writes([head(200, {"content-length": "99"}), b"{\n", CLOSE])
    for how, work in {"lines": _lines, "parsed": _parse}.items():
        _add(f"streaming response, {how}: success", work, None, WHOLE)
        _add(f"streaming response, {how}: interrupted", work, APIConnectionError, half)
    _add("streaming response, parsed: no JSON", _parse, APIResponseValidationError, NO_JSON)


def _add_several() -> None:
    for how, work in {"chunks": _fan_out, "awaited": _fan_out_awaited, "choices": _fan_out_choices}.items():
        _add(f"fan-out, {how}: success", work, None, STREAM, STREAM, STREAM)
        _add(f"fan-out, {how}: a status", work, FanOutError, STREAM, _status(400), SILENT)
        _add(f"fan-out, {how}: interrupted", work, FanOutError, STREAM, CUT, OPEN)
        collect = _with(work, on_error="collect")
        _add(f"fan-out, {how}: errors collected", collect, None, STREAM, _status(400), _status(500))
        _add(f"fan-out, {how}: no streams", _with(work, stream=False), FanOutError, WHOLE, _status(400), WHOLE)
        hedged = _with(work, hedge_after=0.02)
        _add(f"fan-out, {how}: a race won", hedged, None, STREAM, SILENT, STREAM, STREAM)
        _add(f"fan-out, {how}: a race lost", hedged, FanOutError, *[SILENT] * 3, *[_status(400)] * 3, **LIMITED)
        native = _with(work, native="auto")
        _add(f"fan-out, {how}: n refused", native, None, _status(400), STREAM, STREAM, STREAM)
        _add(f"fan-out, {how}: cancelled", _with(_cancelled, work=work), asyncio.CancelledError, OPEN, OPEN, SILENT)
        closed = _with(_close_client_meanwhile, work=work)
        _add(f"fan-out, {how}: the client closed meanwhile", closed, FanOutError, OPEN, OPEN, OPEN)
        for name, options in {"": {}, " in a race": {"hedge_after": 5}, " of one reply": {"native": True}}.items():
            pieces = [chunk(ANSWER, index=index) for index in range(3)]
            pieces += [chunk(index=index, finish_reason="stop") for index in range(3)]
            replies = [reply_sse(*pieces)] if "native" in options else [STREAM] * 3
            failing = _with(work, stop_when=_fail, **options)
            _add(f"fan-out, {how}: stop_when fails{name}", failing, ZeroDivisionError, *replies)

    _add("map: success", _map, None, *[WHOLE] * 4)
    _add("map: errors collected", _map, None, WHOLE, _status(400), WHOLE, NO_JSON)
    for how, params in {"": {}, ", ordered": {"ordered": True}}.items():
        raising = _with(_map, on_error="raise", **params)
        _add(f"map: an error raised{how}", raising, FanOutError, WHOLE, _status(400), SILENT, SILENT)
    _add("map: a stream interrupted", _with(_map, stream=True), None, STREAM, CUT, STREAM, STREAM)
    _add("map: an unknown parameter", _with(_map, nonsense=1), None)
    _add("map: an error unwrapped", _map_and_unwrap, APIStatusError, _status(400))
    _add("map: the requests fail", _map_failing_requests, ZeroDivisionError, WHOLE)
    _add("map: left before the requests' failure", _leave_map_of_failing_requests, None, WHOLE)
    _add("map: left early", _map_and_leave, None, WHOLE, *[SILENT] * 3)
    _add("map: cancelled", _with(_cancelled, work=_map), asyncio.CancelledError, *[SILENT] * 4)
    _add("gather", _gather, APIStatusError, _status(400), _status(400))


def _add_circumstances() -> None:
    for how, work in {"": _create, " of a stream": _completion}.items():
        for when, replies, options in (
            ("before the head", (SILENT,), {}),
            ("before the second attempt", (WAIT,), {"max_retries": 1}),
        ):
            cancelled = _with(_cancelled, work=work)
            _add(f"cancelled {when}{how}", cancelled, asyncio.CancelledError, *replies, **options)
            timed_out = _with(_timed_out, work=work)
            _add(f"asyncio.timeout {when}{how}", timed_out, TimeoutError, *replies, **options)
        name = f"while an exception is handled{how}"
        handling = _with(_while_handling, work=work)
        _add(f"a status {name}", handling, APIStatusError, _status(404))
        _add(f"no connection {name}", handling, APIConnectionError, **NOWHERE)
    _add("interrupted while an exception is handled", _with(_while_handling, work=_chunks), StreamError, CUT)
    _add("a status to a copy", lambda client: _create(client.with_options(timeout=3)), APIStatusError, _status(404))
    for how, option in {"a hook": {"hooks": [Hook()]}, "the environment": {"trust_env": True}}.items():
        _add(f"{how}: success", _create, None, WHOLE, **option)
        _add(f"{how}: a status", _create, APIStatusError, _status(400), **option)
        _add(f"{how}: no JSON", _create, APIResponseValidationError, NO_JSON, **option)
        _add(f"{how}: interrupted", _completion, StreamInterruptedError, CUT, **option)
        retried = [_status(500)] * 2
        _add(f"{how}: attempts", _create, APIStatusError, *retried, max_retries=1, retry=QUICK, **option)
        _add(f"{how}: cancelled", _with(_cancelled, work=_create), asyncio.CancelledError, SILENT, **option)


_add_awaited()
_add_streams()
_add_refused()
_add_responses()
_add_several()
_add_circumstances()
