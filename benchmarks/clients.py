"""The contenders: this library, no library, and other clients, behind one interface."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp
import msgspec

__all__ = ["Client", "make"]

_MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]
_CALL: dict[str, Any] = {"model": "m", "messages": _MESSAGES}
_DONE = b"data: [DONE]"
_LIMIT = 1100  # connections


class Client(Protocol):
    """What is measured."""

    count: int
    """How many chunks, or pieces of text or bytes, have come, of all streams."""

    async def open(self) -> Any:
        """Send the request of a stream; return what there is once its headers have come."""
        ...

    async def first(self, opened: Any) -> object:
        """Return the first chunk, or the first bytes, of what was opened."""
        ...

    async def read(self, opened: Any) -> None:
        """Read what was opened to its end."""
        ...

    async def stream(self) -> None:
        """Open a stream, and read it to its end."""
        ...

    async def leave(self, opened: Any) -> None:
        """Give up what was opened."""
        ...

    async def complete(self) -> int:
        """Await a completion; return the length of its text."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class Ours:
    """This library: chunks iterated, and the completion they add up to."""

    def __init__(self, url: str) -> None:
        from gradient_async import AsyncGradient  # noqa: PLC0415  # loaded by who takes part only

        self._client = AsyncGradient(base_url=url, model_access_key="any", max_connections=_LIMIT)
        self._completions = self._client.chat.completions
        self.count = 0

    async def open(self) -> Any:
        """Open a stream."""
        return await self._completions.create(model="m", messages=_MESSAGES, stream=True)

    async def first(self, opened: Any) -> object:
        """Return the first chunk."""
        return await anext(opened)

    async def read(self, opened: Any) -> None:
        """Iterate over chunks; end with the completion."""
        async for _chunk in opened:
            self.count += 1
        assert (await opened.completion()).choices

    async def leave(self, opened: Any) -> None:
        """Close the stream."""
        await opened.close()

    async def stream(self) -> None:
        """Open a stream, and read it to its end."""
        await self.read(await self.open())

    async def complete(self) -> int:
        """Await a completion."""
        completion = await self._completions.create(model="m", messages=_MESSAGES)
        return len(completion.choices[0].message.content or "")

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()


class OursText(Ours):
    """This library: pieces of text."""

    async def read(self, opened: Any) -> None:
        """Iterate over text."""
        async for _text in opened.text:
            self.count += 1


class OursRaw(Ours):
    """This library: bytes to relay, assembled all the same."""

    async def read(self, opened: Any) -> None:
        """Iterate over bytes."""
        async for _data in opened.raw:
            self.count += 1


class Naive:
    """No library: aiohttp, a split on blank lines, msgspec into a Struct. No checks, no assembly."""

    def __init__(self, url: str) -> None:
        from gradient_async.types import (  # noqa: PLC0415  # loaded by who takes part only
            ChatCompletion,
            ChatCompletionChunk,
        )

        self._url = f"{url}/chat/completions"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_LIMIT))
        self._chunk: Callable[[bytes], Any] = msgspec.json.Decoder(ChatCompletionChunk).decode
        self._completion: Callable[[bytes], Any] = msgspec.json.Decoder(ChatCompletion).decode
        self.count = 0

    def _post(self, *, stream: bool) -> Any:
        body = msgspec.json.encode({**_CALL, "stream": True} if stream else _CALL)
        headers = {"Authorization": "Bearer any", "Content-Type": "application/json"}
        return self._session.post(self._url, data=body, headers=headers)

    async def open(self) -> Any:
        """Await the headers."""
        return await self._post(stream=True)

    async def first(self, opened: Any) -> object:
        """Decode the first chunk."""
        *events, _rest = (await opened.content.readany()).split(b"\n\n")
        return self._chunk(events[0][6:])

    async def read(self, opened: Any) -> None:
        """Decode chunks."""
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
        """Close the reply."""
        opened.close()

    async def stream(self) -> None:
        """Open a stream, and read it to its end."""
        await self.read(await self.open())

    async def complete(self) -> int:
        """Decode a completion."""
        async with self._post(stream=False) as reply:
            return len(self._completion(await reply.read()).choices[0].message.content)

    async def close(self) -> None:
        """Close connections."""
        await self._session.close()


class Drained(Naive):
    """Aiohttp alone: bytes are read and thrown away."""

    async def first(self, opened: Any) -> object:
        """Read bytes."""
        return await opened.content.readany()

    async def read(self, opened: Any) -> None:
        """Read bytes."""
        async with opened:
            async for _data in opened.content.iter_any():
                self.count += 1

    async def complete(self) -> int:
        """Read bytes."""
        async with self._post(stream=False) as reply:
            return len(await reply.read())


class SseClient(Naive):
    """aiohttp-sse-client, and json."""

    async def stream(self) -> None:
        """Parse events, line by line."""
        library: Any = importlib.import_module("aiohttp_sse_client.client")
        source = library.EventSource(
            self._url,
            session=self._session,
            option={"method": "POST"},
            json={**_CALL, "stream": True},
            headers={"Authorization": "Bearer any"},
        )
        async with source:
            async for event in source:
                if event.data == "[DONE]":
                    break
                json.loads(event.data)
                self.count += 1


class Sdk:
    """A generated client: the same names, another library."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.count = 0

    async def open(self) -> Any:
        """Open a stream."""
        return await self._client.chat.completions.create(**_CALL, stream=True)

    async def first(self, opened: Any) -> object:
        """Return the first chunk."""
        return await anext(opened)

    async def read(self, opened: Any) -> None:
        """Iterate over chunks."""
        async for _chunk in opened:
            self.count += 1

    async def leave(self, opened: Any) -> None:
        """Close the stream."""
        await opened.close()

    async def stream(self) -> None:
        """Open a stream, and read it to its end."""
        await self.read(await self.open())

    async def complete(self) -> int:
        """Await a completion."""
        completion = await self._client.chat.completions.create(**_CALL)
        return len(completion.choices[0].message.content)

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()


def _openai(url: str) -> Client:
    return Sdk(importlib.import_module("openai").AsyncOpenAI(base_url=url, api_key="any"))


def _openai_aiohttp(url: str) -> Client:
    library: Any = importlib.import_module("openai")
    return Sdk(library.AsyncOpenAI(base_url=url, api_key="any", http_client=library.DefaultAioHttpClient()))


def _gradient(url: str) -> Client:
    library: Any = importlib.import_module("gradient")
    return Sdk(library.AsyncGradient(base_url=url, model_access_key="any", agent_endpoint=url))


_MAKERS: dict[str, Callable[[str], Client]] = {
    "ours": Ours,
    "ours, text": OursText,
    "ours, raw": OursRaw,
    "naive": Naive,
    "drained": Drained,
    "sse-client": SseClient,
    "openai": _openai,
    "openai, aiohttp": _openai_aiohttp,
    "gradient": _gradient,
}


def make(name: str, url: str) -> Client:
    """Make a contender.

    Raises:
        ImportError: If its library is not installed.
    """
    return _MAKERS[name](url)
