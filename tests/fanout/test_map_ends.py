"""How a `map` ends: drained, closed together with its async generator, or by an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import pytest
from client_calls import Start
from many_servers import Echo, ask_for, prompts

from gradient_async import BadRequestError, MapResults
from gradient_async.testing import Handler, chunk, completion, reply_json, reply_sse, reply_writes

SLOW_DOWN = {"id": "too_many_requests", "message": "slow down"}


async def texts_of(results: MapResults) -> list[str | None]:
    return [result.unwrap().choices[0].message.content async for result in results]


# What an async iterable has to give


async def test_no_more_is_pulled_from_an_async_iterable_than_the_window_holds(start: Start) -> None:
    """Also where workers wait to pull while others fill the window."""
    _, client = await start(handler=Echo())
    gate = asyncio.Event()
    pulled = 0

    async def requests() -> AsyncGenerator[dict[str, Any]]:
        nonlocal pulled
        while True:
            if pulled == 8:
                await gate.wait()
            pulled += 1
            yield ask_for(str(pulled))

    async with client.chat.completions.map(requests(), max_concurrency=8, window=9) as results:
        await anext(results)
        for _ in range(7):
            await anext(results)
        assert 8 == pulled
        await asyncio.sleep(0.01)  # all eight workers wait to pull now
        gate.set()
        async with asyncio.timeout(5):
            while pulled < 8 + 9:  # noqa: ASYNC110  # there is no event to wait for
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.03)
        assert 8 + 9 == pulled


@pytest.mark.parametrize("way", ["with", "aclose", "close"])
@pytest.mark.parametrize("waits", [False, True], ids=["between two requests", "while it waits"])
async def test_an_async_generator_is_closed_with_its_results(start: Start, way: str, waits: bool) -> None:
    """Its resources, such as a database cursor, are released by then."""
    _, client = await start(handler=Echo())
    closed: list[bool] = []

    async def requests() -> AsyncGenerator[dict[str, Any]]:
        try:
            for number in range(100):
                if waits and number == 1:
                    await asyncio.get_running_loop().create_future()
                yield ask_for(str(number))
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    given = requests()
    results = client.chat.completions.map(given, max_concurrency=2)
    if way == "with":
        async with results:
            await anext(results)
    else:
        await anext(results)
        await getattr(results, way)()
    assert [True] == closed
    await results.aclose()


async def test_an_async_iterator_that_is_no_generator_is_not_closed(start: Start) -> None:
    """Other code may go on reading an iterator that is no generator."""
    _, client = await start(handler=Echo())

    class Queue:
        """An async iterator that has `aclose` and is no generator."""

        closed = False
        given = 0

        def __aiter__(self) -> Queue:
            return self

        async def __anext__(self) -> dict[str, Any]:
            self.given += 1
            return ask_for(str(self.given))

        async def aclose(self) -> None:
            """Close."""
            self.closed = True

    queue = Queue()
    async with client.chat.completions.map(queue, max_concurrency=2) as results:
        await anext(results)
    assert not queue.closed


# What breaks it


class Broken(Mapping[str, Any]):
    """A mapping whose keys can't be read."""

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise LookupError("the row is gone")

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("window", [1, 2, None])
async def test_an_error_of_the_callers_mapping(start: Start, window: int | None) -> None:
    """The error is raised, also where other workers wait for room in the window."""
    _, client = await start(handler=Echo())
    requests: list[Any] = [Broken(), *prompts(5)]
    async with asyncio.timeout(5), client.chat.completions.map(requests, window=window) as results:
        with pytest.raises(LookupError, match="the row is gone"):
            while True:
                await anext(results)


# Drained


@pytest.mark.parametrize("ordered", [False, True], ids=["as they finish", "ordered"])
async def test_drain_sends_nothing_more(start: Start, ordered: bool) -> None:
    """Results of requests in flight come; requests that wait to be sent are dropped."""
    server, client = await start(handler=Echo(pause=0.2))
    results = client.chat.completions.map(  # two go at once, and the third nearly a second later
        prompts(50), max_concurrency=10, requests_per_minute=65, ordered=ordered
    )
    reader = asyncio.create_task(texts_of(results))
    await server.wait_requests(2)
    async with asyncio.timeout(5):
        results.drain()
        assert ["0", "1"] == sorted(text or "" for text in await reader)
    assert 2 == len(server.requests)
    results.drain()
    assert [] == await texts_of(results)


@pytest.mark.parametrize("after", [0.0, 0.3], ids=["refused before", "refused later"])
async def test_drain_waits_for_no_second_attempt(start: Start, after: float) -> None:
    """A refused request cost nothing: it is dropped, and not sent again."""
    refusal: Handler = reply_writes([after, *reply_json(SLOW_DOWN, 503, {"retry-after": "20"}).steps])
    slow: Handler = reply_writes([0.6, *reply_json(completion("slow")).steps])
    server, client = await start(slow, refusal, refusal, max_retries=5)
    results = client.chat.completions.map(prompts(3), max_concurrency=3)
    reader = asyncio.create_task(texts_of(results))
    await server.wait_requests(3)
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        results.drain()
        assert ["slow"] == await reader
    assert 3 == len(server.requests)


async def test_drain_keeps_errors_that_are_final(start: Start) -> None:
    """An error that is not retried is a result."""
    refusal: Handler = reply_writes([0.2, *reply_json({"error": {"message": "no"}}, 400).steps])
    server, client = await start(refusal, refusal)
    results = client.chat.completions.map(prompts(9), max_concurrency=2)
    reader = asyncio.create_task(anext(results))
    await server.wait_requests(2)
    results.drain()
    found = [await reader, *[result async for result in results]]
    assert [BadRequestError] * 2 == [type(result.error) for result in found]
    assert 2 == len(server.requests)


async def test_drain_waits_for_a_retry_that_was_sent(start: Start) -> None:
    refusal = reply_json(SLOW_DOWN, 503, {"retry-after-ms": "10"})
    slow: Handler = reply_writes([0.3, *reply_json(completion("slow")).steps])
    server, client = await start(refusal, slow, max_retries=5)
    results = client.chat.completions.map(prompts(2), max_concurrency=1)
    reader = asyncio.create_task(texts_of(results))
    await server.wait_requests(2)
    results.drain()
    assert ["slow"] == await reader
    assert 2 == len(server.requests)


async def test_drain_waits_for_streams_that_have_begun(start: Start) -> None:
    events = reply_sse(chunk("a"), chunk("b"), chunk(finish_reason="stop"), gap=0.1)
    server, client = await start(events)
    results = client.chat.completions.map(prompts(9), max_concurrency=1, stream=True)
    reader = asyncio.create_task(texts_of(results))
    await server.wait_requests(1)
    await asyncio.sleep(0.05)
    results.drain()
    assert ["ab"] == await reader
    assert 1 == len(server.requests)


async def test_drain_does_not_wait_for_the_iterable(start: Start) -> None:
    _, client = await start(handler=Echo())

    async def requests() -> AsyncGenerator[dict[str, Any]]:
        yield ask_for("0")
        await asyncio.get_running_loop().create_future()

    results = client.chat.completions.map(requests(), max_concurrency=4)
    await anext(results)
    results.drain()
    assert [] == await texts_of(results)


async def test_drain_before_the_first_read(start: Start) -> None:
    server, client = await start()
    results = client.chat.completions.map(prompts(3))
    results.drain()
    assert [] == await texts_of(results)
    assert not server.requests
