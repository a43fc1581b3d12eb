"""`Gradient` and its resources."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from ..client.client import INTERNAL, AsyncGradient, Attributes, conceal, core_of, resource
from ..client.completions import AgentCompletions as AsyncAgentCompletions
from ..client.completions import Completions as AsyncCompletions
from ..client.core import check_options
from ..client.hints import (
    AGENTS,
    CLIENT,
    MODELS,
    RAW,
    CompletionsHints,
    Hinted,
    check_assignment,
    without_asyncio,
)
from ..client.methods import FAN_OUT, MAP, RUN, Form, Schema, StopWhenParsed, check_requests
from ..client.models import Models as AsyncModels
from ..client.options import (
    AgentFanOutOptions,
    AgentParseOptions,
    AgentRunOptions,
    AnswerOptions,
    ChatFanOutOptions,
    ChatParseOptions,
    ChatRunOptions,
    FanOutAnswerOptions,
    MapOptions,
)
from ..client.parameters import spelled_out
from ..fanout import Requests, StopWhen
from ..types import (
    AgentCompletionCreate,
    AgentCompletionParse,
    ChatCompletion,
    ChatCompletionCreate,
    ChatCompletionParse,
    Hint,
    ModelList,
    NotGiven,
    ParsedChatCompletion,
    is_given,
)
from .loop import Process, loop_thread
from .requests import MapResults, ask, feed
from .run import ToolRun
from .streams import Closing, FanOut, ParsedStream, Stream, StreamManager, close_here, request

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


def _like(
    function: Callable[Concatenate[Any, P], Any],
) -> Callable[[Callable[Concatenate[S, ...], T]], Callable[Concatenate[S, P], T]]:
    """Give a method the parameters of a method for asyncio, for type checkers and for `help`."""

    def decorate(method: Callable[Concatenate[S, ...], T]) -> Callable[Concatenate[S, P], T]:
        method.__wrapped__ = function  # type: ignore[attr-defined]
        # `get_type_hints` evaluates these annotations with the names in the module of `function`, because of `__wrapped__`.
        method.__annotations__ = function.__annotations__
        return method

    return decorate


class _SyncCompletions(CompletionsHints):
    """The methods that completions of models and agents share."""

    if not TYPE_CHECKING:
        with_raw_response = Hint(RAW["with_raw_response"])
        with_streaming_response = Hint(RAW["with_streaming_response"])

    def __init__(self, completions: AsyncCompletions | AsyncAgentCompletions) -> None:
        self._completions: Any = completions  # the subclasses declare the types of parameters

    def _create(self, params: dict[str, Any], stream: Any) -> Any:
        # `check_options` hides keys in the dictionary, because a traceback may show the locals of this frame.
        check_options(params)
        loop = loop_thread()
        return loop.call(
            request, loop, partial(self._completions.create, stream=stream, **params), undo=close_here
        )

    def _parse(self, params: dict[str, Any]) -> ParsedChatCompletion[Any]:
        check_options(params)
        call = partial(self._completions.parse, **params)
        return cast("ParsedChatCompletion[Any]", loop_thread().call(call))

    def _stream(self, params: dict[str, Any]) -> StreamManager[Any]:
        check_options(params)
        return StreamManager(self._completions.stream(**params).__aenter__)

    def _fan_out(self, options: dict[str, Any]) -> FanOut[Any]:
        stop_when = options.get("stop_when")
        if stop_when is not None and is_given(stop_when):
            options["stop_when"] = partial(ask, stop_when)
        return FanOut(self._completions.fan_out(**options), loop_thread())

    def _run(self, options: dict[str, Any]) -> ToolRun[Any]:
        check_options(options)
        on_tool_error = options.get("on_tool_error")
        if callable(on_tool_error):
            options["on_tool_error"] = partial(ask, on_tool_error)
        return ToolRun(self._completions.run(**options).state, self, loop_thread())

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
    @spelled_out(AnswerOptions, MapOptions, defaults=MAP)
    def map(self, /, requests: Requests, **options: Any) -> MapResults[Any]:
        """Make many requests, a limited number at a time; iterate over the results as they finish.

        The iterable may block: a thread of its own takes the requests from it, as they are needed, while results are
        returned. Only a list or a tuple needs no thread.

        Args:
            requests: Parameters of each request, or pairs of your own key and parameters; any iterable or
                async iterable.
            **options: Options, and parameters for requests that do not give them.
        """
        check_options(options)
        check_requests(requests)
        if not isinstance(requests, AsyncIterable) and type(requests) not in {list, tuple}:
            requests = feed(iter(requests))
        return MapResults(self._completions.map(requests, **options), loop_thread())


class Completions(_SyncCompletions):
    """Chat completions of models; see `client.completions.Completions` for results and errors."""

    @overload
    def create(
        self, *, stream: Literal[False] | None = ..., **params: Unpack[ChatCompletionCreate]
    ) -> ChatCompletion: ...
    @overload
    def create(self, *, stream: Literal[True], **params: Unpack[ChatCompletionCreate]) -> Stream: ...
    @overload
    def create(self, *, stream: bool, **params: Unpack[ChatCompletionCreate]) -> ChatCompletion | Stream: ...
    @spelled_out(ChatCompletionCreate)
    def create(self, *, stream: bool | NotGiven | None = None, **params: Any) -> ChatCompletion | Stream:
        """Request a completion; results and errors are those of ``create`` for asyncio.

        Args:
            stream: Whether to get the completion as it is generated.
            **params: Parameters of the request, and options for sending it.
        """
        return cast("ChatCompletion | Stream", self._create(params, stream))

    @overload
    def parse(
        self, *, response_format: Schema = ..., **params: Unpack[ChatParseOptions]
    ) -> ParsedChatCompletion[None]: ...
    @overload
    def parse(
        self, *, response_format: Form[T], **params: Unpack[ChatParseOptions]
    ) -> ParsedChatCompletion[T]: ...
    @overload
    def parse(
        self, *, response_format: object, **params: Unpack[ChatParseOptions]
    ) -> ParsedChatCompletion[Any]: ...
    @spelled_out(AnswerOptions, ChatParseOptions)
    def parse(self, **params: Any) -> ParsedChatCompletion[Any]:
        """Request a typed answer; results and errors are those of ``parse`` for asyncio."""
        return self._parse(params)

    @overload
    def stream(
        self, *, response_format: Schema = ..., **params: Unpack[ChatCompletionParse]
    ) -> StreamManager: ...
    @overload
    def stream(
        self, *, response_format: Form[T], **params: Unpack[ChatCompletionParse]
    ) -> StreamManager[ParsedStream[T]]: ...
    @overload
    def stream(
        self, *, response_format: object, **params: Unpack[ChatCompletionParse]
    ) -> StreamManager[Any]: ...
    @spelled_out(AnswerOptions, ChatCompletionParse)
    def stream(self, **params: Any) -> StreamManager[Any]:
        """Stream a completion: ``with client.chat.completions.stream(...) as stream``."""
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
        """Generate n choices for one prompt: ``with client.chat.completions.fan_out(n=8, ...) as fan``."""
        return self._fan_out(options)

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
        """Let the model call functions until it has an answer: ``with client.chat.completions.run(...) as run``."""
        return self._run(options)


class AgentCompletions(_SyncCompletions):
    """Chat completions of an agent; see `client.completions.AgentCompletions` for results and errors."""

    @overload
    def create(
        self, *, stream: Literal[False] | None = ..., **params: Unpack[AgentCompletionCreate]
    ) -> ChatCompletion: ...
    @overload
    def create(self, *, stream: Literal[True], **params: Unpack[AgentCompletionCreate]) -> Stream: ...
    @overload
    def create(self, *, stream: bool, **params: Unpack[AgentCompletionCreate]) -> ChatCompletion | Stream: ...
    @spelled_out(AgentCompletionCreate)
    def create(self, *, stream: bool | NotGiven | None = None, **params: Any) -> ChatCompletion | Stream:
        """Request a completion from the agent.

        Args:
            stream: Whether to get the completion as it is generated.
            **params: Parameters of the request, and options for sending it.
        """
        return cast("ChatCompletion | Stream", self._create(params, stream))

    @overload
    def parse(
        self, *, response_format: Schema = ..., **params: Unpack[AgentParseOptions]
    ) -> ParsedChatCompletion[None]: ...
    @overload
    def parse(
        self, *, response_format: Form[T], **params: Unpack[AgentParseOptions]
    ) -> ParsedChatCompletion[T]: ...
    @overload
    def parse(
        self, *, response_format: object, **params: Unpack[AgentParseOptions]
    ) -> ParsedChatCompletion[Any]: ...
    @spelled_out(AnswerOptions, AgentParseOptions)
    def parse(self, **params: Any) -> ParsedChatCompletion[Any]:
        """Request a typed answer from the agent."""
        return self._parse(params)

    @overload
    def stream(
        self, *, response_format: Schema = ..., **params: Unpack[AgentCompletionParse]
    ) -> StreamManager: ...
    @overload
    def stream(
        self, *, response_format: Form[T], **params: Unpack[AgentCompletionParse]
    ) -> StreamManager[ParsedStream[T]]: ...
    @overload
    def stream(
        self, *, response_format: object, **params: Unpack[AgentCompletionParse]
    ) -> StreamManager[Any]: ...
    @spelled_out(AnswerOptions, AgentCompletionParse)
    def stream(self, **params: Any) -> StreamManager[Any]:
        """Stream the agent's completion."""
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
        """Generate n choices by the agent."""
        return self._fan_out(options)

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
        """Let the agent's model call functions until it has an answer."""
        return self._run(options)


