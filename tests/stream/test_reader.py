"""How a stream waits for its next bytes: in one coroutine, and like aiohttp's own way in all that can be seen."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from client_calls import Start, create_completion, open_stream
from leaked_key import KEY, MIDDLE, everything_shown

from gradient_async import (
    ChatCompletionChunk,
    ChatCompletionStream,
    ConfigurationError,
    Limits,
    StreamInterruptedError,
    StreamProtocolError,
    StreamTimeoutError,
    Timeout,
)
from gradient_async.session import body as body_module
from gradient_async.stream.timing import Content
from gradient_async.testing import (
    HOLD,
    Connection,
    Request,
    chunk,
    completion,
    head,
    http_chunk,
    reply_writes,
    sse,
)
from gradient_async.testing.script import Step
from gradient_async.types import ChoiceDelta, ChunkChoice, FunctionDelta, ToolCallDelta

HEAD = head(headers={"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
END = http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
GAP = 0.005
LONG = "long " * 2_000


def event(*texts: str, **more: Any) -> bytes:
    """Return events as they are received."""
    return sse(*(chunk(text, **more) for text in texts), done=False)


@pytest.fixture(params=[True, False], ids=["one future", "readany"])
def one_future(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Read over connections of our own, and as in the caller's own session."""
    if not request.param:
        monkeypatch.setattr(body_module, "connection_of", Mock(return_value=None))
    return bool(request.param)


def text_of(chunks: list[ChatCompletionChunk]) -> list[str]:
    return [each.choices[0].delta.content or "" for each in chunks]


async def opened(start: Start, *steps: Step, **options: Any) -> ChatCompletionStream:
    _, client = await start(reply_writes([HEAD, *steps]), **options)
    return await open_stream(client)


async def test_a_read_waits_on_one_future_only_over_our_own_connections(
    start: Start, *, one_future: bool
) -> None:
    stream = await opened(start, http_chunk(event("a")), HOLD)
    await anext(stream)
    body = stream._reply.body
    assert one_future == (body.start_read() is not None)
    body.cancel_read()
    await stream.aclose()


@pytest.mark.parametrize("what", ["a reader", "a limit", "close", "abort", "data", "the end"])
async def test_a_read_that_would_not_wait_is_not_started(start: Start, what: str) -> None:
    """Its future would never be resolved, or another reader's would not."""
    stream = await opened(start, http_chunk(event("a")), HOLD)
    await anext(stream)
    body = stream._reply.body
    content: Any = body._content
    connection = body._response.connection
    assert connection is not None
    protocol: Any = connection.protocol
    if what == "a reader":
        assert body.start_read() is not None
        body._since = 0.0
    elif what == "a limit":
        body._expire("response")
    elif what in {"close", "abort"}:
        getattr(protocol, what)()
        await asyncio.sleep(0)
    elif what == "data":
        content.feed_data(b"data")
    else:
        content.feed_eof()
    assert body.start_read() is None
    await stream.aclose()


@pytest.mark.usefixtures("one_future")
async def test_a_failure_that_nobody_tells_of_ends_a_read(start: Start) -> None:
    """The timer finds a failure that came without a word to the connection."""
    stream = await opened(start, http_chunk(event("a")), HOLD)
    await anext(stream)
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    body = stream._reply.body
    body._content.set_exception(aiohttp.ClientPayloadError())
    body.check(0.0)
    with pytest.raises(StreamInterruptedError):
        async with asyncio.timeout(5):
            await reading


async def test_without_limits_a_read_waits_all_the_same(start: Start) -> None:
    """It is watched for a connection that is gone."""
    stream = await opened(start, http_chunk(event("a")), 0.05, http_chunk(event("b")), HOLD, timeout=None)
    async with stream:
        assert ["a", "b"] == text_of([await anext(stream), await anext(stream)])


