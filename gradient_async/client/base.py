"""What completions of models and of agents have in common: how a request is made of arguments, and sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ..decoding import check_params, encode_request
from ..secrets import hide_headers
from ..stream import ChatCompletionStream, StreamManager
from ..types import NOT_GIVEN, ChatCompletion, NotGiven
from .options import check_mappings
from .replies import fetch, finish_completion

if TYPE_CHECKING:
    from ..fanout import FanOut, MapResults, Requests
    from ..session.call import Lease
    from ..session.reply import Reply
    from .core import AsyncGradient

__all__ = ["CompletionsBase", "flag"]

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
        lease: Lease | None = None,
    ) -> tuple[Reply, int]:
        """Check the arguments and send the request.

        Args:
            arguments: Keyword arguments but for ``stream``.
            stream: Value of ``stream``; None leaves it out.
            lease: The lease of a rate limiter, or None.

        Returns:
            The reply, its body unread, and how many choices were asked for.
        """
        client = self.client
        options: dict[str, Any] = {}
        params = arguments
        if not _OPTIONS.isdisjoint(arguments):
            check_mappings(arguments)
            if "extra_headers" in arguments:
                # In the caller's own dictionary: a traceback may show the locals of both.
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
            lease=lease,
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


def flag(stream: Any) -> bool | None:
    """Return the value of ``stream`` to send; None leaves it out."""
    return None if isinstance(stream, NotGiven) else stream
