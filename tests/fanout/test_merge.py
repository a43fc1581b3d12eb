"""The parts of a fan-out by themselves: what collects chunks, and what is left when a loop is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gradient_async import ChatCompletion, StreamLimitError
from gradient_async.assembly import CompletionAssembler
from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder
from gradient_async.fanout import Fan, Plan, RateLimiter
from gradient_async.fanout.merged import Merged
from gradient_async.policy.pace import Schedule
from gradient_async.stream import ChatCompletionStream, ChunkStream
from gradient_async.testing import chunk, sse
from gradient_async.types import ChatCompletionChunk


def decoded(*events: Any) -> list[ChatCompletionChunk]:
    return list(ChunkDecoder().feed(sse(*events, done=False)))


class Given:
    """A `Merged` with a stream that reads it.

    Attributes:
        given_up: How often it gave up what was under way.
    """

    def __init__(self, **limits: int) -> None:
        self.given_up = 0
        assembler = CompletionAssembler(n=2, limits=Limits(**limits))
        self.merged = Merged(assembler, self._give_up)
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

    async def stream(self, n: int | None, expect: int, lease: Any) -> ChatCompletionStream:
        """Wait for ever."""
        raise await asyncio.get_running_loop().create_future()

    async def fetch(self, n: int | None, lease: Any) -> ChatCompletion:
        """Wait for ever."""
        raise await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("streamed", [True, False])
def test_there_is_nothing_to_give_up_once_the_loop_is_gone(streamed: bool) -> None:
    """A loop that is closed runs nothing; nobody may call into it."""
    plan = Plan(
        n=2, streamed=streamed, native=False, raising=True, stop_when=None, wanted=None, hedge_after=None
    )
    assembler = CompletionAssembler(n=2)
    fan = Fan(plan, {}, Silent(), lambda: RateLimiter(Schedule(max_concurrency=2)), assembler)
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