@pytest.mark.usefixtures("one_future")
async def test_reads_of_any_size_bring_the_same(start: Start) -> None:
    """One event a read, several, a long one, one in two reads, and an end of an HTTP chunk that comes by itself."""
    cut = event("cut")
    alone = http_chunk(event("alone"))
    steps: list[Step] = []
    for data in (
        http_chunk(event("a")),
        http_chunk(event("b", "c")),
        http_chunk(event(LONG)),
        http_chunk(cut[:20]),
        http_chunk(cut[20:]),
        alone[:-2],
        alone[-2:],
        http_chunk(event("z", finish_reason="stop")),
    ):
        steps += [data, GAP]
    stream = await opened(start, *steps, END)
    texts = ["a", "b", "c", LONG, "cut", "alone", "z"]
    assert texts == text_of([each async for each in stream])
    assert "".join(texts) == (await stream.completion()).choices[0].message.content
    assert stream.completed
    # One for each read that brought content, but for the first; a busy machine may take several together.
    assert 1 <= len(stream.timing.gaps) <= 5
    assert all(gap > 0 for gap in stream.timing.gaps)


@pytest.mark.usefixtures("one_future")
async def test_bytes_are_relayed_though_no_chunk_is_in_them(start: Start) -> None:
    """A comment, and each part of an event that comes in two reads."""
    cut, last = event("cut"), event("z", finish_reason="stop")
    pieces = [event("a"), b": c\n\n", cut[:20], cut[20:], last]
    steps = [step for piece in pieces for step in (http_chunk(piece), GAP)]
    stream = await opened(start, *steps, END)
    assert b"".join(pieces) + b"data: [DONE]\n\n" == b"".join([data async for data in stream.raw])


@pytest.mark.usefixtures("one_future", "needs_asyncio")
async def test_a_read_has_one_time_however_many_slices_it_is_decoded_in(start: Start) -> None:
    """Only with a fine clock: that of uvloop counts milliseconds, so two reads may have the same time."""
    stream = await opened(start, http_chunk(event(*[LONG] * 20, "z")), END)
    async for _ in stream:
        pass
    assert all(gap > 0 for gap in stream.timing.gaps)


@pytest.mark.usefixtures("one_future")
async def test_an_end_of_an_http_chunk_that_comes_by_itself_ends_nothing_else(start: Start) -> None:
    """However a stream is read; nor does it end the reading of a reply that is awaited."""
    chunks = [http_chunk(event(text)) for text in "ab"]
    steps = [step for data in chunks for step in (data[:-2], GAP, data[-2:], GAP)]
    stream = await opened(start, *steps, http_chunk(event("", finish_reason="stop")), END)
    assert [*"ab"] == [text async for text in stream.text]
    whole = http_chunk(json.dumps(completion("ab")).encode())
    steps = [head(headers={"Transfer-Encoding": "chunked"}), GAP, whole[:-2], GAP, whole[-2:], GAP]
    _, client = await start(reply_writes([*steps, http_chunk(b"")]))
    assert "ab" == (await create_completion(client)).choices[0].message.content


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.usefixtures("one_future")
async def test_a_read_that_was_cancelled_is_made_up_for(start: Start) -> None:
    """Again and again, and nothing is lost."""
    steps = [step for text in "abcdef" for step in (http_chunk(event(text)), 0.02)]
    stream = await opened(start, *steps, http_chunk(event("", finish_reason="stop")), END)
    chunks: list[ChatCompletionChunk] = []
    cancelled = 0
    while True:
        try:
            async with asyncio.timeout(0.004):
                chunks.append(await anext(stream))
        except TimeoutError:
            cancelled += 1
        except StopAsyncIteration:
            break
    assert [*"abcdef", ""] == text_of(list(chunks))
    assert cancelled > len("abcdef")


@pytest.mark.usefixtures("one_future")
async def test_what_is_thrown_at_who_waits_reaches_them(start: Start) -> None:
    """And costs nothing: they may read on."""

    class ThrownError(Exception):
        pass

    stream = await opened(
        start, http_chunk(event("a")), 0.05, http_chunk(event("b", finish_reason="stop")), END
    )
    await anext(stream)
    for waiting in (anext(stream), stream.completion()):
        step = waiting.__await__()
        next(step)
        with pytest.raises(ThrownError):
            step.throw(ThrownError())
    assert "ab" == (await stream.completion()).choices[0].message.content


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.usefixtures("one_future")
async def test_what_was_waited_before_a_cancellation_counts(start: Start) -> None:
    """Who polls finds out as well that the server has stalled."""
    stream = await opened(start, http_chunk(event("a")), HOLD, timeout=Timeout(idle=0.1))
    await anext(stream)
    began = asyncio.get_running_loop().time()
    with pytest.raises(StreamTimeoutError, match="idle"):
        while True:
            try:
                async with asyncio.timeout(0.02):
                    await anext(stream)
            except TimeoutError as error:
                if isinstance(error, StreamTimeoutError):
                    raise
    assert 0.1 <= asyncio.get_running_loop().time() - began < 0.13


