"""`client.chat.completions` and `client.agents.chat.completions`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, overload

from ..stream import ChatCompletionStream, StreamManager
from ..types import (
    NOT_GIVEN,
    AgentCompletionCreate,
    AgentFanOut,
    ChatCompletion,
    ChatCompletionCreate,
    ChatFanOut,
)
from .base import CompletionsBase, flag

if TYPE_CHECKING:
    from ..fanout import FanOut, StopWhen
    from .core import AsyncGradient
    from .raw import RawAgents, RawChat, RawCompletions, StreamingChat, StreamingCompletions

__all__ = ["AgentChat", "AgentCompletions", "Agents", "Chat", "Completions"]


class Completions(CompletionsBase):
    """Chat completions of models."""

    @overload
    async def create(
        self, *, stream: Literal[False] | None = ..., **params: Unpack[ChatCompletionCreate]
    ) -> ChatCompletion: ...
    @overload
    async def create(
        self, *, stream: Literal[True], **params: Unpack[ChatCompletionCreate]
    ) -> ChatCompletionStream: ...
    @overload
    async def create(
        self, *, stream: bool, **params: Unpack[ChatCompletionCreate]
    ) -> ChatCompletion | ChatCompletionStream: ...
    async def create(
        self, *, stream: Any = NOT_GIVEN, **params: Any
    ) -> ChatCompletion | ChatCompletionStream:
        """Ask for a completion; sends exactly what is given.

        Args:
            stream: Whether to get the completion as it is generated.
            **params: Parameters of the request, see `ChatCompletionParams`; and of its sending, see
                `RequestOptions`.

        Returns:
            The completion; with ``stream=True``, the stream, whose headers have been read.

        Raises:
            TypeError: If a name is unknown or missing.
            InvalidRequestError: If a value is outside its documented limit; nothing was sent.
            ConfigurationError: If there is no key; nothing was sent.
            APIStatusError: If the server answered with an error.
            APIConnectionError: If no whole answer came.
            APIResponseValidationError: If the answer is no completion.
        """
        return await self._create(params, stream=flag(stream))

    def stream(self, **params: Unpack[ChatCompletionCreate]) -> StreamManager:
        """Stream a completion: ``async with client.chat.completions.stream(...) as stream``.

        Asks for usage as well, unless ``stream_options`` is given. The request is sent on entering, and
        the stream is closed on leaving.

        Args:
            **params: As `create`.

        Raises:
            GradientError: On entering; as `create`.
        """
        return self._stream(dict(params))

    def fan_out(
        self,
        *,
        n: int,
        max_concurrency: int | None = None,
        stream: bool = True,
        native: bool | Literal["auto"] = False,
        on_error: Literal["collect", "raise"] = "raise",
        stop_when: StopWhen | None = None,
        first: int | None = None,
        hedge_after: float | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        adaptive: bool = False,
        **params: Unpack[ChatFanOut],
    ) -> FanOut:
        """Generate n choices of one prompt, each by a request of its own, as one stream.

        ``async with client.chat.completions.fan_out(n=8, ...) as fan`` has the surface of a stream: chunks of
        all choices as they come, ``fan.choice(i)``, ``fan.snapshot``, ``await fan.completion()``. Asks for
        usage as well, unless ``stream_options`` is given.

        Args:
            n: How many choices.
            max_concurrency: Choices to be generated at a time; all if None.
            stream: Whether to stream them; if not, each choice comes as one chunk.
            native: Make one request with ``n`` in place of n requests; ``"auto"`` does so and makes requests for
                the choices that do not come, for servers that ignore or refuse ``n``.
            on_error: ``"raise"`` gives up the rest at the first error; ``"collect"`` lets the others go on, and
                `FanOut.errors` tells.
            stop_when: Called with each finished `Choice`; true, or an awaitable of it, says that this is what
                was wanted: the others are given up, and their connections closed.
            first: How many choices are wanted, of those that ``stop_when`` accepts if there is one; the others
                are given up once so many are finished.
            hedge_after: Seconds without content after which a second request is made for a choice; the first
                to speak goes on, the other is given up. It is one more beside those of ``max_concurrency``.
            requests_per_minute: Requests in any minute, evenly spaced.
            tokens_per_minute: Tokens in a minute; guessed before a request, put right by its usage.
            adaptive: Find out how many at a time the server sustains.
            **params: As `create`.

        Raises:
            ConfigurationError: If an option can't be used.
            FanOutError: From reading; see `FanOut`.
        """
        return self._fan_out(
            n=n,
            max_concurrency=max_concurrency,
            stream=stream,
            native=native,
            on_error=on_error,
            stop_when=stop_when,
            first=first,
            hedge_after=hedge_after,
            pace={
                "requests_per_minute": requests_per_minute,
                "tokens_per_minute": tokens_per_minute,
                "adaptive": adaptive,
            },
            params=dict(params),
        )

    @property
    def with_raw_response(self) -> RawCompletions:
        """The same methods, which return status, headers and body; ``await .parse()`` as usual."""
        from .raw import RawCompletions  # noqa: PLC0415  # few need it

        return RawCompletions(self)

    @property
    def with_streaming_response(self) -> StreamingCompletions:
        """The same for ``async with``, the body not read yet."""
        from .raw import StreamingCompletions  # noqa: PLC0415  # few need it

        return StreamingCompletions(self)


class AgentCompletions(CompletionsBase):
    """Chat completions of an agent."""

    agent = True

    @overload
    async def create(
        self, *, stream: Literal[False] | None = ..., **params: Unpack[AgentCompletionCreate]
    ) -> ChatCompletion: ...
    @overload
    async def create(
        self, *, stream: Literal[True], **params: Unpack[AgentCompletionCreate]
    ) -> ChatCompletionStream: ...
    @overload
    async def create(
        self, *, stream: bool, **params: Unpack[AgentCompletionCreate]
    ) -> ChatCompletion | ChatCompletionStream: ...
    async def create(
        self, *, stream: Any = NOT_GIVEN, **params: Any
    ) -> ChatCompletion | ChatCompletionStream:
        """Ask the agent for a completion; as `Completions.create`, with the parameters of agents.

        Args:
            stream: Whether to get the completion as it is generated.
            **params: Parameters of the request, see `AgentCompletionParams`; and of its sending, see
                `RequestOptions`.

        Raises:
            GradientError: As `Completions.create`.
        """
        return await self._create(params, stream=flag(stream))

    def stream(self, **params: Unpack[AgentCompletionCreate]) -> StreamManager:
        """Stream the agent's completion; as `Completions.stream`."""
        return self._stream(dict(params))

    def fan_out(
        self,
        *,
        n: int,
        max_concurrency: int | None = None,
        stream: bool = True,
        native: bool | Literal["auto"] = False,
        on_error: Literal["collect", "raise"] = "raise",
        stop_when: StopWhen | None = None,
        first: int | None = None,
        hedge_after: float | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        adaptive: bool = False,
        **params: Unpack[AgentFanOut],
    ) -> FanOut:
        """Generate n choices by the agent; as `Completions.fan_out`.

        Args:
            n: How many choices.
            max_concurrency: Choices to be generated at a time; all if None.
            stream: Whether to stream them; if not, each choice comes as one chunk.
            native: Make one request with ``n`` in place of n requests; ``"auto"`` does so and makes requests for
                the choices that do not come, for servers that ignore or refuse ``n``.
            on_error: ``"raise"`` gives up the rest at the first error; ``"collect"`` lets the others go on, and
                `FanOut.errors` tells.
            stop_when: Called with each finished `Choice`; true, or an awaitable of it, says that this is what
                was wanted: the others are given up, and their connections closed.
            first: How many choices are wanted, of those that ``stop_when`` accepts if there is one; the others
                are given up once so many are finished.
            hedge_after: Seconds without content after which a second request is made for a choice; the first
                to speak goes on, the other is given up. It is one more beside those of ``max_concurrency``.
            requests_per_minute: Requests in any minute, evenly spaced.
            tokens_per_minute: Tokens in a minute; guessed before a request, put right by its usage.
            adaptive: Find out how many at a time the server sustains.
            **params: As `create`.

        Raises:
            ConfigurationError: If an option can't be used.
            FanOutError: From reading; see `FanOut`.
        """
        return self._fan_out(
            n=n,
            max_concurrency=max_concurrency,
            stream=stream,
            native=native,
            on_error=on_error,
            stop_when=stop_when,
            first=first,
            hedge_after=hedge_after,
            pace={
                "requests_per_minute": requests_per_minute,
                "tokens_per_minute": tokens_per_minute,
                "adaptive": adaptive,
            },
            params=dict(params),
        )

    @property
    def with_raw_response(self) -> RawCompletions:
        """The same methods, which return status, headers and body; ``await .parse()`` as usual."""
        from .raw import RawCompletions  # noqa: PLC0415  # few need it

        return RawCompletions(self)

    @property
    def with_streaming_response(self) -> StreamingCompletions:
        """The same for ``async with``, the body not read yet."""
        from .raw import StreamingCompletions  # noqa: PLC0415  # few need it

        return StreamingCompletions(self)


