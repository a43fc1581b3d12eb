"""What `map` and `fan_out` of the completions are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigurationError
from ..fanout import MapResults, Pacer, Requests
from ..pacing import Pace
from ..types import NOT_GIVEN, ChatCompletion
from .options import count
from .replies import fetch, finish_completion

if TYPE_CHECKING:
    from .resources import CompletionsBase

__all__ = ["make_map"]

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
    if on_error not in {"collect", "raise"}:
        raise ConfigurationError(f'on_error={on_error!r}: expected "collect" or "raise"')
    most = count("max_concurrency", max_concurrency, least=1)
    kind = type(requests)
    if not hasattr(kind, "__iter__") and not hasattr(kind, "__aiter__"):
        raise TypeError(f"requests: expected an iterable or an async iterable, not {kind.__name__}")
    if issubclass(kind, (str, bytes, Mapping)):
        raise TypeError(f"requests: expected several requests, not one {kind.__name__}")

    async def perform(params: dict[str, Any], told: Callable[[Any], None]) -> ChatCompletion:
        streamed = params.pop("stream", stream)
        streamed = streamed is not NOT_GIVEN and bool(streamed)
        if streamed:
            params.setdefault("stream_options", {"include_usage": True})
        reply, n = await completions.send(params, stream=True if streamed else None, told=told)
        if not streamed:
            return await fetch(reply, completions.client.limits, finish_completion)
        async with completions.open_stream(reply, n, params.get("timeout", NOT_GIVEN)) as opened:
            return await opened.completion()

    return MapResults(
        requests,
        perform,
        pacer=make_pacer(completions, most, pace),
        most=most,
        window=_WINDOW * most if window is None else count("window", window, least=1),
        ordered=ordered,
        on_error=on_error,
        defaults=defaults,
    )


def make_pacer(completions: CompletionsBase, most: int, pace: Mapping[str, Any]) -> Callable[[], Pacer]:
    """Return what makes a pacer, once a loop runs.

    Args:
        completions: Whose client's settings to use.
        most: Requests under way at most.
        pace: ``requests_per_minute``, ``tokens_per_minute`` and ``adaptive``.

    Raises:
        ConfigurationError: If a rate is none.
    """
    for name in ("requests_per_minute", "tokens_per_minute"):
        value = pace[name]
        if value is not None and not (isinstance(value, (int, float)) and 0 < value < float("inf")):
            raise ConfigurationError(f"{name}={value!r} is not a positive number or None")
    most_wait = completions.client.retry.budget
    return lambda: Pacer(Pace(max_concurrency=most, most_wait=most_wait, **pace))
