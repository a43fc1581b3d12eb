"""What `map` and `fan_out` of the completions are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ..assembly import CompletionAssembler
from ..errors import ConfigurationError
from ..fanout import (
    FanOut,
    FanOutOptions,
    FanOutRunner,
    MapResults,
    MapWorkers,
    RateLimiter,
    Requests,
    StopWhen,
    StreamedReply,
)
from ..policy.pace import Schedule
from ..session.call import Lease
from ..stream import Source
from ..types import NOT_GIVEN, ChatCompletion, NotGiven
from .options import count
from .replies import fetch, finish_completion

if TYPE_CHECKING:
    from .base import CompletionsBase

__all__ = ["make_fan", "make_map"]

# Results that may wait for their reader, for each request under way.
_WINDOW = 4


def make_map(
    completions: CompletionsBase,
    requests: Requests,
    *,
    max_concurrency: int,
    ordered: bool,
    on_error: Literal["collect", "raise"],
    window: int | None,
    pace: Mapping[str, Any],
    stream: bool,
    defaults: Mapping[str, Any],
) -> MapResults:
    """Make the results of many requests; see `Completions.map`.

    Raises:
        ConfigurationError: If an option can't be used.
        TypeError: If the requests are no iterable.
    """
    check_on_error(on_error)
    most = count("max_concurrency", max_concurrency, least=1)
    kind = type(requests)
    if not hasattr(kind, "__iter__") and not hasattr(kind, "__aiter__"):
        raise TypeError(f"requests: expected an iterable or an async iterable, not {kind.__name__}")
    if issubclass(kind, (str, bytes, Mapping)):
        raise TypeError(f"requests: expected several requests, not one {kind.__name__}")

    async def perform(params: dict[str, Any], lease: Lease) -> ChatCompletion:
        streamed = params.pop("stream", stream)
        streamed = streamed is not NOT_GIVEN and bool(streamed)
        if streamed and isinstance(params.get("stream_options", NOT_GIVEN), NotGiven):
            params["stream_options"] = {"include_usage": True}
        reply, n = await completions.send(params, stream=True if streamed else None, lease=lease)
        if not streamed:
            return await fetch(reply, completions.client.limits, finish_completion)
        async with completions.open_stream(reply, n, params.get("timeout", NOT_GIVEN)) as opened:
            return await opened.completion()

    workers = MapWorkers(
        requests,
        perform,
        rate_limiter=make_rate_limiter(completions, most, pace),
        max_concurrency=most,
        window=_WINDOW * most if window is None else count("window", window, least=1),
        ordered=ordered,
        raise_errors=on_error == "raise",
        defaults=defaults,
    )
    return MapResults(workers)


def make_fan(
    completions: CompletionsBase,
    *,
    n: int,
    max_concurrency: int | None,
    stream: bool,
    native: bool | Literal["auto"],
    on_error: Literal["collect", "raise"],
    stop_when: StopWhen | None,
    first: int | None,
    hedge_after: float | None,
    pace: Mapping[str, Any],
    params: dict[str, Any],
) -> FanOut:
    """Make a fan-out; see `Completions.fan_out`.

    Raises:
        ConfigurationError: If an option can't be used.
    """
    count("n", n, least=1)
    check_on_error(on_error)
    if native not in {True, False, "auto"}:
        raise ConfigurationError(f'native={native!r}: expected True, False or "auto"')
    if first is not None and count("first", first, least=1) > n:
        raise ConfigurationError(f"first={first}: there are no more than n={n} choices")
    if hedge_after is not None and not 0 < hedge_after < float("inf"):
        raise ConfigurationError(f"hedge_after={hedge_after!r} is not a positive number of seconds or None")
    most = n if max_concurrency is None else count("max_concurrency", max_concurrency, least=1)
    if stream and isinstance(params.get("stream_options", NOT_GIVEN), NotGiven):
        params = {**params, "stream_options": {"include_usage": True}}
    limits = completions.client.limits
    if limits.completion_bytes is not None:
        # What one request may bring, each of them may.
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
    )
    requester = FanOutRequester(completions, params)
    runner = FanOutRunner(options, params, requester, make_rate_limiter(completions, most, pace), assembler)
    return FanOut(runner, assembler, buffered=limits.buffered_bytes)


class FanOutRequester:
    """Sends the requests of a fan-out.

    Args:
        completions: The resource whose client sends them.
        params: Parameters of each.
    """

    def __init__(self, completions: CompletionsBase, params: Mapping[str, Any]) -> None:
        self._completions = completions
        self._params = params

    def _arguments(self, n: int | None) -> dict[str, Any]:
        return {**self._params} if n is None else {**self._params, "n": n}

    async def stream(self, n: int | None, expect: int, lease: Lease) -> StreamedReply:
        """Send a streamed request."""
        client = self._completions.client
        reply, _ = await self._completions.send(self._arguments(n), stream=True, lease=lease)
        timeout = self._params.get("timeout", NOT_GIVEN)
        assembler = CompletionAssembler(n=expect, limits=client.limits, strict=client.strict)
        reader = Source(
            reply,
            assembler,
            n=expect,
            timeout=client.timeout if isinstance(timeout, NotGiven) else type(client.timeout).of(timeout),
            limits=client.limits,
            strict=client.strict,
            on_bad_event=client.on_bad_event,
        )
        return StreamedReply(reply, reader, assembler)

    async def fetch(self, n: int | None, lease: Lease) -> ChatCompletion:
        """Send an awaited request."""
        reply, _ = await self._completions.send(self._arguments(n), stream=None, lease=lease)
        return await fetch(reply, self._completions.client.limits, finish_completion)


def check_on_error(on_error: str) -> None:
    """Raise if it is no policy for errors."""
    if on_error not in {"collect", "raise"}:
        raise ConfigurationError(f'on_error={on_error!r}: expected "collect" or "raise"')


def make_rate_limiter(
    completions: CompletionsBase, max_concurrency: int, pace: Mapping[str, Any]
) -> Callable[[], RateLimiter]:
    """Return what makes a rate limiter, once a loop runs.

    Args:
        completions: The resource whose client's settings to use.
        max_concurrency: Most requests in flight.
        pace: ``requests_per_minute``, ``tokens_per_minute`` and ``adaptive``.

    Raises:
        ConfigurationError: If a rate is not positive.
    """
    for name in ("requests_per_minute", "tokens_per_minute"):
        value = pace[name]
        if value is not None and not (isinstance(value, (int, float)) and 0 < value < float("inf")):
            raise ConfigurationError(f"{name}={value!r} is not a positive number or None")
    max_wait = completions.client.retry.budget
    return lambda: RateLimiter(Schedule(max_concurrency=max_concurrency, max_wait=max_wait, **pace))
