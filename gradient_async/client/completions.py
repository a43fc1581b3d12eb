"""`client.chat.completions` and `client.agents.chat.completions`: await, parse, stream, fan out, map, run."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Generic, Literal, TypeVar, Unpack, overload

from ..fanout import FanOut, StopWhen
from ..stream import ChatCompletionStream, ParsedChatCompletionStream, StreamManager
from ..types import (
    AgentCompletionCreate,
    AgentCompletionParse,
    ChatCompletion,
    ChatCompletionCreate,
    ChatCompletionParse,
    NotGiven,
    ParsedChatCompletion,
)
from .core import Core, check_options
from .hints import AGENTS, Hinted
from .methods import FAN_OUT, RUN, BaseCompletions, Form, Schema, StopWhenParsed
from .options import (
    AgentFanOutOptions,
    AgentParseOptions,
    AgentRunOptions,
    AnswerOptions,
    ChatFanOutOptions,
    ChatParseOptions,
    ChatRunOptions,
    FanOutAnswerOptions,
)
from .parameters import spelled_out
from .raw import RawCompletions, ResponseAgents, ResponseChat, StreamingCompletions
from .run import ToolRun

T = TypeVar("T")


class Completions(BaseCompletions):
    """Chat completions of models."""

    _operation = "chat"

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
    @spelled_out(ChatCompletionCreate)
    async def create(
        self, *, stream: bool | NotGiven | None = None, **params: Any
    ) -> ChatCompletion | ChatCompletionStream:
        """Request a completion. The request contains exactly the parameters that are given.

        Args:
            stream: Whether to get the completion as it is generated.
            **params: Parameters of the request, and options for sending it.

        Returns:
            The completion; with ``stream=True``, the stream, once the headers of the reply have been read.

        Raises:
            TypeError: If a name is unknown or missing.
            InvalidRequestError: If a value is outside its documented limit; nothing was sent.
            ConfigurationError: If there is no key; nothing was sent.
            APIStatusError: If the server answered with an error.
            APIConnectionError: If no complete answer came.
            APIResponseValidationError: If the answer is not a completion.
            StreamError: If the server sent a stream although none was requested, and the stream is not whole.
        """
        return await self._core.create(self._operation, params, stream=stream)

    @overload
    async def parse(
        self, *, response_format: Schema = ..., **params: Unpack[ChatParseOptions]
    ) -> ParsedChatCompletion[None]: ...
    @overload
    async def parse(
        self, *, response_format: Form[T], **params: Unpack[ChatParseOptions]
    ) -> ParsedChatCompletion[T]: ...
    @overload
    async def parse(
        self, *, response_format: object, **params: Unpack[ChatParseOptions]
    ) -> ParsedChatCompletion[Any]: ...
    @spelled_out(AnswerOptions, ChatParseOptions)
    async def parse(self, **params: Any) -> ParsedChatCompletion[Any]:
        """Request a completion whose text is JSON, and read it as a value of a type.

        Args:
            **params: Parameters of the request, and options for sending it.

        Returns:
            The completion. Its ``parsed``, and that of each message, is the value; None if the model refused, or if it
            calls tools without a text.

        Raises:
            InvalidRequestError: If the type has no schema; nothing was sent.
            LengthFinishReasonError: If an answer was cut at the limit of tokens.
            ContentFilterFinishReasonError: If a content filter cut an answer.
            OutputDecodeError: If an answer is not JSON.
            OutputValidationError: If an answer is not a value of the type.
            GradientError: For the same reasons as `create`.
        """
        return await self._parse(params)

    @overload
    def stream(
        self, *, response_format: Schema = ..., **params: Unpack[ChatCompletionParse]
    ) -> StreamManager: ...
    @overload
    def stream(
        self, *, response_format: Form[T], **params: Unpack[ChatCompletionParse]
    ) -> StreamManager[ParsedChatCompletionStream[T]]: ...
    @overload
    def stream(
        self, *, response_format: object, **params: Unpack[ChatCompletionParse]
    ) -> StreamManager[Any]: ...
    @spelled_out(AnswerOptions, ChatCompletionParse)
    def stream(self, **params: Any) -> StreamManager[Any]:
        """Stream a completion: ``async with client.chat.completions.stream(...) as stream``.

        The stream reports the usage as well, unless ``stream_options`` is given. The request is sent on entering,
        and the stream is closed on leaving. If ``response_format`` is a type, the stream is a
        `ParsedChatCompletionStream`.

        Args:
            **params: Parameters of the request, and options for sending it.

        Raises:
            InvalidRequestError: If the type has no schema.
            GradientError: On entering, for the same reasons as `create`.
        """
        return self._stream(params)

    @overload
    def fan_out(
        self,
        *,
        response_format: Schema = ...,
        stop_when: StopWhen | None = ...,
        **options: Unpack[ChatFanOutOptions],
    ) -> FanOut: ...
    @overload
    def fan_out(
        self,
        *,
        response_format: Form[T],
        stop_when: StopWhenParsed[T] | None = ...,
        **options: Unpack[ChatFanOutOptions],
    ) -> FanOut[ParsedChatCompletion[T]]: ...
    @overload
    def fan_out(
        self,
        *,
        response_format: object,
        stop_when: StopWhenParsed[Any] | None = ...,
        **options: Unpack[ChatFanOutOptions],
    ) -> FanOut[Any]: ...
    @spelled_out(FanOutAnswerOptions, ChatFanOutOptions, defaults=FAN_OUT)
    def fan_out(self, **options: Any) -> FanOut[Any]:
        """Generate n choices for one prompt, each by its own request, as one stream.

        ``async with client.chat.completions.fan_out(n=8, ...) as fan`` is used like a stream: chunks of all
        choices as they arrive, ``fan.choice(i)``, ``fan.snapshot``, ``await fan.completion()``. The streams
        report their usage as well, unless ``stream_options`` is given.

        If ``response_format`` is a type, a choice whose answer is not a value of the type has failed. With ``first`` or
        ``stop_when`` the other requests go on nevertheless, whatever ``on_error`` says; if none is left, a
        `FanOutError` has the error of each.

        Args:
            **options: Options, and parameters of each request.

        Raises:
            ConfigurationError: If an option can't be used.
            FanOutError: From reading; see `FanOut`.
        """
        check_options(options)
        return self._fan_out(**options)

    @overload
    def run(  # type: ignore[overload-overlap]  # a schema is an object, too
        self, *, response_format: Schema = ..., **options: Unpack[ChatRunOptions]
    ) -> ToolRun[ChatCompletion]: ...
    @overload
    def run(
        self, *, response_format: Form[T], **options: Unpack[ChatRunOptions]
    ) -> ToolRun[ParsedChatCompletion[T]]: ...
    @overload
    def run(
        self, *, response_format: object, **options: Unpack[ChatRunOptions]
    ) -> ToolRun[ParsedChatCompletion[Any]]: ...
    @spelled_out(AnswerOptions, ChatRunOptions, defaults=RUN)
    def run(self, **options: Any) -> ToolRun[Any]:
        """Let the model call functions until it has an answer: ``async with client.chat.completions.run(...) as run``.

        Iterate over the events of all turns, ``async for event in run``, or ``await run.completion()``. A turn is a request
        and the calls in its reply: their functions run at once, their results go into the next request. Nothing is sent
        before the first read.

        ``messages`` is not changed. A ``tool_choice`` that requires a call is sent in the first turn only, and ``timeout``
        holds for each turn. Only the last reply, which calls no tools, is read as a value of the type in
        ``response_format``.

        Args:
            **options: Options, and parameters of each request.

        Raises:
            ConfigurationError: If an option can't be used; nothing was sent.
            InvalidRequestError: If there are no tools, or more than one choice; nothing was sent.
            TypeError: If a function cannot be a tool; nothing was sent.
            MaxTurnsError: From reading, if the model still calls tools after ``max_turns`` requests.
            OutputError: From reading, if tool calls are cut, or the answer is not a value of the type.
            GradientError: From reading, for the same reasons as `create`.
        """
        check_options(options)
        run: ToolRun[Any] = self._begin_run(**options)
        return run


class AgentCompletions(BaseCompletions):
    """Chat completions of an agent."""

    _operation = "agent"

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
    @spelled_out(AgentCompletionCreate)
    async def create(
        self, *, stream: bool | NotGiven | None = None, **params: Any
    ) -> ChatCompletion | ChatCompletionStream:
        """Request a completion from the agent, like `Completions.create` but with the parameters of agents.

        Args:
            stream: Whether to get the completion as it is generated.
            **params: Parameters of the request, and options for sending it.

        Raises:
            GradientError: For the same reasons as `Completions.create`.
        """
        return await self._core.create(self._operation, params, stream=stream)

    @overload
    async def parse(
        self, *, response_format: Schema = ..., **params: Unpack[AgentParseOptions]
    ) -> ParsedChatCompletion[None]: ...
    @overload
    async def parse(
        self, *, response_format: Form[T], **params: Unpack[AgentParseOptions]
    ) -> ParsedChatCompletion[T]: ...
    @overload
    async def parse(
        self, *, response_format: object, **params: Unpack[AgentParseOptions]
    ) -> ParsedChatCompletion[Any]: ...
    @spelled_out(AnswerOptions, AgentParseOptions)
    async def parse(self, **params: Any) -> ParsedChatCompletion[Any]:
        """Request a typed answer from the agent, like `Completions.parse`."""
        return await self._parse(params)

    @overload
    def stream(
        self, *, response_format: Schema = ..., **params: Unpack[AgentCompletionParse]
    ) -> StreamManager: ...
    @overload
    def stream(
        self, *, response_format: Form[T], **params: Unpack[AgentCompletionParse]
    ) -> StreamManager[ParsedChatCompletionStream[T]]: ...
    @overload
    def stream(
        self, *, response_format: object, **params: Unpack[AgentCompletionParse]
    ) -> StreamManager[Any]: ...
    @spelled_out(AnswerOptions, AgentCompletionParse)
    def stream(self, **params: Any) -> StreamManager[Any]:
        """Stream the agent's completion, like `Completions.stream`."""
        return self._stream(params)

    @overload
    def fan_out(
        self,
        *,
        response_format: Schema = ...,
        stop_when: StopWhen | None = ...,
        **options: Unpack[AgentFanOutOptions],
    ) -> FanOut: ...
    @overload
    def fan_out(
        self,
        *,
        response_format: Form[T],
        stop_when: StopWhenParsed[T] | None = ...,
        **options: Unpack[AgentFanOutOptions],
    ) -> FanOut[ParsedChatCompletion[T]]: ...
    @overload
    def fan_out(
        self,
        *,
        response_format: object,
        stop_when: StopWhenParsed[Any] | None = ...,
        **options: Unpack[AgentFanOutOptions],
    ) -> FanOut[Any]: ...
    @spelled_out(FanOutAnswerOptions, AgentFanOutOptions, defaults=FAN_OUT)
    def fan_out(self, **options: Any) -> FanOut[Any]:
        """Generate n choices by the agent, like `Completions.fan_out` but with the parameters of agents."""
        check_options(options)
        return self._fan_out(**options)

    @overload
    def run(  # type: ignore[overload-overlap]  # a schema is an object, too
        self, *, response_format: Schema = ..., **options: Unpack[AgentRunOptions]
    ) -> ToolRun[ChatCompletion]: ...
    @overload
    def run(
        self, *, response_format: Form[T], **options: Unpack[AgentRunOptions]
    ) -> ToolRun[ParsedChatCompletion[T]]: ...
    @overload
    def run(
        self, *, response_format: object, **options: Unpack[AgentRunOptions]
    ) -> ToolRun[ParsedChatCompletion[Any]]: ...
    @spelled_out(AnswerOptions, AgentRunOptions, defaults=RUN)
    def run(self, **options: Any) -> ToolRun[Any]:
        """Let the agent's model call functions until it has an answer, like `Completions.run`."""
        check_options(options)
        run: ToolRun[Any] = self._begin_run(**options)
        return run


C = TypeVar("C", bound=BaseCompletions)


class Chat(Generic[C]):
    """`client.chat` and `client.agents.chat`."""

    def __init__(self, completions: C) -> None:
        self.completions = completions

    @cached_property
    def with_raw_response(self) -> ResponseChat[RawCompletions]:
        """The same resources; their calls return status, headers and body."""
        return ResponseChat(self.completions.with_raw_response)

    @cached_property
    def with_streaming_response(self) -> ResponseChat[StreamingCompletions]:
        """The same resources for ``async with``; their calls return a response whose body has not been read."""
        return ResponseChat(self.completions.with_streaming_response)


class Agents(Hinted):
    """`client.agents`."""

    _hints = AGENTS

    def __init__(self, core: Core) -> None:
        self.chat = Chat(AgentCompletions(core))

    @cached_property
    def with_raw_response(self) -> ResponseAgents[RawCompletions]:
        """The same resources; their calls return status, headers and body."""
        return ResponseAgents(self.chat.with_raw_response)

    @cached_property
    def with_streaming_response(self) -> ResponseAgents[StreamingCompletions]:
        """The same resources for ``async with``; their calls return a response whose body has not been read."""
        return ResponseAgents(self.chat.with_streaming_response)
