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
    ParsedChatCompletion,
)
from .core import Core, check_options
from .hints import AGENTS, Hinted
from .methods import (
    AgentFanOutParams,
    AgentParse,
    AgentRunParams,
    BaseCompletions,
    ChatFanOutParams,
    ChatParse,
    ChatRunParams,
    Form,
    Schema,
    StopWhenParsed,
)
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
    async def create(self, *, stream: Any = None, **params: Any) -> ChatCompletion | ChatCompletionStream:
        """Request a completion. The request contains exactly the parameters that are given.

        Args:
            stream: Whether to get the completion as it is generated.
            **params: Parameters of the request, see `ChatCompletionParams`, and options for sending it, see
                `RequestOptions`.

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
        self, *, response_format: Schema = ..., **params: Unpack[ChatParse]
    ) -> ParsedChatCompletion[None]: ...
    @overload
    async def parse(
        self, *, response_format: Form[T], **params: Unpack[ChatParse]
    ) -> ParsedChatCompletion[T]: ...
    @overload
    async def parse(
        self, *, response_format: object, **params: Unpack[ChatParse]
    ) -> ParsedChatCompletion[Any]: ...
    async def parse(self, **params: Any) -> ParsedChatCompletion[Any]:
        """Request a completion whose text is JSON, and read it as a value of a type.

        Args:
            response_format: A type, such as a Struct, a dataclass, ``list[Invoice]`` or a model of pydantic; or an `Answer`,
                which says more. A schema as the API takes it is sent unchanged, and its answers are not read.
            output_retries: How often to ask again, with the faulty answer and a message that names the fault, if the
                answer is not JSON or no value of the type. Each request is paid for. 0 by default.
            **params: The same as for `create`, except ``stream``.

        Returns:
            The completion. Its ``parsed``, and that of each message, is the value, or None where the model refused, and
            where it calls tools and says nothing.

        Raises:
            InvalidRequestError: If the type has no schema; nothing was sent.
            LengthFinishReasonError: If an answer was cut at the limit of tokens.
            ContentFilterFinishReasonError: If a content filter cut an answer.
            OutputDecodeError: If an answer is not JSON.
            OutputValidationError: If an answer is no value of the type.
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
    def stream(self, **params: Any) -> StreamManager[Any]:
        """Stream a completion: ``async with client.chat.completions.stream(...) as stream``.

        The stream reports the usage as well, unless ``stream_options`` is given. The request is sent on entering,
        and the stream is closed on leaving.

        Args:
            response_format: A type in place of a schema, as for `parse`: the stream is a `ParsedChatCompletionStream`.
            **params: The same as for `create`.

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
        **options: Unpack[ChatFanOutParams],
    ) -> FanOut: ...
    @overload
    def fan_out(
        self,
        *,
        response_format: Form[T],
        stop_when: StopWhenParsed[T] | None = ...,
        **options: Unpack[ChatFanOutParams],
    ) -> FanOut[ParsedChatCompletion[T]]: ...
    @overload
    def fan_out(
        self,
        *,
        response_format: object,
        stop_when: StopWhenParsed[Any] | None = ...,
        **options: Unpack[ChatFanOutParams],
    ) -> FanOut[Any]: ...
    def fan_out(self, **options: Any) -> FanOut[Any]:
        """Generate n choices for one prompt, each by its own request, as one stream.

        ``async with client.chat.completions.fan_out(n=8, ...) as fan`` is used like a stream: chunks of all
        choices as they arrive, ``fan.choice(i)``, ``fan.snapshot``, ``await fan.completion()``. The streams
        report their usage as well, unless ``stream_options`` is given.

        Args:
            n (int): Number of choices.
            max_concurrency (int | None): Maximum number of requests in flight; None, the default, is no limit.
            stream (bool): Stream each reply, the default; otherwise each choice arrives as one chunk.
            native (bool | "auto"): Make one request with ``n`` in place of n requests. With ``"auto"``, choices
                that the server does not return are then requested one by one, for servers that ignore or
                refuse ``n``. False by default.
            on_error ("raise" | "collect"): ``"raise"``, the default, cancels the other requests at the first
                error; with ``"collect"`` they continue, and `FanOut.errors` has the errors.
            stop_when (Callable[[Choice], bool | Awaitable[bool]] | None): Called with each finished `Choice`.
                If it returns true, or an awaitable of true, the choice is a winner. Once there are as many
                winners as ``first`` says, by default one, the other requests are cancelled and their
                connections closed. It is not called for choices without a value of the type in ``response_format``.
            first (int | None): How many winners are enough. Without ``stop_when`` every finished choice is a
                winner, or, if ``response_format`` is a type, every choice with a value of the type.
            response_format: A type in place of a schema, as for `parse`. A choice whose answer is no value of the type has
                failed. With ``first`` or ``stop_when`` the other requests go on nevertheless, whatever ``on_error`` says;
                if none is left, a `FanOutError` has the error of each.
            hedge_after (float | None): Seconds without content after which a second request is made for a
                choice. The first reply with content continues, and the other is cancelled.
                ``max_concurrency`` does not count the second request.
            pace (Pace | None): Rates that these requests share with whatever else has the same `Pace`; the
                client's own `Pace` if None, and otherwise one for these requests.
            requests_per_minute (float | None): Short for a `Pace` for these requests alone, as the next two: the
                maximum number of requests in any minute.
            tokens_per_minute (float | None): Maximum number of tokens in any minute.
            adaptive (bool): Adapt the number of requests in flight to what the server sustains.
            **options: Parameters of each request, the same as for `create` except ``n`` and ``stream``.

        Raises:
            ConfigurationError: If an option can't be used.
            FanOutError: From reading; see `FanOut`.
        """
        check_options(options)
        return self._fan_out(**options)

    @overload
    def run(  # type: ignore[overload-overlap]  # a schema is an object, too
        self, *, response_format: Schema = ..., **options: Unpack[ChatRunParams]
    ) -> ToolRun[ChatCompletion]: ...
    @overload
    def run(
        self, *, response_format: Form[T], **options: Unpack[ChatRunParams]
    ) -> ToolRun[ParsedChatCompletion[T]]: ...
    @overload
    def run(
        self, *, response_format: object, **options: Unpack[ChatRunParams]
    ) -> ToolRun[ParsedChatCompletion[Any]]: ...
    def run(self, **options: Any) -> ToolRun[Any]:
        """Let the model call functions until it has an answer: ``async with client.chat.completions.run(...) as run``.

        Iterate over the events of all turns, ``async for event in run``, or ``await run.completion()``. A turn is a request
        and the calls in its reply: their functions run at once, their results go into the next request. Nothing is sent
        before the first read.

        Args:
            tools (Iterable): Functions, or tools made by `tool`. A call of a tool that is given as a dictionary ends the run.
            max_turns (int): Maximum number of requests; 10 by default.
            stream (bool): Stream each reply, the default; otherwise each text arrives as one delta.
            stop_when (Callable[[ToolRun], bool | Awaitable[bool]] | None): Called with the run after the results of each
                turn. If it returns true, or an awaitable of true, the run ends.
            on_tool_error ("tell" | "raise" | Callable[[ToolCall, Exception], str | Awaitable[str]]): What becomes of an
                exception of a function. ``"tell"``, the default, tells it to the model. ``"raise"`` cancels the other
                tools and raises the first one. A callable returns the text for the model, or raises. Unknown tools,
                arguments that do not fit and exceeded time limits are always told to the model.
            tool_timeout (float | None): Seconds for each call, for tools without a ``timeout``; None is no limit.
            tool_concurrency (int | None): Maximum number of functions that run at once; None is no limit.
            context (Any): An object for functions that have a parameter of type `ToolContext`.
            response_format (type | Answer | Mapping | None): Type of the answer, as for `parse`. Only the last reply, which
                calls no tools, is read as a value of it.
            **options: The same as for `create`; ``messages`` is not changed. A ``tool_choice`` that requires a call is
                sent in the first turn only. ``timeout`` holds for each turn.

        Raises:
            ConfigurationError: If an option can't be used; nothing was sent.
            InvalidRequestError: If there are no tools, or more than one choice; nothing was sent.
            TypeError: If a function cannot be a tool; nothing was sent.
            MaxTurnsError: From reading, if the model still calls tools after ``max_turns`` requests.
            OutputError: From reading, if tool calls are cut, or the answer is no value of the type.
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
    async def create(self, *, stream: Any = None, **params: Any) -> ChatCompletion | ChatCompletionStream:
        """Request a completion from the agent, like `Completions.create` but with the parameters of agents.

        Args:
            stream: Whether to get the completion as it is generated.
            **params: Parameters of the request, see `AgentCompletionParams`, and options for sending it, see
                `RequestOptions`.

        Raises:
            GradientError: For the same reasons as `Completions.create`.
        """
        return await self._core.create(self._operation, params, stream=stream)

    @overload
    async def parse(
        self, *, response_format: Schema = ..., **params: Unpack[AgentParse]
    ) -> ParsedChatCompletion[None]: ...
    @overload
    async def parse(
        self, *, response_format: Form[T], **params: Unpack[AgentParse]
    ) -> ParsedChatCompletion[T]: ...
    @overload
    async def parse(
        self, *, response_format: object, **params: Unpack[AgentParse]
    ) -> ParsedChatCompletion[Any]: ...
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
    def stream(self, **params: Any) -> StreamManager[Any]:
        """Stream the agent's completion, like `Completions.stream`."""
        return self._stream(params)

    @overload
    def fan_out(
        self,
        *,
        response_format: Schema = ...,
        stop_when: StopWhen | None = ...,
        **options: Unpack[AgentFanOutParams],
    ) -> FanOut: ...
    @overload
    def fan_out(
        self,
        *,
        response_format: Form[T],
        stop_when: StopWhenParsed[T] | None = ...,
        **options: Unpack[AgentFanOutParams],
    ) -> FanOut[ParsedChatCompletion[T]]: ...
    @overload
    def fan_out(
        self,
        *,
        response_format: object,
        stop_when: StopWhenParsed[Any] | None = ...,
        **options: Unpack[AgentFanOutParams],
    ) -> FanOut[Any]: ...
    def fan_out(self, **options: Any) -> FanOut[Any]:
        """Generate n choices by the agent, like `Completions.fan_out` but with the parameters of agents."""
        check_options(options)
        return self._fan_out(**options)

    @overload
    def run(  # type: ignore[overload-overlap]  # a schema is an object, too
        self, *, response_format: Schema = ..., **options: Unpack[AgentRunParams]
    ) -> ToolRun[ChatCompletion]: ...
    @overload
    def run(
        self, *, response_format: Form[T], **options: Unpack[AgentRunParams]
    ) -> ToolRun[ParsedChatCompletion[T]]: ...
    @overload
    def run(
        self, *, response_format: object, **options: Unpack[AgentRunParams]
    ) -> ToolRun[ParsedChatCompletion[Any]]: ...
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
