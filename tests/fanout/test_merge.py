"""What merges the chunks of several requests: its readers and writers, and how often a chunk is assembled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from shell_calls import CALL, Start

from gradient_async import ChatCompletion, FanOut, StreamLimitError
from gradient_async.assembly import CompletionAssembler
from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder
from gradient_async.fanout import FanOutOptions, FanOutRunner, RateLimiter, StreamedReply
from gradient_async.fanout.merge import MergedChunks
from gradient_async.policy.pace import Schedule
from gradient_async.stream import ChunkStream
from gradient_async.testing import Handler, chunk, completion, reply_json, reply_sse, reply_writes, sse
from gradient_async.types import ChatCompletionChunk


def decoded(*events: Any) -> list[ChatCompletionChunk]:
    return list(ChunkDecoder().feed(sse(*events, done=False)))


class Given:
    """A `MergedChunks` with a stream that reads it.

    Attributes:
        given_up: How often it gave up what was under way.
    """

    def __init__(self, **limits: int) -> None:
        self.given_up = 0
        assembler = CompletionAssembler(n=2, limits=Limits(**limits))
        self.merged = MergedChunks(assembler, self._give_up)
        self.merged.start()
        self.stream = ChunkStream(self.merged, assembler, buffered=1 << 20)

    def _give_up(self) -> None:
        self.given_up += 1


async def test_what_can_not_be_assembled_ends_all() -> None:
    """Once the chunk was handed out that is too much; what waits behind it is not."""
    given = Given(completion_bytes=4)
    await given.merged.put("a", decoded(chunk("123"), chunk("456")))
    assert "123" == (await anext(given.stream)).choices[0].delta.content
    await anext(given.stream)
    await given.merged.put("a", decoded(chunk("789")))
    with pytest.raises(StreamLimitError) as caught:
        await anext(given.stream)
    assert 1 == given.given_up
    assert not given.merged.open
    given.merged.finish()  # what was given up ends after that
    with pytest.raises(StreamLimitError) as again:
        await anext(given.stream)
    assert again.value is caught.value is given.merged.fail(ValueError("too late"))
    partial: Any = caught.value.partial
    assert "123456" == partial.choices[0].message.content  # what was handed out


async def test_closing_the_stream_gives_up_what_is_under_way() -> None:
    given = Given()
    async with given.stream:
        pass
    await given.stream.aclose()
    await given.stream.close()
    assert 3 == given.given_up


async def test_who_brings_more_than_is_read_has_to_wait() -> None:
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
async def test_a_chunk_wakes_its_own_reader_and_one_who_reads_on(
    monkeypatch: pytest.MonkeyPatch, readers: int, whole: bool
) -> None:
    """So that it costs the same, however many choices are read, also while somebody waits for the whole."""
    given = Given()
    woken = 0
    pump = given.stream.pump

    async def counted(*arguments: Any) -> bool:
        nonlocal woken
        woken += 1
        return await pump(*arguments)

    monkeypatch.setattr(given.stream, "pump", counted)

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


async def test_who_is_to_read_on_and_is_cancelled_passes_that_on() -> None:
    given = Given()

    async def read(index: int) -> str | None:
        piece = await anext(given.stream.choice(index))
        if index == 0:
            assert readers[1].cancel()  # it has been woken to read on, and has not had its turn yet
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


async def test_a_reader_of_a_choice_that_is_cancelled_leaves_the_others_theirs() -> None:
    given = Given()
    readers = [asyncio.create_task(anext(given.stream.choice(index))) for index in range(3)]
    await turns()
    assert readers[2].cancel()  # it waits
    assert readers[0].cancel()  # it reads for all
    await turns()
    await given.merged.put("a", decoded(chunk("x", index=1)))
    async with asyncio.timeout(1):
        assert "x" == (await readers[1]).choices[0].delta.content
    assert [True, False, True] == [reader.cancelled() for reader in readers]
    given.merged.finish()


async def test_a_writer_that_is_cancelled_leaves_what_it_brought() -> None:
    given = Given()
    many = decoded(*(chunk("x") for _ in range(1100)))
    writer = asyncio.create_task(given.merged.put("a", many))
    await asyncio.sleep(0)
    writer.cancel()
    await asyncio.wait([writer])
    given.merged.finish()
    assert 1100 == len([piece async for piece in given.stream])


class Silent:
    """Makes requests that are never answered."""

    async def stream(self, n: int | None, expect: int, lease: Any) -> StreamedReply:
        """Wait for ever."""
        raise await asyncio.get_running_loop().create_future()

    async def fetch(self, n: int | None, lease: Any) -> ChatCompletion:
        """Wait for ever."""
        raise await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("stream", [True, False])
def test_there_is_nothing_to_give_up_once_the_loop_is_gone(stream: bool) -> None:
    """A loop that is closed runs nothing; nobody may call into it."""
    options = FanOutOptions(
        n=2, stream=stream, native=False, raise_errors=True, stop_when=None, first=None, hedge_after=None
    )
    assembler = CompletionAssembler(n=2)
    fan = FanOutRunner(options, {}, Silent(), lambda: RateLimiter(Schedule(max_concurrency=2)), assembler)
    fan.abandon()  # nothing was begun
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # noqa: ARG005  # tasks that nobody waited for

    async def begin() -> None:
        fan.start()
        await asyncio.sleep(0.01)

    loop.run_until_complete(begin())
    assert ["running", "running"] == [result.state for result in fan.results]
    loop.close()
    fan.abandon()
    assert fan.merged.open


# The whole, awaited


def answer(text: str) -> Handler:
    """A stream in which each character comes alone, with usage at its end."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    events = [chunk(character, id=f"id-{text}") for character in text]
    return reply_sse(*events, chunk(finish_reason="stop", id=f"id-{text}", usage=usage), gap=0.01)


