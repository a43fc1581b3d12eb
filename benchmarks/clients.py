"""The contenders over HTTP: this library, no library, and other clients, behind one interface."""

from __future__ import annotations

import asyncio
import functools
import importlib
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec

from gradient_async import AsyncGradient, ChatCompletion, ChatCompletionChunk, Gradient
from gradient_async.session import aiohttp_internals

MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]
CALL: dict[str, Any] = {"model": "m", "messages": MESSAGES}
_DONE = b"data: [DONE]"
_CONNECTIONS = 1100


class Client:
    """A contender whose methods are named as in `openai`, as those of this library and of `gradient` are."""

    _failures: type[Exception] = Exception

    def __init__(self, client: Any) -> None:
        self._client = client
        self.count = 0  # chunks, texts or reads of bytes received, over all streams

    async def open(self) -> Any:
        """Send the request of a stream; return once its headers have arrived."""
        return await self._client.chat.completions.create(**CALL, stream=True)

    async def first(self, opened: Any) -> Any:
        """Return the next chunk of a stream, or the next bytes."""
        return await anext(opened)

    async def read(self, opened: Any) -> None:
        """Read a stream to its end."""
        async for _chunk in opened:
            self.count += 1

    async def stream(self) -> None:
        """Open a stream, and read it to its end."""
        await self.read(await self.open())

    async def choices(self, n: int) -> None:
        """Read ``n`` streams at once, each in its own task."""
        await asyncio.gather(*(self.stream() for _ in range(n)))

    async def leave(self, opened: Any) -> None:
        """Close a stream before its end."""
        await opened.close()

    async def complete(self) -> int:
        """Await a completion; return the length of its text."""
        completion = await self._client.chat.completions.create(**CALL)
        return len(completion.choices[0].message.content)

    async def many(self, count: int, at_once: int) -> int:
        """Await ``count`` completions in ``at_once`` tasks; return how many came without an error."""
        left = iter(range(count))
        came = 0

        async def work() -> None:
            nonlocal came
            for _ in left:
                try:
                    await self.complete()
                    came += 1
                except self._failures:
                    pass

        await asyncio.gather(*(work() for _ in range(at_once)))
        return came

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._client.close()


class _Ours(Client):
    """This library: reads chunks and then the completion, or another view, for which the library assembles as well."""

    def __init__(self, url: str, view: str = "") -> None:
        super().__init__(AsyncGradient(base_url=url, model_access_key="any", max_connections=_CONNECTIONS))
        self._view = view

    async def read(self, opened: Any) -> None:
        async for _ in getattr(opened, self._view) if self._view else opened:
            self.count += 1
        if not self._view:
            assert (await opened.completion()).choices


class _OursBlocking(Client):
    """This library without asyncio; its calls block the loop of the benchmark, which has nothing else to do."""

    def __init__(self, url: str, view: str = "") -> None:
        super().__init__(Gradient(base_url=url, model_access_key="any"))
        self._view = view

    async def open(self) -> Any:
        return self._client.chat.completions.create(**CALL, stream=True)

    async def read(self, opened: Any) -> None:
        for _ in getattr(opened, self._view) if self._view else opened:
            self.count += 1
        if not self._view:
            assert opened.completion().choices

    async def complete(self) -> int:
        return len(self._client.chat.completions.create(**CALL).choices[0].message.content)

    async def __aexit__(self, *_error: object) -> None:
        self._client.close()


class _Text(msgspec.Struct):
    """The type of an answer; see `data.small_completion`."""

    text: str


class _OursParsed(_Ours):
    """This library: awaits typed answers."""

    async def complete(self) -> int:
        completion = await self._client.chat.completions.parse(**CALL, response_format=_Text)
        return len(completion.parsed.text)


class _OursWhole(_Ours):
    """This library: awaits the completion without reading chunks."""

    async def read(self, opened: Any) -> None:
        assert (await opened.completion()).choices


class _OursFannedOut(_Ours):
    """This library: gets several choices by its `fan_out`."""

    async def choices(self, n: int) -> None:
        completion = await self._client.chat.completions.fan_out(n=n, **CALL).completion()
        assert n == len(completion.choices)