C = TypeVar("C", bound=_SyncCompletions)


class Chat(Generic[C]):
    """`client.chat` and `client.agents.chat`."""

    def __init__(self, completions: C) -> None:
        self.completions = completions


class Agents(Hinted):
    """`client.agents`."""

    _hints = {**without_asyncio(AGENTS), **RAW}

    def __init__(self, completions: AsyncAgentCompletions) -> None:
        self.chat = Chat(AgentCompletions(completions))


class Models(Hinted):
    """`client.models`."""

    _hints = {**without_asyncio(MODELS), **RAW}

    def __init__(self, models: AsyncModels) -> None:
        self._models = models

    @_like(AsyncModels.list)
    def list(self, **options: Any) -> ModelList:
        """List the models that the key may use; the list can be iterated over."""
        check_options(options)  # hides keys in the dictionary: see `_create`
        return cast("ModelList", loop_thread().call(partial(self._models.list, **options)))


class Gradient(Closing, Attributes, Hinted):
    """`AsyncGradient` without asyncio: the same options, attributes, methods and errors, and calls that block.

    A client can be used in several threads, in notebooks, inside coroutines (where it blocks the event loop), and after
    a fork. Ctrl-C cancels a call. Hooks run in the client's own thread, and must not make calls with a `Gradient`.

    Raises:
        ConfigurationError: If an option can't be used. If the key is missing, the first call raises.
        TypeError: If ``session`` is given: an aiohttp session belongs to one event loop, and this client runs its own.
    """

    _hints = {**without_asyncio(CLIENT), **RAW}
    _client: AsyncGradient

    # The class has these attributes so that `create_autospec(Gradient)` has them.
    chat: Chat[Completions] = resource("chat")
    agents: Agents = resource("agents")
    models: Models = resource("models")

    @_like(AsyncGradient.__init__)
    @conceal
    def __init__(self, **options: Any) -> None:
        if options.get("session") is not None:
            raise TypeError(
                "session: an aiohttp session belongs to one event loop, and Gradient runs its own; leave it out"
            )
        self._use(AsyncGradient(**options))

    def _use(self, client: AsyncGradient) -> None:
        self._client = client
        # Attributes such as `base_url` are read from and written to the core, which the asynchronous client has too.
        self._core, self._previous = core_of(client), {}
        self._resources = self._make_resources()

    def _make_resources(self) -> dict[str, Any]:
        client = self._client
        return {
            "chat": Chat(Completions(client.chat.completions)),
            "agents": Agents(client.agents.chat.completions),
            "models": Models(client.models),
        }

    @_like(AsyncGradient.with_options)
    @conceal
    def with_options(self, **options: Any) -> Gradient:
        """Return a copy of the client that has some options changed and shares the connections.

        Closing the copy closes nothing. The arguments are those of ``with_options`` for asyncio.

        Raises:
            ConfigurationError: If an option can't be used.
        """
        copy = object.__new__(type(self))
        vars(copy).update(vars(self))  # copies the attributes that a subclass may have
        copy._use(self._client.with_options(**options))
        return copy

    copy = with_options

    def __copy__(self) -> Gradient:
        return self.with_options()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in INTERNAL}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._use(self._client)

    def close(self) -> None:
        """Close the connections and every open stream; on a copy, do nothing."""
        if not Process.ended:
            loop_thread().call(self._client.close)

    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._client.is_closed()

    if not TYPE_CHECKING:  # with `__setattr__`, type checkers would accept every name

        @conceal
        def __setattr__(self, name: str, value: object) -> None:
            check_assignment(name)
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        # A traceback may show this repr while `__init__` runs and has not set the client.
        client = vars(self).get("_client")
        return f"<Gradient {'unfinished' if client is None else client.base_url}>"