async def test_a_loop_that_is_held_up_is_no_stall(start: Start) -> None:
    """What has come by the time that the loop goes on counts, though the limit is up as well."""

    async def reply(_request: Request, connection: Connection) -> None:
        await connection.write(HEAD + http_chunk(event("a")))
        for text in "bc":
            await connection.sleep(0.03)
            time.sleep(0.25)  # noqa: ASYNC251  # this is what holds the loop up
            await connection.write(http_chunk(event(text)))
        await connection.write(http_chunk(event("", finish_reason="stop")) + END)

    _, client = await start(handler=reply, timeout=Timeout(idle=0.2))
    stream = await open_stream(client)
    assert [*"abc", ""] == text_of([each async for each in stream])
    assert stream.completed


@pytest.mark.usefixtures("one_future")
async def test_what_is_read_after_the_end_has_a_limit_of_its_own(start: Start) -> None:
    """A stream that is complete cannot stall any more, and its connection is used again."""
    last = event("", finish_reason="stop") + b"data: [DONE]\n\n"
    steps: list[Step] = [HEAD, http_chunk(event("a")), GAP, http_chunk(last), 0.25, http_chunk(b"")]
    limits = {"timeout": Timeout(idle=0.1), "limits": Limits(drain_seconds=5)}
    server, client = await start(*[reply_writes(steps)] * 2, **limits)
    for _ in range(2):
        assert "a" == (await (await open_stream(client)).completion()).choices[0].message.content
    assert 1 == server.connections


async def test_what_came_in_time_counts_after_it(start: Start) -> None:
    """The whole time may be up by the time that a consumer reads on."""
    last = http_chunk(event("b", finish_reason="stop"))
    stream = await opened(start, http_chunk(event("a")), GAP, last, END, timeout=Timeout(total=30.0))
    await anext(stream)
    body = stream._reply.body
    while not body._content.is_eof():  # noqa: ASYNC110  # there is no event to wait for
        await asyncio.sleep(0.001)
    body._deadline = 0.0
    assert ["b"] == text_of([each async for each in stream])
    assert stream.completed


async def test_a_consumer_that_takes_its_time_is_no_stall(start: Start) -> None:
    steps = [step for text in "abc" for step in (http_chunk(event(text)), 0.01)]
    last = http_chunk(event("", finish_reason="stop"))
    stream = await opened(start, *steps, last, END, timeout=Timeout(idle=0.1))
    async for _ in stream:
        await asyncio.sleep(0.15)
    assert stream.completed


@pytest.mark.usefixtures("one_future")
async def test_many_short_waits_are_no_stall(start: Start) -> None:
    """Each content begins the limit anew."""
    steps = [step for text in "abcdefgh" for step in (http_chunk(event(text)), 0.05)]
    stream = await opened(
        start, *steps, http_chunk(event("", finish_reason="stop")), END, timeout=Timeout(idle=0.3)
    )
    assert [*"abcdefgh", ""] == text_of([each async for each in stream])


@pytest.mark.usefixtures("one_future")
async def test_what_is_thought_is_content_as_well(start: Start) -> None:
    """Though it is no text."""
    steps = [step for _ in range(8) for step in (http_chunk(event("", reasoning_content="hm")), 0.05)]
    steps = [http_chunk(event("a")), 0.05, *steps, http_chunk(event("", finish_reason="stop")), END]
    stream = await opened(start, *steps, timeout=Timeout(idle=0.3))
    async for _ in stream:
        pass
    assert "hm" * 8 == stream.snapshot.choices[0].message.reasoning_content
    assert 9 == len(stream.timing.gaps)


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        (ChoiceDelta(refusal="no"), True),
        (ChoiceDelta(tool_calls=[ToolCallDelta(id="a")]), True),
        (ChoiceDelta(tool_calls=[ToolCallDelta(index=0)]), False),
        (ChoiceDelta(function_call=FunctionDelta(name="f")), True),
        (ChoiceDelta(function_call=FunctionDelta(arguments="{")), True),
        (ChoiceDelta(function_call=FunctionDelta(name="", arguments="")), False),
        (ChoiceDelta(images=[{}]), True),
        (ChoiceDelta(audio={"data": "x"}), True),
        (ChoiceDelta(content_parts=[{"type": "image_url"}]), True),
        (ChoiceDelta(reasoning_details=[{"text": "hm"}]), True),
        (ChoiceDelta(images=[], content_parts=[], reasoning_details=[]), False),
        (ChoiceDelta(role="assistant", content="", annotations=[1], extra_content={"a": 1}), False),
    ],
)
def test_every_part_of_an_answer_is_content(delta: ChoiceDelta, expected: bool) -> None:
    """So that it restarts the limit; an empty piece does not."""
    assert Content().is_in([ChatCompletionChunk(choices=[ChunkChoice(delta=delta)])]) is expected


