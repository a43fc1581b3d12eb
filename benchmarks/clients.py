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
_LIMIT = 1000  # connections


class Client(Protocol):
    """What is measured."""

    async def stream(self) -> int:
        """Read a stream to its end; return how many chunks, or pieces of text or bytes, came."""
        ...

    async def complete(self) -> int:
        """Await a completion; return the length of its text."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class Ours:
    """This library: chunks iterated and assembled."""

    def __init__(self, url: str) -> None:
        from gradient_async import AsyncGradient  # noqa: PLC0415  # loaded by who takes part only

        self._client = AsyncGradient(base_url=url, model_access_key="any", max_connections=_LIMIT)
        self._completions = self._client.chat.completions

    async def open(self) -> Any:
        """Open a stream."""
        return await self._completions.create(model="m", messages=_MESSAGES, stream=True)

    async def stream(self) -> int:
        """Iterate over chunks; the completion is assembled along with it."""
        count = 0
        async for _chunk in await self.open():
            count += 1
        return count

    async def complete(self) -> int:
        """Await a completion."""
        completion = await self._completions.create(model="m", messages=_MESSAGES)
        return len(completion.choices[0].message.content or "")

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()


class OursText(Ours):
    """This library: pieces of text."""

    async def stream(self) -> int:
        """Iterate over text."""
        count = 0
        async for _text in (await self.open()).text:
            count += 1
        return count


class OursRaw(Ours):
    """This library: bytes to relay, assembled all the same."""

    async def stream(self) -> int:
        """Iterate over bytes."""
        count = 0
        async for _data in (await self.open()).raw:
            count += 1
        return count


class Naive:
    """No library: aiohttp, a split on blank lines, msgspec into a Struct. No checks, no assembly."""

    def __init__(self, url: str) -> None:
        from gradient_async.types import ChatCompletion, ChatCompletionChunk  # noqa: PLC0415

        self._url = f"{url}/chat/completions"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_LIMIT))
        self._chunk: Callable[[bytes], Any] = msgspec.json.Decoder(ChatCompletionChunk).decode
        self._completion: Callable[[bytes], Any] = msgspec.json.Decoder(ChatCompletion).decode

    def _post(self, *, stream: bool) -> Any:
        body = msgspec.json.encode({**_CALL, "stream": True} if stream else _CALL)
        headers = {"Authorization": "Bearer any", "Content-Type": "application/json"}
        return self._session.post(self._url, data=body, headers=headers)

    async def stream(self) -> int:
        """Decode chunks."""
        count = 0
        rest = b""
        async with self._post(stream=True) as reply:
            async for data in reply.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    if event == _DONE:
                        continue
                    self._chunk(event[6:])
                    count += 1
        return count

    async def complete(self) -> int:
        """Decode a completion."""
        async with self._post(stream=False) as reply:
            return len(self._completion(await reply.read()).choices[0].message.content)

    async def close(self) -> None:
        """Close connections."""
        await self._session.close()


class Drained(Naive):
    """Aiohttp alone: bytes are read and thrown away."""

    async def stream(self) -> int:
        """Read bytes."""
        count = 0
        async with self._post(stream=True) as reply:
            async for _data in reply.content.iter_any():
                count += 1
        return count

    async def complete(self) -> int:
        """Read bytes."""
        async with self._post(stream=False) as reply:
            return len(await reply.read())


class SseClient(Naive):
    """aiohttp-sse-client, and json."""

    async def stream(self) -> int:
        """Parse events, line by line."""
        library: Any = importlib.import_module("aiohttp_sse_client.client")
        count = 0
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
                count += 1
        return count


class Sdk:
    """A generated client: the same names, another library."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def stream(self) -> int:
        """Iterate over chunks."""
        count = 0
        async for _chunk in await self._client.chat.completions.create(**_CALL, stream=True):
            count += 1
        return count

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
    importlib.import_module("httpx_aiohttp")
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
