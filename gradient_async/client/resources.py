"""`client.chat.completions` and `client.agents.chat.completions`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, overload

from ..config import hide_headers
from ..decoding import check_params, encode_request
from ..stream import ChatCompletionStream, StreamManager
from ..types import (
    NOT_GIVEN,
    AgentCompletionCreate,
    AgentFanOut,
    ChatCompletion,
    ChatCompletionCreate,
    ChatFanOut,
    NotGiven,
)
from .options import check_mappings
from .replies import fetch, finish_completion

if TYPE_CHECKING:
    from ..call import Permit
    from ..fanout import FanOut, MapResults, Requests, StopWhen
    from ..session import Reply
    from .core import AsyncGradient
    from .raw import RawAgents, RawChat, RawCompletions, StreamingChat, StreamingCompletions

__all__ = ["AgentChat", "AgentCompletions", "Agents", "Chat", "Completions", "CompletionsBase", "flag"]

_PATH = "/chat/completions"
_OPTIONS = frozenset({"extra_headers", "extra_query", "extra_body", "timeout"})


class CompletionsBase:
    """What completions of models and of agents have in common.

    Args:
        client: Whose settings and connections to use.
    """

    agent = False

    def __init__(self, client: AsyncGradient) -> None:
        self.client = client

    async def send(
        self,
        arguments: dict[str, Any],
        *,
        stream: bool | None,
        permit: Permit | None = None,
    ) -> tuple[Reply, int]:
        """Check the arguments and send the request.

        Args:
            arguments: Keyword arguments but for ``stream``.
            stream: Value of ``stream``; None leaves it out.
            permit: Who lets its attempts go, or None.

        Returns:
            The reply, its body unread, and how many choices were asked for.
        """
        client = self.client
        options: dict[str, Any] = {}
        params = arguments
        if not _OPTIONS.isdisjoint(arguments):
            check_mappings(arguments)
            if (
                "extra_headers" in arguments
            ):  # the same object as the caller's, for tracebacks that show locals
                arguments["extra_headers"] = hide_headers(arguments["extra_headers"])
            options = {name: arguments[name] for name in _OPTIONS if name in arguments}
            params = {name: value for name, value in arguments.items() if name not in options}
        extra = options.get("extra_body") or None
        if extra is not None:
            # What extra_body brings need not be given twice; it goes unchecked.
            params = {name: value for name, value in params.items() if name not in extra}
        validate = client.validate and not (extra is not None and {"messages", "model"} & extra.keys())
        params = check_params(params, stream=bool(stream), agent=self.agent, validate=validate)
        body = encode_request(params, stream=stream, extra_body=extra)
        call = client._prepare(  # noqa: SLF001  # one package
            "POST",
            _PATH,
            agent=self.agent,
            body=body,
            stream=bool(stream),
            options=options,
            params=params,
            permit=permit,
        )
        n = (extra or params).get("n", params.get("n"))
        return await client._send(call), n if isinstance(n, int) and n > 0 else 1  # noqa: SLF001  # one package

    def open_stream(self, reply: Reply, n: int, timeout: Any) -> ChatCompletionStream:
        """Make the stream of a reply."""
        client = self.client
        return ChatCompletionStream(
            reply,
            n=n,
            timeout=client.timeout if isinstance(timeout, NotGiven) else type(client.timeout).of(timeout),
            limits=client.limits,
            strict=client.strict,
            on_bad_event=client.on_bad_event,
        )

    async def _create(
        self, arguments: dict[str, Any], *, stream: bool | None
    ) -> ChatCompletion | ChatCompletionStream:
        reply, n = await self.send(arguments, stream=stream)
        if stream:
            return self.open_stream(reply, n, arguments.get("timeout", NOT_GIVEN))
        return await fetch(reply, self.client.limits, finish_completion)

    def _stream(self, arguments: dict[str, Any]) -> StreamManager:
        if "stream" in arguments:
            raise TypeError("stream() always streams: leave 'stream' out")
        if isinstance(arguments.get("stream_options", NOT_GIVEN), NotGiven):
            arguments["stream_options"] = {"include_usage": True}

        async def start() -> ChatCompletionStream:
            reply, n = await self.send(arguments, stream=True)
            return self.open_stream(reply, n, arguments.get("timeout", NOT_GIVEN))

        return StreamManager(start)

    def map(
        self,
        requests: Requests,
        *,
        max_concurrency: int = 64,
        ordered: bool = False,
        on_error: Literal["collect", "raise"] = "collect",
        window: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        adaptive: bool = False,
        stream: bool = False,
        **defaults: Any,
    ) -> MapResults:
        """Make many requests, so many at a time; iterate over the results as they finish.

        Requests are pulled as they are needed, never more than ``window`` ahead of the results taken: a
        million of them fit in little memory. What the server says of its limits is obeyed: new requests
        wait for the next window where it says that nothing is left of this one.

        Args:
            requests: Parameters of each request, or pairs of a key of yours and parameters; any iterable or
                async iterable.
            max_concurrency: Requests under way at a time.
            ordered: Give results in the order of the requests and not as they finish.
            on_error: ``"collect"`` gives each error in the place of its result; ``"raise"`` gives up the
                rest at the first error, and raises once the results before it are taken.
            window: How many may be under way or finished and not yet taken; 4 times ``max_concurrency``
                if None.
            requests_per_minute: Requests in any minute, evenly spaced.
            tokens_per_minute: Tokens in a minute; guessed before a request, put right by its usage.
            adaptive: Find out how many at a time the server sustains, ``max_concurrency`` at most: more
                while replies are clean, half as many when it answers 429 or stalls.
            stream: Stream each reply, so that the limits on stalls apply and errors have a ``partial``.
            **defaults: Parameters of every request that does not give its own.

        Returns:
            An async iterator of `MapResult`. Leaving the loop gives up what is under way.

        Raises:
            ConfigurationError: If an option can't be used.
            FanOutError: From iterating, with ``on_error="raise"``.
        """
        from .many import make_map  # noqa: PLC0415  # few need it

        return make_map(
            self,
            requests,
            max_concurrency=max_concurrency,
            ordered=ordered,
            on_error=on_error,
            window=window,
            pace={
                "requests_per_minute": requests_per_minute,
                "tokens_per_minute": tokens_per_minute,
                "adaptive": adaptive,
            },
            stream=stream,
            defaults=defaults,
        )

    def _fan_out(self, **options: Any) -> FanOut:
        from .many import make_fan  # noqa: PLC0415  # few need it

        return make_fan(self, **options)


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


def flag(stream: Any) -> bool | None:
    """Return the value of ``stream`` to send; None leaves it out."""
    return None if isinstance(stream, NotGiven) else stream