@pytest.mark.usefixtures("one_future")
async def test_a_stall_after_a_consumer_took_its_time_is_found_out(start: Start) -> None:
    steps: list[Step] = [http_chunk(event("a")), 0.02, http_chunk(event("b")), HOLD]
    stream = await opened(start, *steps, timeout=Timeout(idle=0.1))
    for _ in range(2):
        await anext(stream)
    await asyncio.sleep(0.2)
    with pytest.raises(StreamTimeoutError, match="idle"):
        async with asyncio.timeout(5):
            await anext(stream)


async def test_the_end_of_the_whole_time_is_waited_for_no_longer_than_the_limit_of_a_read(
    start: Start,
) -> None:
    stream = await opened(start, http_chunk(event("a")), HOLD, timeout=Timeout(idle=0.9, total=0.3))
    await anext(stream)
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    body = stream._reply.body
    assert body._deadline is not None
    assert body._timer is not None
    assert body._timer._at <= body._deadline
    with pytest.raises(StreamTimeoutError, match="total"):
        await reading


@pytest.mark.usefixtures("one_future")
async def test_two_tasks_may_read(start: Start) -> None:
    """Each chunk goes to one of them."""
    steps = [step for text in "abcdef" for step in (http_chunk(event(text)), GAP)]
    stream = await opened(start, *steps, http_chunk(event("", finish_reason="stop")), END)
    texts: list[str] = []

    async def read() -> None:
        while (each := await anext(stream, None)) is not None:
            texts.append(each.choices[0].delta.content or "")

    await asyncio.gather(read(), read())
    assert [*"abcdef", ""] == texts


@pytest.mark.usefixtures("one_future")
async def test_who_waits_beside_another_goes_on_when_that_one_has_its_chunk(start: Start) -> None:
    """Though that one asks for no more."""
    steps = [step for text in "abc" for step in (http_chunk(event(text)), 0.02)]
    stream = await opened(start, *steps, HOLD)
    await anext(stream)
    async with asyncio.timeout(5), stream:
        chunks = await asyncio.gather(*(anext(stream) for _ in range(2)))
    assert [*"bc"] == text_of(list(chunks))


async def test_who_was_woken_for_nothing_still_reads_for_all(start: Start) -> None:
    """As by an end of an HTTP chunk alone. Whoever comes before they have had their turn waits for them."""
    steps = [step for text in "abc" for step in (http_chunk(event(text)), 0.05)]
    stream = await opened(start, *steps, HOLD)
    await anext(stream)
    first = asyncio.create_task(anext(stream))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(anext(stream))
    connection = stream._reply.body._connection
    assert connection is not None
    connection.notify()
    async with asyncio.timeout(5), stream:
        assert [*"bc"] == sorted(text_of([*await asyncio.gather(first, second)]))


@pytest.mark.usefixtures("one_future")
async def test_what_the_reader_of_a_choice_has_read_for_all_is_there_at_once(start: Start) -> None:
    steps = [step for text in "ab" for step in (http_chunk(event(text)), GAP)]
    stream = await opened(start, *steps, HOLD)
    await anext(stream)
    async with asyncio.timeout(5), stream:
        alone = stream.choice(0)
        assert ["b"] == text_of([await anext(alone)])[-1:]
        assert ["b"] == text_of([await anext(stream)])


