"""The common implementation of the methods for models and agents; `completions.py` has their signatures."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, Unpack, overload

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
from ..stream import ChatCompletionStream, StreamManager
from ..types import (
    NOT_GIVEN,
    ChatCompletion,
    ParsedChatCompletion,
    ParsedChoice,
    given,
    is_given,
)
from .answers import check_retries, described_tools, parse, refuse_retries, typed_arguments
from .core import OPTIONS, Core, Operation, check_options, read_reply
from .hints import CompletionsHints
from .options import AnswerOptions, MapOptions
from .parameters import spelled_out
from .raw import RawCompletions, StreamingCompletions
from .run import OnToolError, ToolRun, start_run
from .run import StopWhen as StopRunWhen
from .settings import check_choice, check_count, check_function, check_kind

P = ParamSpec("P")
T = TypeVar("T")

# What ``response_format`` may be, for type checkers. They see any other type, such as a union, only as an object.
Schema: TypeAlias = Mapping[str, Any] | None
Form: TypeAlias = type[T] | Answer[T]
StopWhenParsed: TypeAlias = Callable[[ParsedChoice[T]], bool | Awaitable[bool]]

# The default window of `map` is this many times its concurrency: a slow reader or, if results are ordered, a slow
# request does not stop the other requests at once.
_WINDOW = 4


def _called_as(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Wrap the implementation of a public method: `NOT_GIVEN` means the default, and keys in headers are hidden.

    Python's error about a missing argument then names the public method.
    """

    def wrapped(function: Callable[P, T]) -> Callable[P, T]:
        function.__qualname__ = name

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            check_options(kwargs)
            return function(*args, **given(kwargs))

        return called

    return wrapped


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


class BaseCompletions(CompletionsHints):
    """The methods that completions of models and agents share; they differ only in the types of their parameters."""

    _operation: Operation

    def __init__(self, core: Core) -> None:
        self._core = core

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
        refuse_retries(arguments)
        check_options(arguments)  # hides keys, because a traceback may show the locals of this frame
        answer = take_answer(arguments)
        _ask_for_usage(arguments)

        async def start() -> ChatCompletionStream:
            reply = await self._core.send(self._operation, arguments, stream=True)
            return self._core.open_stream(reply, arguments, answer)

        return StreamManager(start)

    @_called_as("map")
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
        self._check_names(defaults, BaseCompletions._map)
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
        self, /, requests: Requests, *, response_format: Schema = ..., **options: Unpack[MapOptions]
    ) -> MapResults: ...
    @overload
    def map(
        self, /, requests: Requests, *, response_format: Form[T], **options: Unpack[MapOptions]
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

        If ``response_format`` is a type, each completion is a `ParsedChatCompletion`, and an answer that is not a value of
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

    @_called_as("fan_out")
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
        refuse_retries(params)
        self._check_names(params, BaseCompletions._fan_out)
        check_count("n", n, min_=1)
        check_choice("on_error", on_error, "collect", "raise")
        if native not in {True, False, "auto"}:
            raise ConfigurationError(f'native={native!r}: expected True, False or "auto"')
        check_function("stop_when", stop_when)
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
            # The limit applies to one reply, and the fan-out assembles n replies into one completion.
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

    @_called_as("run")
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
        refuse_retries(params)
        self._check_names(params, BaseCompletions._begin_run)
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
            redact=functools.partial(self._core.redact, self._operation, params),
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
        # The method's own options are never in `params`. They are passed so that an error about a misspelt name can suggest
        # them.
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


# The keyword arguments of these functions have the defaults of the public methods. `spelled_out` reads them for the signatures.
MAP, FAN_OUT, RUN = (vars(BaseCompletions)[name] for name in ("_map", "_fan_out", "_begin_run"))


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
