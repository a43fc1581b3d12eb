"""`client.chat.completions` and `client.agents.chat.completions`: await, stream, fan out, map."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any, Generic, Literal, ParamSpec, TypeVar, Unpack, overload

import msgspec

from ..assembly import CompletionAssembler
from ..decoding import check_names, list_iterables
from ..errors import ConfigurationError
from ..fanout import (
    FanOut,
    FanOutOptions,
    FanOutRunner,
    Journal,
    MapResults,
    MapWorkers,
    Requests,
    StopWhen,
    StreamedReply,
)
from ..output import Answer, take_answer
from ..session.pace import Pace, Turns
from ..stream import ChatCompletionStream, ParsedChatCompletionStream, StreamManager
from ..types import (
    NOT_GIVEN,
    AgentCompletionCreate,
    AgentCompletionParse,
    ChatCompletion,
    ChatCompletionCreate,
    ChatCompletionParse,
    NotGiven,
    ParsedChatCompletion,
    ParsedChoice,
    given,
    is_given,
)
from .answers import check_retries, described_tools, parse, typed_arguments
from .core import OPTIONS, Core, Operation, check_options, read_reply
from .hints import AGENTS, CompletionsHints, Hinted
from .options import (
    AgentFanOutOptions,
    AgentRunOptions,
    AnswerOptions,
    ChatFanOutOptions,
    ChatRunOptions,
    FanOutAnswerOptions,
    MapOptions,
    ParseOptions,
    RunAnswerOptions,
)
from .parameters import spelled_out
from .raw import RawCompletions, ResponseAgents, ResponseChat, StreamingCompletions
from .run import OnToolError, ToolRun, start_run
from .run import StopWhen as StopRunWhen
from .settings import check_choice, check_count, check_kind

P = ParamSpec("P")
T = TypeVar("T")

# The default window of `map` is this many times its concurrency: a slow reader or, if results are ordered, a slow
# request does not stop the other requests at once.
_WINDOW = 4


def _drop_not_given(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function so that keyword arguments of `NOT_GIVEN` have their defaults, and keys in headers are hidden."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        check_options(kwargs)
        return function(*args, **given(kwargs))

    return called


def _ask_for_usage(arguments: dict[str, Any]) -> None:
    """Ask for the usage at the end of a stream, unless the caller gave ``stream_options``."""
    if not is_given(arguments.get("stream_options", NOT_GIVEN)):
        arguments["stream_options"] = {"include_usage": True}


def check_requests(requests: object) -> None:
    """Check the type of the argument of `map`.

    Raises:
        TypeError: If it is not an iterable of requests.
    """
    kind = type(requests)
    if not hasattr(kind, "__iter__") and not hasattr(kind, "__aiter__"):
        raise TypeError(f"requests: expected an iterable or an async iterable, not {kind.__name__}")
    if issubclass(kind, (str, bytes, Mapping)):
        raise TypeError(f"requests: expected several requests, not one {kind.__name__}")


class _Completions(CompletionsHints):
    """The methods that completions of models and agents share; they differ only in the types of their parameters."""

    _operation: Operation

    def __init__(self, core: Core) -> None:
        self._core = core

    async def _create(
        self, arguments: dict[str, Any], *, stream: bool | NotGiven | None
    ) -> ChatCompletion | ChatCompletionStream:
        core = self._core
        stream = None if stream is None or not is_given(stream) else stream
        reply = await core.send(self._operation, arguments, stream=stream)
        if stream:
            return core.open_stream(reply, arguments)
        return await read_reply(reply, core.completion_of)

    async def _parse(self, arguments: dict[str, Any]) -> ParsedChatCompletion[Any]:
        check_options(arguments)
        retries = check_retries(arguments.pop("output_retries", NOT_GIVEN), arguments)
        core, operation, answer = self._core, self._operation, typed_arguments(arguments)

        async def fetch(arguments: dict[str, Any]) -> ChatCompletion:
            return await read_reply(await core.send(operation, arguments), core.completion_of)

        return await parse(fetch, arguments, answer, retries)

    def _stream(self, arguments: dict[str, Any]) -> StreamManager[Any]:
        if is_given(arguments.pop("stream", NOT_GIVEN)):
            raise TypeError("stream() always streams: leave 'stream' out")
        check_options(arguments)  # hides keys, because a traceback may show the locals of this frame
        answer = take_answer(arguments)
        _ask_for_usage(arguments)

        async def start() -> ChatCompletionStream:
            reply = await self._core.send(self._operation, arguments, stream=True)
            return self._core.open_stream(reply, arguments, answer)

        return StreamManager(start)

    @_drop_not_given
    def _map(
        self,
        /,
        requests: Requests,
        *,
        max_concurrency: int = 64,
        ordered: bool = False,
        on_error: Literal["collect", "raise"] = "collect",
        window: int | None = None,
        pace: Pace | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        adaptive: bool = False,
        stream: bool = False,
        journal: Journal | str | os.PathLike[str] | None = None,
        output_retries: int = 0,
        **defaults: Any,
    ) -> MapResults[Any]:
        self._check_names(defaults, _Completions._map)
        check_choice("on_error", on_error, "collect", "raise")
        check_count("max_concurrency", max_concurrency, min_=1)
        check_requests(requests)
        check_retries(output_retries, defaults)
        defaults = described_tools(defaults)
        take_answer(defaults.copy())  # a type without a schema is refused now, and not by each request
        core, operation = self._core, self._operation
        turns = self._turns(
            pace,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            adaptive=adaptive,
        )

        async def perform(arguments: dict[str, Any], answer: Answer[Any] | None) -> ChatCompletion:
            if answer is None:
                return await fetch(arguments)
            return await parse(fetch, arguments, answer, check_retries(output_retries, arguments))

        async def fetch(arguments: dict[str, Any]) -> ChatCompletion:
            streamed = bool(arguments.pop("stream", stream))
            if streamed:
                _ask_for_usage(arguments)
            reply = await core.send(operation, arguments, stream=streamed or None, turns=turns)
            if not streamed:
                return await read_reply(reply, core.completion_of)
            async with core.open_stream(reply, arguments) as opened:
                return await opened.completion()

        return MapResults(
            MapWorkers(
                requests,
                perform,
                turns=turns,
                max_concurrency=max_concurrency,
                window=_WINDOW * max_concurrency if window is None else check_count("window", window, min_=1),
                ordered=ordered,
                raise_errors=on_error == "raise",
                defaults=defaults,
                journal=journal,
            )
        )

    @overload
    def map(
        self,
        /,
        requests: Requests,
        *,
        response_format: Mapping[str, Any] | None = ...,
        **options: Unpack[MapOptions],
    ) -> MapResults: ...
    @overload
    def map(
        self,
        /,
        requests: Requests,
        *,
        response_format: type[T] | Answer[T],
        **options: Unpack[MapOptions],
    ) -> MapResults[ParsedChatCompletion[T]]: ...
    @overload
    def map(
        self, /, requests: Requests, *, response_format: object, **options: Unpack[MapOptions]
    ) -> MapResults[Any]: ...
    @spelled_out(AnswerOptions, MapOptions, defaults=_map)
    def map(self, /, requests: Requests, **options: Any) -> MapResults[Any]:
        """Make many requests, a limited number at a time; iterate over the results as they finish.

        Requests are taken from the iterable as they are needed, at most ``window`` ahead of the results that
        were read, so a million requests need little memory. The server's quota is obeyed, as far as replies show it: a
        request that is refused because of the quota waits and is sent again, which costs it no attempt.

        If ``response_format`` is a type, each completion is a `ParsedChatCompletion`, and an answer that is no value of
        the type is an error. A request may name a type of its own.

        Args:
            requests: Parameters of each request, or pairs of your own key and parameters; any iterable or
                async iterable.
            **options: Options, and parameters for requests that do not give them.

        Returns:
            An async iterator of `MapResult`. Leaving the loop cancels the requests in flight.

        Raises:
            TypeError: If an option or a default is unknown.
            ConfigurationError: If an option can't be used.
            JournalError: If the journal can't be opened; from iterating, if it can't be written, after the results of
                all requests in flight.
            FanOutError: From iterating, with ``on_error="raise"``.
        """
        check_options(options)
        return self._map(requests, **options)

    @_drop_not_given
    def _fan_out(
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
        pace: Pace | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        adaptive: bool = False,
        **params: Any,
    ) -> FanOut[Any]:
        self._check_names(params, _Completions._fan_out)
        check_count("n", n, min_=1)
        check_choice("on_error", on_error, "collect", "raise")
        if native not in {True, False, "auto"}:
            raise ConfigurationError(f'native={native!r}: expected True, False or "auto"')
        if first is not None and check_count("first", first, min_=1) > n:
            raise ConfigurationError(f"first={first}: there are no more than n={n} choices")
        if hedge_after is not None and not 0 < hedge_after < float("inf"):
            raise ConfigurationError(
                f"hedge_after={hedge_after!r} is not a positive number of seconds or None"
            )
        if max_concurrency is None:
            max_concurrency = n
        check_count("max_concurrency", max_concurrency, min_=1)
        # Every request of the fan-out reads the same arguments.
        params = described_tools(list_iterables(params))
        answer = take_answer(params)
        if stream:
            _ask_for_usage(params)
        limits = self._core.settings.limits
        if limits.completion_bytes is not None:
            # The limit is for one reply; the fan-out assembles n of them into one completion.
            limits = msgspec.structs.replace(limits, completion_bytes=n * limits.completion_bytes)
        assembler = CompletionAssembler(n=n, limits=limits)
        options = FanOutOptions(
            n=n,
            stream=stream,
            native=native,
            raise_errors=on_error == "raise",
            stop_when=stop_when,
            first=first if first is not None or stop_when is None else 1,
            hedge_after=hedge_after,
            max_concurrency=max_concurrency,
            answer=answer,
        )
        turns = self._turns(
            pace,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            adaptive=adaptive,
        )
        runner = FanOutRunner(options, _Requester(self._core, self._operation, params, turns), assembler)
        return FanOut(runner, assembler, buffered=limits.buffered_bytes, answer=answer)

    @_drop_not_given
    def _begin_run(
        self,
        *,
        tools: Any,
        max_turns: int = 10,
        stream: bool = True,
        stop_when: StopRunWhen | None = None,
        on_tool_error: OnToolError = "tell",
        tool_timeout: float | None = None,
        tool_concurrency: int | None = None,
        context: Any = None,
        response_format: Any = None,
        **params: Any,
    ) -> ToolRun[Any]:
        self._check_names(params, _Completions._begin_run)
        return start_run(
            self,
            params,
            tools=tools,
            max_turns=max_turns,
            stream=stream,
            stop_when=stop_when,
            on_tool_error=on_tool_error,
            tool_timeout=tool_timeout,
            tool_concurrency=tool_concurrency,
            context=context,
            response_format=response_format,
            hooks=self._core.settings.hooks,
            redact=functools.partial(self._core.redact, self._operation),
        )

    def _turns(self, pace: Pace | None, **rates: Any) -> Turns:
        """Return the turns of one `map` or fan-out, in a `Pace` that was given, of the client, or of their own.

        Raises:
            ConfigurationError: If rates are given as well as a `Pace`.
        """
        if pace is not None:
            check_kind("pace", pace, Pace)
        shared = pace or self._core.settings.pace
        if shared is None:
            return Turns(Pace(**rates), patient=True)
        for name, value in rates.items():
            if value:
                owner = "the client has a pace" if pace is None else "pace is given too"
                raise ConfigurationError(
                    f"{name}={value!r}: {owner}; pass pace=Pace({name}={value!r}, ...) alone"
                )
        return Turns(shared, patient=True)

    def _check_names(self, params: Mapping[str, Any], method: Any) -> None:
        """Refuse unknown names among the parameters that a method was called with."""
        # The method's own options are never among them; they are there to be suggested.
        options = method.__wrapped__.__kwdefaults__
        check_names(params, {*OPTIONS, *options}, agent=self._operation == "agent")

    @cached_property
    def with_raw_response(self) -> RawCompletions:
        """The same methods; they return status, headers and body, and ``await .parse()`` gives the result."""
        return RawCompletions(self._core, self._operation)

    @cached_property
    def with_streaming_response(self) -> StreamingCompletions:
        """The same methods for ``async with``; they return a response whose body has not been read."""
        return StreamingCompletions(self._core, self._operation)


# Functions whose keyword arguments have the defaults of the public methods, for the signatures of these.
MAP, FAN_OUT, RUN = (vars(_Completions)[name] for name in ("_map", "_fan_out", "_begin_run"))


class _Requester:
    """Makes the requests of a fan-out, all with the same parameters."""

    def __init__(self, core: Core, operation: Operation, params: Mapping[str, Any], turns: Turns) -> None:
        self._core = core
        self._operation: Operation = operation
        self._params = params
        self._turns = turns

    async def stream(self, n: int | None, expect: int) -> StreamedReply:
        arguments = self._arguments(n)
        reply = await self._core.send(self._operation, arguments, stream=True, turns=self._turns)
        return StreamedReply(reply, *self._core.open_reader(reply, arguments, n=expect))

    async def fetch(self, n: int | None) -> ChatCompletion:
        core = self._core
        reply = await core.send(self._operation, self._arguments(n), turns=self._turns)
        return await read_reply(reply, core.completion_of)

    def _arguments(self, n: int | None) -> dict[str, Any]:
        return {**self._params} if n is None else {**self._params, "n": n}


class Completions(_Completions):
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
        return await self._create(params, stream=stream)

    @overload
    async def parse(
        self,
        *,
        response_format: Mapping[str, Any] | None = ...,
        output_retries: int = ...,
        **params: Unpack[ChatCompletionParse],
    ) -> ParsedChatCompletion[None]: ...
    @overload
    async def parse(
        self,
        *,
        response_format: type[T] | Answer[T],
        output_retries: int = ...,
        **params: Unpack[ChatCompletionParse],
    ) -> ParsedChatCompletion[T]: ...
    @overload
    async def parse(
        self, *, response_format: object, output_retries: int = ..., **params: Unpack[ChatCompletionParse]
    ) -> ParsedChatCompletion[Any]: ...
    @spelled_out(ParseOptions, ChatCompletionParse)
    async def parse(self, **params: Any) -> ParsedChatCompletion[Any]:
        """Request a completion whose text is JSON, and read it as a value of a type.

        Args:
            **params: Parameters of the request, and options for sending it.

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
        self, *, response_format: Mapping[str, Any] | None = ..., **params: Unpack[ChatCompletionParse]
    ) -> StreamManager: ...
    @overload
    def stream(
        self, *, response_format: type[T] | Answer[T], **params: Unpack[ChatCompletionParse]
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
        response_format: Mapping[str, Any] | None = ...,
        stop_when: StopWhen | None = ...,
        **options: Unpack[ChatFanOutOptions],
    ) -> FanOut: ...
    @overload
    def fan_out(
        self,
        *,
        response_format: type[T] | Answer[T],
        stop_when: Callable[[ParsedChoice[T]], bool | Awaitable[bool]] | None = ...,
        **options: Unpack[ChatFanOutOptions],
    ) -> FanOut[ParsedChatCompletion[T]]: ...
    @overload
    def fan_out(
        self,
        *,
        response_format: object,
        stop_when: Callable[[ParsedChoice[Any]], bool | Awaitable[bool]] | None = ...,
        **options: Unpack[ChatFanOutOptions],
    ) -> FanOut[Any]: ...
    @spelled_out(FanOutAnswerOptions, ChatFanOutOptions, defaults=FAN_OUT)
    def fan_out(self, **options: Any) -> FanOut[Any]:
        """Generate n choices for one prompt, each by its own request, as one stream.

        ``async with client.chat.completions.fan_out(n=8, ...) as fan`` is used like a stream: chunks of all
        choices as they arrive, ``fan.choice(i)``, ``fan.snapshot``, ``await fan.completion()``. The streams
        report their usage as well, unless ``stream_options`` is given.

        If ``response_format`` is a type, a choice whose answer is no value of the type has failed. With ``first`` or
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
        self,
        *,
        response_format: Mapping[str, Any] | None = ...,
        stop_when: StopRunWhen | None = ...,
        **options: Unpack[ChatRunOptions],
    ) -> ToolRun[ChatCompletion]: ...
    @overload
    def run(
        self,
        *,
        response_format: type[T] | Answer[T],
        stop_when: StopRunWhen | None = ...,
        **options: Unpack[ChatRunOptions],
    ) -> ToolRun[ParsedChatCompletion[T]]: ...
    @overload
    def run(
        self,
        *,
        response_format: object,
        stop_when: StopRunWhen | None = ...,
        **options: Unpack[ChatRunOptions],
    ) -> ToolRun[ParsedChatCompletion[Any]]: ...
    @spelled_out(RunAnswerOptions, ChatRunOptions, defaults=RUN)
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
            OutputError: From reading, if tool calls are cut, or the answer is no value of the type.
            GradientError: From reading, for the same reasons as `create`.
        """
        check_options(options)
        run: ToolRun[Any] = self._begin_run(**options)
        return run


