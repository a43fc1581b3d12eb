"""`fanout.merge`: readers and writers of merged chunks, and how often a chunk is assembled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from client_calls import CALL, Start, assert_equal_errors

from gradient_async import ChatCompletion, FanOut, StreamLimitError
from gradient_async.assembly import CompletionAssembler
from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder
from gradient_async.fanout import FanOutOptions, FanOutRunner, StreamedReply
from gradient_async.fanout.merge import MergedChunks
from gradient_async.stream import ChunkStream
from gradient_async.stream.cursor import Cursor
from gradient_async.stream.queues import ChunkQueue
from gradient_async.testing import Handler, chunk, completion, reply_json, reply_sse, reply_writes, sse
from gradient_async.types import ChatCompletionChunk


def decoded(*events: Any) -> list[ChatCompletionChunk]:
    return list(ChunkDecoder().feed(sse(*events, done=False)))


class Given:
    """A `MergedChunks` with a stream that reads it.

    Attributes:
        cancelled: How often it cancelled the requests.
    """

    def __init__(self, **limits: int) -> None:
        self.cancelled = 0
        assembler = CompletionAssembler(n=2, limits=Limits(**limits))
        self.merged = MergedChunks(assembler, self._cancel)
        self.merged.start()
        self.stream = ChunkStream(self.merged, assembler, buffered=1 << 20)

    def _cancel(self) -> None:
        self.cancelled += 1


async def test_a_chunk_that_can_not_be_assembled_ends_everything() -> None:
    """The chunk that exceeds the limit is handed out before the error; chunks that wait behind it are not."""
    given = Given(completion_bytes=4)
    await given.merged.put("a", decoded(chunk("123"), chunk("456")))
    assert "123" == (await anext(given.stream)).choices[0].delta.content
    await anext(given.stream)
    await given.merged.put("a", decoded(chunk("789")))
    with pytest.raises(StreamLimitError) as caught:
        await anext(given.stream)
    assert 1 == given.cancelled
    assert not given.merged.open
    given.merged.finish()  # the runner calls this after everything was cancelled
    with pytest.raises(StreamLimitError) as again:
        await anext(given.stream)
    assert_equal_errors(caught.value, again.value)
    assert_equal_errors(caught.value, given.merged.fail(ValueError("too late")))
    partial: Any = caught.value.partial
    assert "123456" == partial.choices[0].message.content  # the chunks that were handed out


async def test_closing_the_stream_cancels_the_requests() -> None:
    given = Given()
    async with given.stream:
        pass
    await given.stream.aclose()
    await given.stream.close()
    assert 3 == given.cancelled


async def test_requests_that_bring_more_than_is_read_wait() -> None:
    given = Given()
    many = decoded(*(chunk("x") for _ in range(1500)))
    writers = [asyncio.create_task(given.merged.put(name, many[:1000])) for name in "ab"]
    await asyncio.sleep(0)
    assert [True, False] == [writer.done() for writer in writers]
    seen = 0
    for _ in range(1001):
        await anext(given.stream)
        seen += 1
    await asyncio.sleep(0)
    assert all(writer.done() for writer in writers)
    given.merged.finish()
    async for _ in given.stream:
        seen += 1
    assert 2000 == seen
    assert given.stream.completed


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("readers", [2, 8, 64])
async def test_a_chunk_wakes_its_own_reader_and_one_that_reads_on(
    monkeypatch: pytest.MonkeyPatch, readers: int, whole: bool
) -> None:
    """So the cost of a chunk does not grow with the number of choices that are read."""
    given = Given()
    woken = 0
    fill = Cursor.fill

    async def counted(cursor: Cursor, queue: ChunkQueue | None = None) -> bool:
        nonlocal woken
        woken += 1
        return await fill(cursor, queue)

    monkeypatch.setattr(Cursor, "fill", counted)

    async def read(index: int) -> list[int]:
        return [piece.choices[0].index async for piece in given.stream.choice(index)]

    others = [asyncio.create_task(given.stream.completion())] if whole else []
    await turns()
    tasks = [asyncio.create_task(read(index)) for index in range(readers)]
    await turns()
    woken = 0
    for index in range(readers):
        await given.merged.put("a", decoded(chunk("x", index=index)))
        await turns()
    assert woken <= 3 * readers
    given.merged.finish()
    assert [[index] for index in range(readers)] == await asyncio.gather(*tasks)
    await asyncio.gather(*others)


async def test_a_reader_woken_to_read_on_and_cancelled_wakes_the_next() -> None:
    given = Given()

    async def read(index: int) -> str | None:
        piece = await anext(given.stream.choice(index))
        if index == 0:
            assert readers[1].cancel()  # it was woken to read on, and has not run yet
        return piece.choices[0].delta.content

    readers = [asyncio.create_task(read(index)) for index in range(3)]
    await turns()
    await given.merged.put("a", decoded(chunk("x", index=0)))
    await asyncio.wait(readers[:2])
    await given.merged.put("a", decoded(chunk("y", index=2)))
    async with asyncio.timeout(1):
        assert ("x", "y") == (await readers[0], await readers[2])
    assert readers[1].cancelled()
    given.merged.finish()


async def test_a_cancelled_reader_of_a_choice_takes_nothing_from_the_others() -> None:
    given = Given()
    readers = [asyncio.create_task(anext(given.stream.choice(index))) for index in range(3)]
    await turns()
    assert readers[2].cancel()  # waits for the reader
    assert readers[0].cancel()  # reads for all
    await turns()
    await given.merged.put("a", decoded(chunk("x", index=1)))
    async with asyncio.timeout(1):
        assert "x" == (await readers[1]).choices[0].delta.content
    assert [True, False, True] == [reader.cancelled() for reader in readers]
    given.merged.finish()


async def test_chunks_of_a_cancelled_writer_stay() -> None:
    given = Given()
    many = decoded(*(chunk("x") for _ in range(1100)))
    writer = asyncio.create_task(given.merged.put("a", many))
    await asyncio.sleep(0)
    writer.cancel()
    await asyncio.wait([writer])
    given.merged.finish()
    assert 1100 == len([piece async for piece in given.stream])


class Silent:
    """A requester whose requests are never answered."""

    async def stream(self, n: int | None, expect: int) -> StreamedReply:
        """Never return."""
        raise await asyncio.get_running_loop().create_future()

    async def fetch(self, n: int | None) -> ChatCompletion:
        """Never return."""
        raise await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("stream", [True, False])
def test_abandoning_a_fan_out_after_its_loop_has_closed(stream: bool) -> None:
    """A closed loop must not be called."""
    options = FanOutOptions(
        n=2,
        stream=stream,
        native=False,
        raise_errors=True,
        stop_when=None,
        first=None,
        hedge_after=None,
        max_concurrency=2,
    )
    assembler = CompletionAssembler(n=2)
    fan = FanOutRunner(options, Silent(), assembler)
    fan.abandon()  # without effect before the start
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # noqa: ARG005  # tasks were destroyed while pending

    async def begin() -> None:
        fan.start()
        await asyncio.sleep(0.01)

    loop.run_until_complete(begin())
    assert ["running", "running"] == [result.state for result in fan.results]
    loop.close()
    fan.abandon()
    assert fan.merged.open


# Awaiting the completion


def answer(text: str) -> Handler:
    """Stream each character in a write of its own; usage comes with the last chunk."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    events = [chunk(character, id=f"id-{text}") for character in text]
    return reply_sse(*events, chunk(finish_reason="stop", id=f"id-{text}", usage=usage), gap=0.01)