def texts(found: Any) -> dict[int, str | None]:
    return {choice.index: choice.message.content for choice in found.choices}


async def test_who_awaits_the_whole_has_each_chunk_assembled_once(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one more for each reply: the stream gets it as one chunk."""
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


PEEKS: dict[str, Any] = {
    "snapshot": lambda fan: texts(fan.snapshot) == {0: "z"},
    "id": lambda fan: fan.id == "id-zero",
    "usage": lambda fan: fan.usage is None,
    "events": lambda fan: fan.events() is not None,
    "choice": lambda fan: fan.choice(1) is not None,
}


@pytest.mark.parametrize("peek", PEEKS)
async def test_who_looks_while_another_awaits_the_whole_sees_what_came(start: Start, peek: str) -> None:
    """And the one who awaits gets all of it."""
    _, client = await start(answer("zero"), answer("one"))
    async with client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL) as fan:
        whole = asyncio.create_task(fan.completion())
        while fan.timing.first_token is None:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.001)
        assert PEEKS[peek](fan)
        assert {0: "zero", 1: "one"} == texts(await whole)
        assert fan.usage is not None
        assert 10 == fan.usage.total_tokens


async def test_a_choice_that_is_asked_for_while_another_awaits_the_whole(start: Start) -> None:
    """It begins with what comes from then on, as a choice of any stream does."""
    _, client = await start(answer("zero"), answer("one"))
    async with client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL) as fan:
        whole = asyncio.create_task(fan.completion())
        while fan.timing.first_token is None:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.001)
        choices = [fan.choice(index) for index in (0, 1)]
        assert ["ero", "one"] == ["".join([text async for text in choice.text]) for choice in choices]
        assert {0: "zero", 1: "one"} == texts(await whole)


async def test_events_after_the_whole_tell_what_is_done(start: Start) -> None:
    _, client = await start(answer("zero"), answer("one"))
    async with client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL) as fan:
        await fan.completion()
        done = {event.choice: event.content async for event in fan.events() if event.type == "content.done"}
    assert {0: "zero", 1: "one"} == done


async def stop_waiting(fan: FanOut) -> None:
    """Await the whole, and give that up once the first reply has begun."""
    whole = asyncio.create_task(fan.completion())
    while fan.timing.first_token is None:  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0.001)
    whole.cancel()
    await asyncio.wait([whole])


async def test_who_gives_up_waiting_reads_on_from_there(start: Start) -> None:
    _, client = await start(answer("zero"), answer("one"))
    async with client.chat.completions.fan_out(n=2, max_concurrency=1, **CALL) as fan:
        await stop_waiting(fan)
        assert {0: "z"} == texts(fan.snapshot)
        rest = [choice.delta.content async for piece in fan for choice in piece.choices]
        assert [*"ero", None, *"one", None] == rest
        assert {0: "zero", 1: "one"} == texts(await fan.completion())


async def test_tool_calls_go_on_where_waiting_was_given_up(start: Start) -> None:
    """Also under indices with gaps, by which their later pieces find them."""

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
async def test_awaited_replies_that_are_too_much_together_end_all(start: Start, read: bool) -> None:
    """Each was accepted alone; what the stream assembles has a limit too."""
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
    assert again.value is caught.value
    assert caught.value.partial is not None
    assert 600 == sum(len(text or "") for text in texts(caught.value.partial).values())


async def test_nobody_waits_for_room_while_the_whole_is_awaited(start: Start) -> None:
    """What had waited to be read is dropped, and those who brought it go on."""
    many = reply_writes([reply_sse(*[chunk("x") for _ in range(3000)], chunk(finish_reason="stop")).data])
    _, client = await start(many, many)
    async with client.chat.completions.fan_out(n=2, **CALL) as fan:
        while fan._runner.merged._waiting_count < 1024:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.001)
        assert ["running", "running"] == [result.state for result in fan.results]
        assert dict.fromkeys(range(2), "x" * 3000) == texts(await fan.completion())
