"""The same resources, returning replies as they came: `with_raw_response`, `with_streaming_response`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from ..stream import ChatCompletionStream
from ..types import NOT_GIVEN, AgentCompletionCreate, ChatCompletion, ModelList
from .base import CompletionsBase, flag
from .models import Models
from .replies import finish_completion, finish_models
from .response import APIResponse, ResponseContext

if TYPE_CHECKING:
    from .core import AsyncGradient

__all__ = [
    "RawAgents",
    "RawChat",
    "RawClient",
    "RawCompletions",
    "RawModels",
    "StreamingAgents",
    "StreamingChat",
    "StreamingClient",
    "StreamingCompletions",
]


async def _respond(completions: CompletionsBase, params: dict[str, Any], *, stream: Any) -> APIResponse[Any]:
    wanted = flag(stream)
    reply, n = await completions.send(params, stream=wanted)
    limits = completions.client.limits

    async def stream_of(_response: APIResponse[Any]) -> Any:
        return completions.open_stream(reply, n, params.get("timeout", NOT_GIVEN))

    async def completion_of(response: APIResponse[Any]) -> Any:
        return finish_completion(reply, await response.read())

    return APIResponse(reply, limits, stream_of if wanted else completion_of)


class RawCompletions:
    """`completions.with_raw_response`."""

    def __init__(self, completions: CompletionsBase) -> None:
        self._completions = completions

    @overload
    async def create(
        self, *, stream: Literal[False] | None = ..., **params: Unpack[AgentCompletionCreate]
    ) -> APIResponse[ChatCompletion]: ...
    @overload
    async def create(
        self, *, stream: Literal[True], **params: Unpack[AgentCompletionCreate]
    ) -> APIResponse[ChatCompletionStream]: ...
    async def create(self, *, stream: Any = NOT_GIVEN, **params: Any) -> APIResponse[Any]:
        """Ask for a completion; return the reply, read to its end unless it is a stream.

        Args:
            stream: As for ``create``.
            **params: As for ``create``.
        """
        response = await _respond(self._completions, params, stream=stream)
        if not stream:
            await response.read()
        return response


class StreamingCompletions:
    """`completions.with_streaming_response`."""

    def __init__(self, completions: CompletionsBase) -> None:
        self._completions = completions

    @overload
    def create(
        self, *, stream: Literal[False] | None = ..., **params: Unpack[AgentCompletionCreate]
    ) -> ResponseContext[ChatCompletion]: ...
    @overload
    def create(
        self, *, stream: Literal[True], **params: Unpack[AgentCompletionCreate]
    ) -> ResponseContext[ChatCompletionStream]: ...
    def create(self, *, stream: Any = NOT_GIVEN, **params: Any) -> ResponseContext[Any]:
        """Ask for a completion: ``async with ...create(...) as response``; the body is not read yet.

        Args:
            stream: As for ``create``.
            **params: As for ``create``.
        """
        return ResponseContext(lambda: _respond(self._completions, params, stream=stream))


class RawModels:
    """`models.with_raw_response`."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def list(self, **options: Any) -> APIResponse[ModelList]:
        """List the models; return the reply, read to its end.

        Args:
            **options: As for ``models.list``.
        """
        reply = await self._models.send(options)

        async def models_of(response: APIResponse[ModelList]) -> ModelList:
            return finish_models(reply, await response.read())

        response = APIResponse(reply, self._models.client.limits, models_of)
        await response.read()
        return response


class RawChat:
    """`chat.with_raw_response`."""

    def __init__(self, completions: CompletionsBase) -> None:
        self.completions = RawCompletions(completions)


class StreamingChat:
    """`chat.with_streaming_response`."""

    def __init__(self, completions: CompletionsBase) -> None:
        self.completions = StreamingCompletions(completions)


class RawAgents:
    """`agents.with_raw_response`."""

    def __init__(self, completions: CompletionsBase) -> None:
        self.chat = RawChat(completions)


class StreamingAgents:
    """`agents.with_streaming_response`."""

    def __init__(self, completions: CompletionsBase) -> None:
        self.chat = StreamingChat(completions)


class RawClient:
    """`client.with_raw_response`."""

    def __init__(self, client: AsyncGradient) -> None:
        self.chat = RawChat(client.chat.completions)
        self.agents = RawAgents(client.agents.chat.completions)
        self.models = RawModels(client.models)


class StreamingClient:
    """`client.with_streaming_response`."""

    def __init__(self, client: AsyncGradient) -> None:
        self.chat = StreamingChat(client.chat.completions)
        self.agents = StreamingAgents(client.agents.chat.completions)
