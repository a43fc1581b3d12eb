"""Calls that end in many ways, for the table in `endings`."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeAlias

from client_calls import create_completion, open_stream

from gradient_async import AsyncGradient, Choice, GradientError, Journal

PROMPT = "prompt-5b1f"
"""A part of every message that is sent."""

Work: TypeAlias = Callable[[AsyncGradient], Awaitable[Any]]


def _messages() -> list[Any]:
    return [{"role": "user", "content": f"{PROMPT} {id(object())}"}]


async def create(client: AsyncGradient, **params: Any) -> None:
    await create_completion(client, **{"messages": _messages(), **params})


async def create_large(client: AsyncGradient) -> None:
    await create(client, messages=[*_messages(), {"role": "user", "content": "x" * 300_000}])


# Streams


_on_open: ContextVar[Callable[[], object]] = ContextVar("_on_open", default=lambda: None)


async def _open(client: AsyncGradient, **params: Any) -> Any:
    stream = await open_stream(client, messages=_messages(), **params)
    _on_open.get()()
    return stream


async def chunks(client: AsyncGradient) -> None:
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


async def choices(client: AsyncGradient) -> None:
    stream = await _open(client, n=2)

    async def read(index: int) -> None:
        async for _ in stream.choice(index):
            pass

    await asyncio.gather(read(0), read(1))


async def completion(client: AsyncGradient) -> None:
    await (await _open(client)).completion()


async def _half_then_completion(client: AsyncGradient) -> None:
    stream = await _open(client)
    await anext(stream)
    await stream.completion()


async def block(client: AsyncGradient) -> None:
    async with client.chat.completions.stream(model="m", messages=_messages()) as stream:
        async for _ in stream:
            pass


# Typed answers


async def parse_answer(client: AsyncGradient) -> None:
    await client.chat.completions.parse(model="m", messages=_messages(), response_format=dict[str, int])


async def _open_typed(client: AsyncGradient) -> Any:
    return await client.chat.completions.stream(
        model="m", messages=_messages(), response_format=dict[str, int]
    )


async def typed_completion(client: AsyncGradient) -> None:
    await (await _open_typed(client)).completion()


async def typed_events(client: AsyncGradient) -> None:
    async for _ in (await _open_typed(client)).events():
        pass


async def typed_deltas(client: AsyncGradient) -> None:
    async for event in (await _open_typed(client)).events():
        _ = event.type.startswith("content.") and event.parsed


async def read_on_after_the_error(client: AsyncGradient) -> None:
    stream = await _open(client)
    for _ in range(2):
        try:
            await stream.completion()
        except GradientError:
            pass
    await anext(stream)


async def close_early(client: AsyncGradient) -> None:
    stream = await _open(client)
    await anext(stream)
    await stream.aclose()


async def read_after_closing(client: AsyncGradient) -> None:
    stream = await _open(client)
    await anext(stream)
    await stream.aclose()
    await anext(stream)


async def abandon(client: AsyncGradient) -> None:
    await anext(await _open(client))


async def close_client_meanwhile(client: AsyncGradient, work: Work) -> None:
    closing: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    loop.call_later(0.03, lambda: closing.append(loop.create_task(client.close())))
    await work(client)


async def close_client_once_open(client: AsyncGradient) -> None:
    stream = await _open(client)
    closing = asyncio.ensure_future(client.close())
    try:
        await stream.completion()
    finally:
        await closing


READERS: dict[str, Work] = {
    "chunks": chunks,
    "text": _text,
    "events": _events,
    "bytes": _bytes,
    "a choice": _choice,
    "the completion": completion,
    "the completion of a stream half read": _half_then_completion,
    "a block": block,
}

# Responses


async def raw_response(client: AsyncGradient, **params: Any) -> None:
    create: Any = client.chat.completions.with_raw_response.create
    response: Any = await create(model="m", messages=_messages(), **params)
    result: Any = await response.parse()
    if params:
        await result.completion()


async def lines(client: AsyncGradient) -> None:
    create = client.chat.completions.with_streaming_response.create
    async with create(model="m", messages=_messages()) as response:
        async for _ in response.iter_lines():
            pass


async def parse(client: AsyncGradient) -> None:
    create = client.chat.completions.with_streaming_response.create
    async with create(model="m", messages=_messages()) as response:
        await response.parse()


async def list_models(client: AsyncGradient) -> None:
    await client.models.list()


# Several requests


async def fan_out(client: AsyncGradient, **options: Any) -> None:
    async with client.chat.completions.fan_out(model="m", messages=_messages(), n=3, **options) as fan:
        async for _ in fan:
            pass


async def fan_out_awaited(client: AsyncGradient, **options: Any) -> None:
    await client.chat.completions.fan_out(model="m", messages=_messages(), n=3, **options).completion()


async def fan_out_choices(client: AsyncGradient, **options: Any) -> None:
    async with client.chat.completions.fan_out(model="m", messages=_messages(), n=3, **options) as fan:

        async def read(index: int) -> None:
            async for _ in fan.choice(index):
                pass

        await asyncio.gather(*map(read, range(3)))


def fail(_choice: Choice) -> bool:
    raise ZeroDivisionError


async def map_all(client: AsyncGradient, **options: Any) -> None:
    requests = [{"model": "m", "messages": _messages()} for _ in range(4)]
    async for _ in client.chat.completions.map(requests, **options):
        pass


async def map_misspelt(client: AsyncGradient) -> None:
    async for _ in client.chat.completions.map([{"model": "m", "messages": _messages(), "nonsense": 1}]):
        pass


async def map_twice_with_journal(client: AsyncGradient, *, leave: bool = False) -> None:
    requests = [{"model": "m", "messages": _messages()} for _ in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            async for _ in client.chat.completions.map(requests, journal=f"{folder}/results.jsonl"):
                if leave:
                    break


async def map_with_closed_journal(client: AsyncGradient) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(f"{folder}/results.jsonl")
        journal.close()
        await map_all(client, journal=journal)


async def map_and_unwrap(client: AsyncGradient) -> None:
    async for result in client.chat.completions.map([{"model": "m", "messages": _messages()}]):
        result.unwrap()


async def map_and_leave(client: AsyncGradient) -> None:
    requests = [{"model": "m", "messages": _messages()} for _ in range(4)]
    async for _ in client.chat.completions.map(requests):
        break


def _failing_requests() -> Iterator[dict[str, Any]]:
    yield {"model": "m", "messages": _messages()}
    raise ZeroDivisionError


async def map_failing_requests(client: AsyncGradient) -> None:
    async for _ in client.chat.completions.map(_failing_requests()):
        pass


async def leave_map_of_failing_requests(client: AsyncGradient) -> None:
    async for _ in client.chat.completions.map(_failing_requests()):
        await asyncio.sleep(0.01)
        break


async def gather(client: AsyncGradient) -> None:
    before = asyncio.all_tasks()
    try:
        await asyncio.gather(create(client), create(client))
    finally:
        # `asyncio.run` would cancel the other call, and since Python 3.12 leaves a cycle of every task that it cancels.
        await asyncio.gather(*asyncio.all_tasks() - before, return_exceptions=True)


# Circumstances


async def cancelled(client: AsyncGradient, work: Work) -> None:
    task: Any = asyncio.current_task()
    asyncio.get_running_loop().call_later(0.03, task.cancel)
    del task  # the task keeps its exception, and the traceback of the exception keeps this frame
    await work(client)


def _call_later(function: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(0.03, function)


async def cancelled_once_open(client: AsyncGradient, work: Work) -> None:
    """On a busy machine, a time since the call would not tell whether there is a stream."""
    task = asyncio.current_task()
    assert task is not None
    before = _on_open.set(partial(_call_later, task.cancel))
    del task
    try:
        await work(client)
    finally:
        _on_open.reset(before)  # the task keeps its context


async def timed_out(client: AsyncGradient, work: Work) -> None:
    async with asyncio.timeout(0.03):
        await work(client)


async def while_handling(client: AsyncGradient, work: Work) -> None:
    try:
        raise LookupError(_messages())
    except LookupError:
        await work(client)


async def without_a_name(client: AsyncGradient) -> None:
    del client
    await AsyncGradient(base_url="http://127.0.0.1:9", model_access_key="k").chat.completions.create(
        model="m", messages=_messages()
    )


async def close_then_create(client: AsyncGradient) -> None:
    await client.close()
    await create(client)


def given(work: Callable[..., Awaitable[Any]], /, **params: Any) -> Work:
    return lambda client: work(client, **params)
