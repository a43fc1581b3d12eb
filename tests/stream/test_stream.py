"""Streams: what they yield, how they end, and what is known of them."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import time
from typing import Any, get_origin

import pytest
from client_calls import CALL, Start, create_completion, open_stream

from gradient_async import (
    APIError,
    APIResponseValidationError,
    AsyncGradient,
    AsyncStream,
    CallInfo,
    ChatCompletionChunk,
    ChatCompletionStream,
    Hook,
    Limits,
    ResponseInfo,
    StreamError,
    StreamInterruptedError,
    StreamLimitError,
    StreamProtocolError,
    StreamServerError,
    StreamTimeoutError,
    StreamTruncatedError,
    Timeout,
)
from gradient_async.session.deadlines import DeadlineTimer
from gradient_async.stream import reader
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

TOKENS = [chunk(f"tok{i} ") for i in range(5)]
STOP = chunk(finish_reason="stop")
WHOLE = "tok0 tok1 tok2 tok3 tok4 "
PART = "tok0 tok1 tok2 "
HEAD = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})


def events(*items: Any) -> bytes:
    """The bytes of some events, without ``[DONE]``."""
    return sse(*items, done=False)


async def read(
    client: AsyncGradient, pause: float = 0.0, **params: Any
) -> tuple[str, StreamError | None, Any]:
    """Read a stream's text; return it, with how it ended."""
    text = ""
    stream = await open_stream(client, **params)
    try:
        async for piece in stream.text:
            text += piece
            if pause:
                await asyncio.sleep(pause)
    except StreamError as error:
        return text, error, stream
    return text, None, stream


