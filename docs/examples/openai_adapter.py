"""Gives an `AsyncGradient` to libraries that take a client of ``openai`` and check the classes of its replies.

Copy this file. For pydantic-ai, ``OpenAIProvider(openai_client=OpenAIClient(client))``. For langchain-openai,
``ChatOpenAI(async_client=OpenAIClient(client).chat.completions, ...)``. Errors stay those of ``gradient_async``.
"""

# The checks of this project run without openai, whose types are then unknown.
# pyright: standard, reportMissingImports=false

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self

from openai.types.chat import ChatCompletion, ChatCompletionChunk

import gradient_async


class OpenAIStream:
    """A stream of ``openai``'s chunks."""

    def __init__(self, stream: gradient_async.AsyncStream[gradient_async.ChatCompletionChunk]) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[ChatCompletionChunk]:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        chunk = await anext(self._stream)
        # The other fields, such as ``citations``, come with AsyncGradient(keep_body=True).
        return ChatCompletionChunk.construct(None, **{**(chunk.body or {}), **chunk.model_dump()})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the stream and its connection."""
        await self._stream.close()


@dataclass
class RawReply:
    """What ``with_raw_response`` returns: ``parse()`` is not awaited, as with ``openai``."""

    headers: dict[str, str]
    parsed: ChatCompletion | OpenAIStream

    def parse(self) -> ChatCompletion | OpenAIStream:
        """Return the reply."""
        return self.parsed


class RawCompletions:
    """``with_raw_response``."""

    def __init__(self, completions: OpenAICompletions) -> None:
        self._completions = completions

    async def create(self, **parameters: Any) -> RawReply:
        """Send a request."""
        reply = await self._completions.client.chat.completions.create(**parameters)
        return RawReply(dict(reply.headers), of_openai(reply))

    parse = create


class OpenAICompletions:
    """``chat.completions``."""

    def __init__(self, client: gradient_async.AsyncGradient) -> None:
        self.client = client
        self.with_raw_response = RawCompletions(self)

    async def create(self, **parameters: Any) -> ChatCompletion | OpenAIStream:
        """Send a request; the parameters are the same."""
        return of_openai(await self.client.chat.completions.create(**parameters))


@dataclass
class OpenAIChat:
    """``chat``."""

    completions: OpenAICompletions


class OpenAIClient:
    """The part of ``AsyncOpenAI`` that is for chat completions, on an `AsyncGradient`."""

    def __init__(self, client: gradient_async.AsyncGradient) -> None:
        self.base_url = client.base_url
        self.chat = OpenAIChat(OpenAICompletions(client))


def of_openai(
    reply: gradient_async.ChatCompletion | gradient_async.ChatCompletionStream,
) -> ChatCompletion | OpenAIStream:
    """Convert a reply to ``openai``'s classes, with the fields for which `gradient_async` has no names."""
    if isinstance(reply, gradient_async.ChatCompletionStream):
        return OpenAIStream(reply)
    return ChatCompletion.construct(None, **{**reply.body, **reply.model_dump()})