class AgentCompletions(_Completions):
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
        return await self._create(params, stream=stream)

    @overload
    async def parse(
        self,
        *,
        response_format: Mapping[str, Any] | None = ...,
        output_retries: int = ...,
        **params: Unpack[AgentCompletionParse],
    ) -> ParsedChatCompletion[None]: ...
    @overload
    async def parse(
        self,
        *,
        response_format: type[T] | Answer[T],
        output_retries: int = ...,
        **params: Unpack[AgentCompletionParse],
    ) -> ParsedChatCompletion[T]: ...
    @overload
    async def parse(
        self, *, response_format: object, output_retries: int = ..., **params: Unpack[AgentCompletionParse]
    ) -> ParsedChatCompletion[Any]: ...
    @spelled_out(ParseOptions, AgentCompletionParse)
    async def parse(self, **params: Any) -> ParsedChatCompletion[Any]:
        """Request a typed answer from the agent, like `Completions.parse`."""
        return await self._parse(params)

    @overload
    def stream(
        self, *, response_format: Mapping[str, Any] | None = ..., **params: Unpack[AgentCompletionParse]
    ) -> StreamManager: ...
    @overload
    def stream(
        self, *, response_format: type[T] | Answer[T], **params: Unpack[AgentCompletionParse]
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
        response_format: Mapping[str, Any] | None = ...,
        stop_when: StopWhen | None = ...,
        **options: Unpack[AgentFanOutOptions],
    ) -> FanOut: ...
    @overload
    def fan_out(
        self,
        *,
        response_format: type[T] | Answer[T],
        stop_when: Callable[[ParsedChoice[T]], bool | Awaitable[bool]] | None = ...,
        **options: Unpack[AgentFanOutOptions],
    ) -> FanOut[ParsedChatCompletion[T]]: ...
    @overload
    def fan_out(
        self,
        *,
        response_format: object,
        stop_when: Callable[[ParsedChoice[Any]], bool | Awaitable[bool]] | None = ...,
        **options: Unpack[AgentFanOutOptions],
    ) -> FanOut[Any]: ...
    @spelled_out(FanOutAnswerOptions, AgentFanOutOptions, defaults=FAN_OUT)
    def fan_out(self, **options: Any) -> FanOut[Any]:
        """Generate n choices by the agent, like `Completions.fan_out` but with the parameters of agents."""
        check_options(options)
        return self._fan_out(**options)

    @overload
    def run(  # type: ignore[overload-overlap]  # a schema is an object, too
        self,
        *,
        response_format: Mapping[str, Any] | None = ...,
        stop_when: StopRunWhen | None = ...,
        **options: Unpack[AgentRunOptions],
    ) -> ToolRun[ChatCompletion]: ...
    @overload
    def run(
        self,
        *,
        response_format: type[T] | Answer[T],
        stop_when: StopRunWhen | None = ...,
        **options: Unpack[AgentRunOptions],
    ) -> ToolRun[ParsedChatCompletion[T]]: ...
    @overload
    def run(
        self,
        *,
        response_format: object,
        stop_when: StopRunWhen | None = ...,
        **options: Unpack[AgentRunOptions],
    ) -> ToolRun[ParsedChatCompletion[Any]]: ...
    @spelled_out(RunAnswerOptions, AgentRunOptions, defaults=RUN)
    def run(self, **options: Any) -> ToolRun[Any]:
        """Let the agent's model call functions until it has an answer, like `Completions.run`."""
        check_options(options)
        run: ToolRun[Any] = self._begin_run(**options)
        return run


C = TypeVar("C", bound=_Completions)


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