async def test_a_healthy_stream_and_what_is_known_of_it(start: Start) -> None:
    headers = {"x-request-id": "r9", "x-ratelimit-limit-requests": "3"}
    usage = {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
    _, client = await start(
        reply_sse(*TOKENS, STOP, chunk(usage=usage) | {"choices": []}, headers=headers, gap=0.005)
    )
    stream = await open_stream(client)
    assert "open" in repr(stream)
    assert (stream.completed, stream.saw_done, stream.snapshot.choices) == (False, False, [])
    seen = ""
    async for piece in stream:
        for choice in piece.choices:
            seen += choice.delta.content or ""
            assert seen == stream.snapshot.choices[0].message.content
    assert seen == WHOLE
    assert (stream.completed, stream.saw_done, stream.was_buffered, stream.anomalies) == (
        True,
        True,
        False,
        0,
    )
    assert (stream.status_code, stream.headers["x-request-id"], stream.request_id) == (200, "r9", "r9")
    assert (stream.attempts, stream.response.status_code) == (1, 200)
    assert stream.rate_limits is not None
    timing = stream.timing
    assert timing.first_token is not None
    assert 0 <= timing.headers <= timing.first_token <= timing.total
    assert len(timing.gaps) >= 5
    done = await stream.completion()
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == (WHOLE, "stop")
    assert done.usage is not None
    assert (done.request_id, done.attempts, done.usage.total_tokens) == ("r9", 1, 6)
    assert done == await stream.get_final_completion()
    assert stream is await stream.until_done()
    assert "completed" in repr(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await stream.close()
    assert stream.completed


@pytest.mark.parametrize(
    "reply",
    [
        reply_sse(*TOKENS, STOP),
        reply_sse(*TOKENS, STOP, framing="length"),
        reply_sse(*TOKENS, STOP, framing="eof"),
        reply_sse(*TOKENS, STOP, per_write=99),
        reply_sse(*TOKENS, STOP, done=False),
        reply_sse(*TOKENS),
        reply_sse(*TOKENS, STOP, headers={"content-type": "TEXT/Event-Stream;charset=UTF-8"}),
        reply_sse(*TOKENS, STOP, headers={"content-type": None}),
        reply_sse(*TOKENS, STOP, headers={"content-type": "application/octet-stream"}),
        reply_sse(*TOKENS, STOP, headers={"content-type": "application/json"}),
        reply_writes([HEAD, http_chunk(sse(*TOKENS, STOP)), HOLD]),
        reply_writes([HEAD, http_chunk(events(*TOKENS, STOP)), RESET]),
        reply_writes([HEAD, http_chunk(sse(*TOKENS, STOP).replace(b"\n", b"\r\n")), http_chunk(b"")]),
        reply_writes([HEAD, http_chunk(events(*TOKENS, STOP)[:-1]), http_chunk(b"")]),
        reply_writes([HEAD, *(http_chunk(bytes([byte])) for byte in sse(*TOKENS, STOP)), http_chunk(b"")]),
        reply_writes([HEAD, http_chunk(b"\n\n"), http_chunk(sse(*TOKENS, STOP)), http_chunk(b"")]),
        reply_writes([HEAD, http_chunk(b"\xef\xbb\xbf" + sse(*TOKENS, STOP)), http_chunk(b"")]),
        reply_json(completion(WHOLE)),
    ],
)
@pytest.mark.parametrize("pause", [0.0, 0.003])
async def test_streams_that_are_complete(start: Start, reply: Handler, pause: float) -> None:
    _, client = await start(reply, limits=Limits(drain_seconds=0.05))
    text, error, stream = await read(client, pause)
    assert (text, error, stream.completed) == (WHOLE, None, True)


@pytest.mark.parametrize(
    ("reply", "text", "kind", "says"),
    [
        (reply_sse(*TOKENS[:3], done=False), PART, StreamTruncatedError, "neither [DONE] nor"),
        (reply_sse(*TOKENS[:3], done=False, framing="eof"), PART, StreamTruncatedError, "neither [DONE] nor"),
        (reply_sse(), "", StreamTruncatedError, "[DONE] before any chunk"),
        (reply_sse(done=False), "", StreamTruncatedError, "empty body"),
        (
            reply_bytes(b": hi\n\n", content_type="text/event-stream"),
            "",
            StreamTruncatedError,
            "before the first",
        ),
        (reply_writes([HEAD, http_chunk(events(*TOKENS[:3])), RESET]), PART, StreamInterruptedError, "lost"),
        (reply_writes([HEAD, http_chunk(events(*TOKENS[:3])), CLOSE]), PART, StreamInterruptedError, "lost"),
        (reply_writes([HEAD, b"fff\r\n" + events(*TOKENS[:3]), CLOSE]), PART, StreamInterruptedError, "lost"),
        (reply_writes([HEAD, CLOSE]), "", StreamInterruptedError, "lost"),
        (
            reply_writes([HEAD, http_chunk(events(*TOKENS[:3]) + b'data: {"id'), CLOSE]),
            PART,
            StreamInterruptedError,
            "lost",
        ),
        (
            reply_sse(*TOKENS[:3], {"error": {"message": "boom", "code": "overloaded"}}),
            PART,
            StreamServerError,
            "boom",
        ),
        (reply_sse(*TOKENS[:3], b"event: error\ndata: {}\n\n"), PART, StreamServerError, "no message"),
        (reply_sse({"id": "server_error", "message": "boom"}), "", StreamServerError, "(server_error)"),
        (reply_sse(*TOKENS[:3], "no JSON"), PART, StreamProtocolError, "event 4"),
        (reply_sse(chunk("x", index=-1)), "", StreamProtocolError, "index -1"),
        (reply_sse(chunk("x", index=10**9)), "", StreamLimitError, "choices=128"),
        (
            reply_json({"error": {"message": "boom", "code": "c"}}),
            "",
            StreamServerError,
            "in place of a stream",
        ),
        (reply_sse({"candidates": []}), "", StreamProtocolError, "to Gemini's API"),
        (reply_sse({"answer": "x"}, done=False), "", StreamProtocolError, "no choices"),
        (reply_json({"candidates": []}), "", StreamProtocolError, "to Gemini's API"),
        (
            reply_bytes(b'{"id":"c","choices":[]}', content_type="application/json"),
            "",
            APIResponseValidationError,
            "no choices",
        ),
        (
            reply_sse(*TOKENS[:3], b"<p>gone</p>\n", done=False),
            PART,
            StreamTruncatedError,
            "text of the server is 'gone'",
        ),
        (reply_bytes(b"<html>log in</html>", content_type="text/html"), "", StreamProtocolError, "text/html"),
        (
            reply_bytes(b"<html>log in</html>\n\n" + events(TOKENS[0]), content_type="text/html"),
            "",
            StreamProtocolError,
            "text/html",
        ),
        (
            reply_bytes(b"<html>log in</html>", content_type="application/json"),
            "",
            APIResponseValidationError,
            "not a chat",
        ),
        (reply_bytes(b"hello", content_type="text/plain"), "", StreamProtocolError, "'hello'"),
    ],
)
@pytest.mark.parametrize("pause", [0.0, 0.003])
async def test_streams_that_are_not(
    start: Start, reply: Handler, text: str, kind: type[APIError], says: str, pause: float
) -> None:
    """Everything received comes first, whatever the consumer's pace; then the error, with all of it."""
    server, client = await start(reply, max_retries=2)
    stream = await open_stream(client)
    seen = ""
    with pytest.raises(kind) as caught:
        async for piece in stream:
            for choice in piece.choices:
                seen += choice.delta.content or ""
            await asyncio.sleep(pause)
    error = caught.value
    assert says in str(error)
    assert ("text of the server" in says) == ("last text" in str(error))
    assert seen == text
    assert len(server.requests) == 1
    assert (error.status_code, error.attempts, stream.completed) == (200, 1, False)
    assert error.elapsed is not None
    if isinstance(error, StreamError):
        assert error.partial is not None
        # A choice whose index can't be is shown as it came, and not assembled.
        kept = "" if says in {"index -1", "choices=128"} else text
        assert kept == "".join(choice.message.content or "" for choice in error.partial.choices)
        assert error.events <= 5
    with pytest.raises(kind):
        await stream.completion()
    assert "failed" in repr(stream)


async def test_an_error_event_knows_its_class_as_a_status(start: Start) -> None:
    _, client = await start(reply_sse({"error": {"message": "m", "code": "overloaded"}}))
    _, error, _ = await read(client)
    assert isinstance(error, StreamServerError)
    assert (error.code, error.retryable) == ("overloaded", True)


async def test_strict_insists_on_finish_reasons(start: Start) -> None:
    _, client = await start(reply_sse(*TOKENS), strict=True)
    text, error, _ = await read(client)
    assert (text, type(error)) == (WHOLE, StreamTruncatedError)


async def test_bad_events_can_be_skipped(start: Start) -> None:
    _, client = await start(reply_sse(*TOKENS, "no JSON", STOP), on_bad_event="skip")
    text, error, stream = await read(client)
    assert (text, error, stream.anomalies) == (WHOLE, None, 1)


async def test_every_choice_asked_for_has_to_finish(start: Start) -> None:
    one = reply_sse(*TOKENS, STOP, done=False)
    _, client = await start(one, one)
    assert (await read(client, n=1))[1] is None
    assert isinstance((await read(client, n=2))[1], StreamTruncatedError)


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.parametrize(
    ("steps", "timeout", "phase", "text"),
    [
        ([HEAD, HOLD], Timeout(first_token=0.1), "first_token", ""),
        ([HEAD, forever(http_chunk(b": keep-alive\n\n"), 0.02)], Timeout(first_token=0.1), "first_token", ""),
        ([HEAD, forever(http_chunk(events(chunk())), 0.02)], Timeout(first_token=0.1), "first_token", ""),
        ([HEAD, http_chunk(events(*TOKENS[:3])), HOLD], Timeout(idle=0.1), "idle", PART),
        (
            [HEAD, http_chunk(events(*TOKENS[:3])), forever(http_chunk(b":\n"), 0.02)],
            Timeout(idle=0.1),
            "idle",
            PART,
        ),
        ([HEAD, forever(http_chunk(events(TOKENS[0])), 0.02)], Timeout(total=0.2), "total", None),
    ],
)
async def test_only_content_stops_the_clock(
    start: Start, steps: list[Any], timeout: Timeout, phase: str, text: str | None
) -> None:
    _, client = await start(reply_writes(steps))
    began = time.monotonic()
    seen, error, _ = await read(client, timeout=timeout)
    assert isinstance(error, StreamTimeoutError)
    assert error.phase == phase
    assert text is None or text == seen
    assert 0.09 <= time.monotonic() - began < 0.21
    what = "the stream did not end" if phase == "total" else "no content came"
    assert f"{what} within {getattr(timeout, phase)} s (Timeout.{phase})" in str(error)


async def test_a_slow_consumer_is_no_stalled_server(start: Start) -> None:
    _, client = await start(reply_sse(*TOKENS, STOP, gap=0.02))
    text, error, _ = await read(client, 0.15, timeout=Timeout(first_token=0.1, idle=0.1))
    assert (text, error) == (WHOLE, None)


async def test_a_stall_after_the_last_choice_finished_costs_nothing(start: Start) -> None:
    _, client = await start(reply_writes([HEAD, http_chunk(events(*TOKENS, STOP)), HOLD]))
    text, error, stream = await read(client, timeout=Timeout(idle=0.1))
    assert (text, error, stream.completed, stream.saw_done) == (WHOLE, None, True, False)


async def test_a_malformed_chunk_does_not_hang(start: Start) -> None:
    _, client = await start(reply_writes([HEAD, http_chunk(events(*TOKENS[:3])), 0.05, b"zz\r\n", HOLD]))
    text, error, _ = await asyncio.wait_for(read(client), 5)
    assert (text, type(error)) == (PART, StreamInterruptedError)


@pytest.mark.parametrize(("seconds", "least"), [(0.0, 90), (60.0, 20)])
async def test_many_events_in_one_read_leave_the_loop_its_turns(
    start: Start, monkeypatch: pytest.MonkeyPatch, seconds: float, least: int
) -> None:
    """Ten thousand events: nobody else waits longer than a few slices take, or one that takes long."""
    monkeypatch.setattr(reader, "_SECONDS_PER_TURN", seconds)
    many = [chunk("x") for _ in range(10_000)]
    _, client = await start(reply_sse(*many, STOP, per_write=20_000))
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    stream = await open_stream(client)
    await asyncio.sleep(0.1)
    ticking = asyncio.create_task(tick())
    await stream.completion()
    ticking.cancel()
    assert turns > least


async def test_buffered_replies(start: Start) -> None:
    """A whole completion in place of a stream is one chunk, with tool calls and all, or an error."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    whole = completion(None, tool_calls=[call], finish_reason="tool_calls")
    _, client = await start(
        reply_json(whole),
        reply_json(completion("x" * 1000)),
        reply_json(completion("x" * 1000)),
        limits=Limits(body_bytes=600),
    )
    async with client.chat.completions.stream(**CALL) as stream:
        raw = b"".join([data async for data in stream.raw])
        done = await stream.completion()
    assert raw.startswith(b"{")
    assert done.choices[0].message.tool_calls is not None
    assert (done.choices[0].message.tool_calls[0].function.name, stream.was_buffered) == ("f", True)
    assert isinstance((await read(client))[1], StreamLimitError)
    _, client = await start(reply_json(completion("x" * 1000)), limits=Limits(body_bytes=None))
    assert ("x" * 1000, None) == (await read(client))[:2]


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/event-stream", False),
        ("Text/Event-Stream; charset=utf-8", False),
        ("text/plain", True),
        (None, True),
    ],
)
async def test_a_stream_of_another_content_type_is_logged(
    start: Start, content_type: str | None, expected: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="gradient_async")
    _, client = await start(reply_sse(*TOKENS, STOP, headers={"content-type": content_type}))
    assert (WHOLE, None) == (await read(client))[:2]
    assert expected == ("content-type" in caplog.text)


@pytest.mark.parametrize(
    ("ending", "kind"), [([HOLD], StreamTimeoutError), ([RESET], StreamInterruptedError)]
)
async def test_buffered_replies_break_off_too(
    start: Start, ending: list[Any], kind: type[StreamError]
) -> None:
    fields = {"content-type": "application/json", "content-length": "99"}
    _, client = await start(reply_writes([head(200, fields), b'{"id":', 0.02, *ending]))
    _, error, _ = await read(client, timeout=Timeout(first_token=0.1))
    assert type(error) is kind


async def test_a_last_event_without_its_blank_line_counts_even_if_it_is_the_first(start: Start) -> None:
    only = events(chunk("all", finish_reason="stop"))[:-1]
    _, client = await start(reply_bytes(only, content_type="text/event-stream"))
    text, error, stream = await read(client)
    assert (text, error) == ("all", None)
    assert stream.timing.first_token is not None


async def test_a_last_event_that_is_an_error_counts_too(start: Start) -> None:
    last = events(TOKENS[0], {"error": {"message": "boom"}})[:-1]
    _, client = await start(reply_bytes(last, content_type="text/event-stream"))
    text, error, _ = await read(client)
    assert (text, type(error)) == ("tok0 ", StreamServerError)


async def test_the_first_failure_is_the_one_told(start: Start) -> None:
    """Assembling what was read may fail: then it did before the stream was closed."""
    calls = [{"id": name, "function": {"name": "f"}} for name in "xy"]
    _, client = await start(
        reply_sse(chunk("a"), chunk(tool_calls=calls), STOP, per_write=9), limits=Limits(tool_calls=1)
    )
    stream = await open_stream(client)
    await anext(stream)
    await anext(stream)
    await stream.aclose()
    assert stream.snapshot.choices[0].message.content == "a"
    with pytest.raises(StreamLimitError, match="tool_calls=1"):
        await stream.completion()


async def test_the_first_of_two_chunks_that_cannot_be_assembled_is_told(start: Start) -> None:
    """Also to readers who go on with the chunks of a read, and look at the completion after each."""
    calls = [{"id": name, "function": {"name": "f"}} for name in "xy"]
    _, client = await start(
        reply_sse(chunk("a"), chunk(tool_calls=calls), chunk("b" * 9000), STOP, per_write=9),
        limits=Limits(tool_calls=1, completion_bytes=8000),
    )
    stream = await open_stream(client)
    with pytest.raises(StreamLimitError, match="tool_calls=1"):
        async for _ in stream:
            assert stream.snapshot.choices


@pytest.mark.usefixtures("virtual_time")
async def test_a_limit_that_began_anew_ends_when_it_should(start: Start) -> None:
    """The watch was set for the limit before it, and looks again at the moment that this one ends."""
    _, client = await start(
        reply_writes([HEAD, 0.15, http_chunk(events(TOKENS[0])), HOLD]),
        timeout=Timeout(first_token=0.2, idle=0.2),
    )
    stream = await open_stream(client)
    await anext(stream)
    body = stream._reply.body
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    timer = DeadlineTimer.of(asyncio.get_running_loop())
    since, before = body._since or 0.0, timer._at
    await asyncio.sleep(before - asyncio.get_running_loop().time() + 0.01)
    assert body._timer is not None
    assert before < timer._at <= since + 0.2
    with pytest.raises(StreamTimeoutError):
        await reading


@pytest.mark.parametrize("way", ["aclose", "close", "with"])
async def test_a_stream_that_was_left_tells_all_that_was_read(start: Start, way: str) -> None:
    """In the error of who reads on, and to hooks."""
    reported: list[Any] = []

    class Note(Hook):
        def on_end(self, call: CallInfo) -> None:
            reported.append((call.outcome, call.completion))

    _, client = await start(reply_writes([HEAD, http_chunk(events(*TOKENS[:3])), HOLD]), hooks=[Note()])
    stream = await open_stream(client)
    if way == "with":
        async with stream:
            seen = [await anext(stream) for _ in range(2)]
    else:
        seen = [await anext(stream) for _ in range(2)]
        await getattr(stream, way)()
    with pytest.raises(StreamInterruptedError, match="closed before its end") as caught:
        await stream.completion()
    partial = caught.value.partial
    assert partial is not None
    text = "".join(piece.choices[0].delta.content or "" for piece in seen)
    assert ([("left", partial)], text) == (reported, partial.choices[0].message.content)


# Leaving


@pytest.mark.usefixtures("virtual_time")
async def test_leaving_the_block_closes_the_connection_at_once(start: Start) -> None:
    server, client = await start(delay=0.01)
    async with client.chat.completions.stream(**CALL) as stream:
        async for _ in stream:
            break
    began = time.monotonic()
    await server.wait_closed_connections()
    assert time.monotonic() - began < 0.01
    with pytest.raises(
        StreamInterruptedError, match="closed before its end; read it before you leave its block"
    ):
        await stream.completion()


@pytest.mark.usefixtures("virtual_time")
async def test_a_dropped_stream_closes_as_its_last_reference_dies(start: Start) -> None:
    server, client = await start(delay=0.01)
    gc.disable()
    try:
        stream = await open_stream(client, n=2)
        await anext(stream.choice(0))
        with pytest.warns(ResourceWarning, match="dropped before its end"):
            del stream
        began = time.monotonic()
        await server.wait_closed_connections()
        assert time.monotonic() - began < 0.01
    finally:
        gc.enable()


async def test_a_stream_dropped_in_another_thread_closes_too(start: Start) -> None:
    server, client = await start(delay=0.01)
    streams = [await open_stream(client)]
    with pytest.warns(ResourceWarning, match="dropped"):
        await asyncio.to_thread(streams.clear)
    await server.wait_closed_connections()


async def test_cancelling_loses_nothing(start: Start) -> None:
    _, client = await start(reply_sse(*TOKENS, STOP, gap=0.02))
    stream = await open_stream(client)
    text = ""
    while True:
        try:
            piece = await asyncio.wait_for(anext(stream), 0.004)
        except TimeoutError:
            continue
        except StopAsyncIteration:
            break
        text += piece.choices[0].delta.content or ""
    assert text == WHOLE


async def test_cancelling_before_the_headers_closes_the_connection(start: Start) -> None:
    server, client = await start(reply_writes([HOLD]))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await create_completion(client)
    await server.wait_closed_connections()


async def test_closing_the_client_closes_its_streams(start: Start) -> None:
    server, client = await start(delay=0.01)
    stream = await open_stream(client)
    await client.close()
    await server.wait_closed_connections()
    with pytest.raises(StreamInterruptedError):
        await stream.completion()


async def test_two_readers_of_one_stream_share_its_chunks(start: Start) -> None:
    _, client = await start(reply_sse(*TOKENS, STOP, gap=0.01))
    stream = await open_stream(client)
    seen: list[str] = []

    async def take() -> None:
        seen.extend([piece.choices[0].delta.content or "" async for piece in stream])

    await asyncio.gather(take(), take())
    assert sorted("".join(seen)) == sorted(WHOLE)


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ('{"index":500,"message":{"content":"x"}}', "choices=128"),
        (
            '{"message":{"content":"x","annotations":[' + "[]," * 9999 + "[]]}}",
            "the reply has more than values=100000",
        ),
    ],
)
async def test_limits_of_a_whole_reply_in_place_of_a_stream(start: Start, choice: str, says: str) -> None:
    _, client = await start(
        reply_bytes(f'{{"choices":[{choice}]}}'.encode(), content_type="application/json")
    )
    _, error, _ = await read(client)
    assert isinstance(error, StreamLimitError)
    assert says in error.message


async def test_the_response_of_a_stream(start: Start) -> None:
    """Status, headers and request; closing it closes the stream, at once."""
    server, client = await start(reply_sse(*map(chunk, "abc")), delay=0.02)
    stream = await open_stream(client)
    response = stream.response
    assert ("a", 200, "<StreamResponse 200>") == (
        await anext(stream.text),
        response.status_code,
        repr(response),
    )
    assert "text/event-stream" == response.headers["content-type"]
    assert response.http_request is not None
    assert response.http_request is response.request
    assert ("POST", "Bearer [key]") == (
        response.http_request.method,
        response.http_request.headers["Authorization"],
    )
    assert (False, False) == (stream.is_closed, response.is_closed)
    await response.aclose()
    assert (True, True, False) == (stream.is_closed, response.is_closed, stream.completed)
    await server.wait_closed_connections()
    copied = pickle.loads(pickle.dumps(response))  # noqa: S301  # our own
    assert isinstance(copied, ResponseInfo)
    assert (200, response.headers, response.request) == (copied.status_code, copied.headers, copied.request)


async def test_a_snapshot_has_another_name(start: Start) -> None:
    _, client = await start()
    async with client.chat.completions.stream(**CALL) as stream:
        await anext(stream)
        assert stream.snapshot == stream.current_completion_snapshot
    async with client.chat.completions.fan_out(n=2, **CALL) as fan:
        assert await fan.completion() == fan.current_completion_snapshot


async def test_the_class_of_a_stream_can_be_subscripted(start: Start) -> None:
    """As annotations of other clients do; the result can't be told from the class by `isinstance`."""
    _, client = await start()
    async with await open_stream(client) as stream:
        assert isinstance(stream, AsyncStream)
        assert AsyncStream[ChatCompletionChunk] == ChatCompletionStream[ChatCompletionChunk]
        assert ChatCompletionStream is get_origin(AsyncStream[ChatCompletionChunk])


async def test_bytes_are_not_lost_if_their_reader_is_cancelled_between_two_slices(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bytes of a read are relayed at once, but are decoded in slices, between which other tasks run."""
    monkeypatch.setattr(reader, "_SLICES_PER_TURN", 1)
    wire = b'data: {"id":5,"choices":[{"delta":{"content":"a"}}]}\n\n' * 3000 + b"data: [DONE]\n\n"
    _, client = await start(reply_bytes(wire, content_type="text/event-stream"))
    async with await open_stream(client) as stream:
        raw = stream.raw
        task = asyncio.ensure_future(anext(raw))
        while not stream._reader.decoder.pending:  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert wire == b"".join([piece async for piece in raw])
    assert 3000 == len(stream.snapshot.choices[0].message.content or "")