@pytest.mark.usefixtures("one_future")
async def test_who_read_bytes_and_waits_for_a_chunk_gets_it_beside_a_choice(start: Start) -> None:
    """Asked for meanwhile."""
    steps = [step for text in "ab" for step in (http_chunk(event(text)), 0.05)]
    stream = await opened(start, *steps, HOLD)
    async with asyncio.timeout(5), stream:
        assert event("a") == await anext(stream.raw)
        reading = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.01)
        alone = stream.choice(0)
        assert ["b"] == text_of([await reading])
        assert ["b"] == text_of([await anext(alone)])


async def opened_by_turns(start: Start) -> tuple[ChatCompletionStream, asyncio.Event, asyncio.Event]:
    """Open a stream of "a", "b" and "c"; return it, and what lets the server go on to "b" and to "c"."""
    turns = [asyncio.Event() for _ in range(2)]

    async def reply(_request: Request, connection: Connection) -> None:
        await connection.write(HEAD + http_chunk(event("a")))
        for text, turn in zip("bc", turns, strict=True):
            await turn.wait()
            await connection.write(http_chunk(event(text)))
        await connection.write(http_chunk(event("", finish_reason="stop")) + END)

    _, client = await start(handler=reply)
    return await open_stream(client), turns[0], turns[1]


@pytest.mark.usefixtures("one_future")
async def test_who_waits_for_a_reader_of_bytes_reads_on_after_it(start: Start) -> None:
    """What the one has had is not given to the other."""
    stream, second, third = await opened_by_turns(start)
    raw = stream.raw
    await anext(stream)
    relaying = asyncio.create_task(anext(raw))
    await asyncio.sleep(0)
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    second.set()
    assert event("b") == await relaying
    third.set()
    async with asyncio.timeout(5):
        assert ["c"] == text_of([await reading])
    assert "abc" == (await stream.completion()).choices[0].message.content


@pytest.mark.usefixtures("one_future")
async def test_who_waited_for_another_reader_may_be_cancelled(start: Start) -> None:
    """Nobody misses anything."""
    stream, second, third = await opened_by_turns(start)
    await anext(stream)
    reading = asyncio.create_task(anext(stream.text))
    await asyncio.sleep(0)
    waiting, staying = (asyncio.create_task(anext(stream)) for _ in range(2))
    await asyncio.sleep(0)
    waiting.cancel()
    second.set()
    assert "b" == await reading
    assert waiting.cancelled()
    third.set()
    assert ["c"] == text_of([await staying])
    assert "abc" == (await stream.completion()).choices[0].message.content


@pytest.mark.usefixtures("one_future")
async def test_a_choice_may_be_asked_for_while_another_task_waits(start: Start) -> None:
    """Its reader misses nothing of what comes from then on; nor does the one that waits."""
    steps: list[Step] = [http_chunk(event("a")), 0.05, http_chunk(event("b")), GAP, http_chunk(event("c"))]
    stream = await opened(start, *steps, http_chunk(event("", finish_reason="stop")), END)
    await anext(stream)
    whole: list[ChatCompletionChunk] = []

    async def read() -> None:
        whole.extend([each async for each in stream])

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    alone = [each async for each in stream.choice(0)]
    await reading
    assert ["b", "c", ""] == text_of(whole)
    assert ["b", "c", ""] == text_of(alone)[-3:]


@pytest.mark.usefixtures("one_future")
@pytest.mark.parametrize("nothing", [b": still there\n\n", event("")], ids=["comments", "empty text"])
async def test_what_brings_no_content_does_not_keep_a_stream_alive(start: Start, nothing: bytes) -> None:
    steps: list[Step] = [http_chunk(event("a")), GAP]
    steps += [http_chunk(nothing), 0.02] * 30
    last = http_chunk(event("", finish_reason="stop"))
    stream = await opened(start, *steps, last, END, timeout=Timeout(idle=0.1))
    with pytest.raises(StreamTimeoutError, match="idle"):
        async for _ in stream:
            pass
    assert "a" == stream.snapshot.choices[0].message.content