class _OursMapped(_Ours):
    """This library: gets many completions by its `map`, which writes them to a new journal if it has one."""

    def __init__(self, url: str, *, journal: bool = False) -> None:
        super().__init__(url)
        self._folder = tempfile.TemporaryDirectory() if journal else None
        self._runs = itertools.count()

    async def many(self, count: int, at_once: int) -> int:
        came = 0
        journal = None if self._folder is None else Path(self._folder.name, f"{next(self._runs)}.jsonl")
        requests = itertools.repeat(CALL, count)
        results = self._client.chat.completions.map(requests, max_concurrency=at_once, journal=journal)
        async for result in results:
            came += result.completion is not None
        return came


class _Naive(Client):
    """No library: aiohttp, a split on blank lines, msgspec into a Struct; no checks, no assembly."""

    def __init__(self, url: str) -> None:
        super().__init__(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_CONNECTIONS)))
        self._url = f"{url}/chat/completions"
        self._chunk = msgspec.json.Decoder(ChatCompletionChunk).decode
        self._completion = msgspec.json.Decoder(ChatCompletion).decode

    def _post(self, **more: bool) -> Any:
        headers = {"Authorization": "Bearer any", "Content-Type": "application/json"}
        return self._client.post(self._url, data=msgspec.json.encode(CALL | more), headers=headers)

    async def open(self) -> Any:
        return await self._post(stream=True)

    async def first(self, opened: Any) -> Any:
        *events, _rest = (await opened.content.readany()).split(b"\n\n")
        return self._chunk(events[0][6:])

    async def read(self, opened: Any) -> None:
        rest = b""
        async with opened:
            async for data in opened.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    if event == _DONE:
                        continue
                    self._chunk(event[6:])
                    self.count += 1

    async def leave(self, opened: Any) -> None:
        opened.close()

    async def complete(self) -> int:
        async with self._post() as reply:
            return len(self._completion(await reply.read()).choices[0].message.content or "")


class _Drained(_Naive):
    """Aiohttp alone: bytes are read and thrown away."""

    async def first(self, opened: Any) -> Any:
        return await opened.content.readany()

    async def read(self, opened: Any) -> None:
        async with opened:
            async for _data in opened.content.iter_any():
                self.count += 1

    async def complete(self) -> int:
        async with self._post() as reply:
            return len(await reply.read())


class _SseClient(_Naive):
    """aiohttp-sse-client, and json."""

    async def stream(self) -> None:
        source = importlib.import_module("aiohttp_sse_client.client").EventSource(
            self._url,
            session=self._client,
            option={"method": "POST"},
            json=CALL | {"stream": True},
            headers={"Authorization": "Bearer any"},
        )
        async with source:
            async for event in source:
                if event.data == "[DONE]":
                    break
                json.loads(event.data)
                self.count += 1


def _documented(url: str) -> Client:
    """Make a client of this library that uses only what aiohttp documents."""
    aiohttp_internals.enabled = False
    return _Ours(url)


def _openai(url: str, **options: Any) -> Client:
    return Client(importlib.import_module("openai").AsyncOpenAI(base_url=url, api_key="any", **options))


def _openai_aiohttp(url: str) -> Client:
    return _openai(url, http_client=importlib.import_module("openai").DefaultAioHttpClient())


def _gradient(url: str) -> Client:
    library: Any = importlib.import_module("gradient")
    return Client(library.AsyncGradient(base_url=url, model_access_key="any", agent_endpoint=url))


_MAKERS: dict[str, Callable[[str], Client]] = {
    "ours": _Ours,
    "ours, text": functools.partial(_Ours, view="text"),
    "ours, raw": functools.partial(_Ours, view="raw"),
    "ours, parse": _OursParsed,
    "ours, internals off": _documented,
    "Gradient": _OursBlocking,
    "Gradient, text": functools.partial(_OursBlocking, view="text"),
    "tasks": _OursWhole,
    "fan_out": _OursFannedOut,
    "map": _OursMapped,
    "map, journal": functools.partial(_OursMapped, journal=True),
    "naive": _Naive,
    "drained": _Drained,
    "sse-client": _SseClient,
    "openai": _openai,
    "openai, aiohttp": _openai_aiohttp,
    "gradient": _gradient,
}


def make(name: str, url: str) -> Client:
    """Make a contender.

    Raises:
        ImportError: If its library is not installed, or this library has no switch for aiohttp's internals.
    """
    return _MAKERS[name](url)