C = TypeVar("C", bound=CompletionsBase)


class _ChatBase(Generic[C]):
    def __init__(self, completions: C) -> None:
        self.completions = completions

    @property
    def with_raw_response(self) -> RawChat:
        """The same resources, whose calls return status, headers and body."""
        from .raw import RawChat  # noqa: PLC0415  # few need it

        return RawChat(self.completions)

    @property
    def with_streaming_response(self) -> StreamingChat:
        """The same for ``async with``, the body not read yet."""
        from .raw import StreamingChat  # noqa: PLC0415  # few need it

        return StreamingChat(self.completions)


class Chat(_ChatBase[Completions]):
    """`client.chat`."""

    def __init__(self, client: AsyncGradient) -> None:
        super().__init__(Completions(client))


class AgentChat(_ChatBase[AgentCompletions]):
    """`client.agents.chat`."""

    def __init__(self, client: AsyncGradient) -> None:
        super().__init__(AgentCompletions(client))


class Agents:
    """`client.agents`."""

    def __init__(self, client: AsyncGradient) -> None:
        self._client = client

    @cached_property
    def chat(self) -> AgentChat:
        """Completions of the agent."""
        return AgentChat(self._client)

    @property
    def with_raw_response(self) -> RawAgents:
        """The same resources, whose calls return status, headers and body."""
        from .raw import RawAgents  # noqa: PLC0415  # few need it

        return RawAgents(self.chat.completions)