def texts(found: Any) -> dict[int, str | None]:
    return {choice.index: choice.message.content for choice in found.choices}


async def test_chunks_are_assembled_once_where_the_completion_is_awaited(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Besides, each whole reply is added to the stream's assembler as one chunk."""
    added: list[ChatCompletionChunk] = []
    add = CompletionAssembler.add

    def counted(self: CompletionAssembler, piece: ChatCompletionChunk) -> None:
        added.append(piece)
        add(self, piece)

    monkeypatch.setattr(CompletionAssembler, "add", counted)
    _, client = await start(answer("zero"), answer("one"))
    fan = client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL)
    found = await fan.completion()
    assert {0: "zero", 1: "one"} == texts(found) == texts(fan.snapshot)
    assert len("zero") + 1 + len("one") + 1 + 2 == len(added)
    assert found.usage is not None
    assert 10 == found.usage.total_tokens
    assert "id-zero" == found.id == fan.id


PEEKS: dict[str, Callable[[FanOut], bool]] = {
    "snapshot": lambda fan: texts(fan.snapshot) == {0: "z"},
    "id": lambda fan: fan.id == "id-zero",
    "usage": lambda fan: fan.usage is None,
    "events": lambda fan: "EventStream" in repr(fan.events()),
    "choice": lambda fan: fan.choice(1).index == 1,
}


@pytest.mark.parametrize("peek", PEEKS)
async def test_looking_at_a_fan_out_while_another_task_awaits_it(start: Start, peek: str) -> None:
    """The waiting task gets the whole completion nevertheless."""
    _, client = await start(answer("zero"), answer("one"))
    async with client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL) as fan:
        whole = asyncio.create_task(fan.completion())
        while fan.timing.first_token is None:  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.001)
        assert PEEKS[peek](fan)
        assert {0: "zero", 1: "one"} == texts(await whole)
        assert fan.usage is not None
        assert 10 == fan.usage.total_tokens