@pytest.mark.usefixtures("one_future")
async def test_content_that_comes_after_a_chunk_without_any_begins_the_limit_between_tokens(
    start: Start,
) -> None:
    """The chunk that only tells the role is no content: until some comes, the time to the first token runs."""
    steps: list[Step] = [http_chunk(event("")), 0.02, http_chunk(event("a")), HOLD]
    stream = await opened(start, *steps, timeout=Timeout(first_token=30.0, idle=0.1))
    async with asyncio.timeout(5):
        with pytest.raises(StreamTimeoutError, match="idle"):
            async for _ in stream:
                pass
    assert stream.timing.first_token is not None
    assert stream.timing.first_token >= 0.015


@pytest.mark.usefixtures("one_future")
async def test_garbage_amid_a_stream_is_told_after_what_came_before(start: Start) -> None:
    steps: list[Step] = [
        http_chunk(event("a")),
        GAP,
        http_chunk(event("b")),
        GAP,
        http_chunk(b"data: {]\n\n"),
        HOLD,
    ]
    stream = await opened(start, *steps)
    chunks: list[ChatCompletionChunk] = []
    with pytest.raises(StreamProtocolError) as caught:
        while True:
            chunks.append(await anext(stream))
    assert ["a", "b"] == text_of(list(chunks))
    assert caught.value.partial is not None
    assert "ab" == caught.value.partial.choices[0].message.content


@pytest.mark.usefixtures("one_future")
async def test_what_broke_a_stream_is_in_no_frame(start: Start) -> None:
    """A server may echo keys anywhere, and a traceback show locals."""
    stream = await opened(start, http_chunk(event("a")), GAP, KEY.encode() + b"\r\n", HOLD)
    await anext(stream)
    with pytest.raises(StreamInterruptedError) as caught:
        await anext(stream)
    assert MIDDLE not in everything_shown(caught.value)


@pytest.mark.usefixtures("one_future")
async def test_a_stream_is_read_in_the_loop_it_came_in(start: Start) -> None:
    """In another one nothing is lost, and its own can go on."""
    steps: list[Step] = [http_chunk(event("a")), 0.1, http_chunk(event("b", finish_reason="stop"))]
    stream = await opened(start, *steps, END)
    await anext(stream)

    def elsewhere() -> None:
        async def read() -> None:
            with pytest.raises(ConfigurationError, match="another event loop"):
                await anext(stream)

        asyncio.run(read())

    await asyncio.to_thread(elsewhere)
    assert ["b"] == text_of([each async for each in stream])
    assert stream.completed


async def test_the_last_of_several_content_types_counts(start: Start) -> None:
    """A proxy may add its own; by the first of these two the reply would be a page."""
    types = b"Content-Type: text/html\r\nContent-Type: text/event-stream\r\n"
    wire = b"HTTP/1.1 200 OK\r\nConnection: close\r\n%b\r\n%b" % (types, event("a") + b"data: [DONE]\n\n")
    _, client = await start(reply_writes([wire]))
    assert "a" == (await (await open_stream(client)).completion()).choices[0].message.content


async def test_http_chunks_that_arrive_together_are_one_read(
    start: Start, one_future: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read after it waits in the same way as after one HTTP chunk."""
    read, reads = body_module.Body.read, list[body_module.Body]()

    def counted(body: body_module.Body) -> Awaitable[bytes]:
        reads.append(body)
        return read(body)

    monkeypatch.setattr(body_module.Body, "read", counted)
    calls: list[int] = []
    for pieces in ([event("b", "c", "d")], [event("b"), event("c"), event("d")]):
        together = b"".join(map(http_chunk, pieces))
        _, client = await start(reply_writes([HEAD + http_chunk(event("a")), GAP, together, GAP, END]))
        stream = await open_stream(client)
        assert [event("a"), event("b", "c", "d"), b"data: [DONE]\n\n"] == [data async for data in stream.raw]
        calls.append(len(reads))
    assert 2 * calls[0] == calls[1]


async def test_http_chunks_that_arrive_with_a_fault_are_not_lost(start: Start, one_future: bool) -> None:
    pieces = [http_chunk(event(text)) for text in "bcd"]
    wire = b"".join([*pieces, b"no size\r\n"])
    _, client = await start(reply_writes([HEAD + http_chunk(event("a")), GAP, wire, HOLD]))
    stream = await open_stream(client)
    seen = ""
    with pytest.raises(StreamInterruptedError) as caught:
        async for text in stream.text:
            seen += text
    assert caught.value.partial is not None
    assert "abcd" == seen == caught.value.partial.choices[0].message.content