async def test_reading_a_choice_while_another_task_awaits_the_completion(start: Start) -> None:
    """The reader gets what comes from then on, as with any stream."""
    _, client = await start(answer("zero"), answer("one"))
    async with client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL) as fan:
        whole = asyncio.create_task(fan.completion())
        while fan.timing.first_token is None:  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.001)
        choices = [fan.choice(index) for index in (0, 1)]
        assert ["ero", "one"] == ["".join([text async for text in choice.text]) for choice in choices]
        assert {0: "zero", 1: "one"} == texts(await whole)


async def test_events_after_the_completion_was_awaited(start: Start) -> None:
    _, client = await start(answer("zero"), answer("one"))
    async with client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL) as fan:
        await fan.completion()
        done = {event.choice: event.content async for event in fan.events() if event.type == "content.done"}
    assert {0: "zero", 1: "one"} == done


async def stop_waiting(fan: FanOut) -> None:
    """Await the completion, and cancel that once the first reply has begun."""
    whole = asyncio.create_task(fan.completion())
    while fan.timing.first_token is None:  # noqa: ASYNC110  # there is no event to wait for
        await asyncio.sleep(0.001)
    whole.cancel()
    await asyncio.wait([whole])


async def test_reading_on_after_waiting_was_cancelled(start: Start) -> None:
    _, client = await start(answer("zero"), answer("one"))
    async with client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL) as fan:
        await stop_waiting(fan)
        assert {0: "z"} == texts(fan.snapshot)
        rest = [choice.delta.content async for piece in fan for choice in piece.choices]
        assert [*"ero", None, *"one", None] == rest
        assert {0: "zero", 1: "one"} == texts(await fan.completion())


async def test_tool_calls_go_on_after_waiting_was_cancelled(start: Start) -> None:
    """Later fragments find their call by its index, also where indices have gaps."""

    def fragments(*calls: dict[str, Any]) -> dict[str, Any]:
        return chunk(tool_calls=calls, id="x")

    first = fragments(
        {"index": 5, "id": "b", "function": {"name": "g", "arguments": "{"}},
        {"index": 2, "id": "a", "function": {"name": "f", "arguments": "["}},
    )
    rest = fragments(
        {"index": 5, "function": {"arguments": "}"}}, {"index": 2, "function": {"arguments": "]"}}
    )
    events = reply_sse(first, rest, chunk(finish_reason="tool_calls"), gap=0.05)
    _, client = await start(events)
    async with client.chat.completions.fan_out(n=1, **CALL) as fan:
        await stop_waiting(fan)
        found = await fan.completion()
    calls = found.choices[0].message.tool_calls or []
    assert [("a", "f", "[]"), ("b", "g", "{}")] == [
        (call.id, call.function.name, call.function.arguments) for call in calls
    ]


@pytest.mark.parametrize("read", [True, False], ids=["read", "awaited"])
async def test_awaited_replies_that_together_exceed_the_limit(start: Start, read: bool) -> None:
    """Each reply alone was accepted; the limit of the fan-out is that of n choices."""
    whole = reply_json(completion("x" * 300))
    _, client = await start(whole, whole, limits=Limits(completion_bytes=200))
    call: dict[str, Any] = {"n": 2, "stream": False, "on_error": "collect", **CALL}
    async with client.chat.completions.fan_out(**call) as fan:
        with pytest.raises(StreamLimitError, match="completion_bytes=400") as caught:
            if read:
                async for _ in fan:
                    pass
            await fan.completion()
        with pytest.raises(StreamLimitError) as again:
            await fan.completion()
    assert_equal_errors(caught.value, again.value)
    assert caught.value.partial is not None
    assert 600 == sum(len(text or "") for text in texts(caught.value.partial).values())


async def test_requests_wait_for_no_room_while_the_completion_is_awaited(start: Start) -> None:
    """Chunks that waited to be read are dropped, and their requests go on."""
    many = reply_writes([reply_sse(*[chunk("x") for _ in range(3000)], chunk(finish_reason="stop")).data])
    _, client = await start(many, many)
    async with client.chat.completions.fan_out(n=2, **CALL) as fan:
        while fan._runner.merged._waiting_count < 1024:  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.001)
        assert ["running", "running"] == [result.state for result in fan.results]
        assert dict.fromkeys(range(2), "x" * 3000) == texts(await fan.completion())
