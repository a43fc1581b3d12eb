"""What a fan-out is to do, and what becomes of each choice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

import msgspec

from ..errors import GradientError
from ..types import Choice

__all__ = ["FanOutResult", "Plan", "State", "StopWhen"]

State: TypeAlias = Literal["waiting", "running", "completed", "failed", "stopped"]
StopWhen: TypeAlias = Callable[[Choice], bool | Awaitable[bool]]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a fan-out is to do.

    Attributes:
        n: How many choices.
        streamed: Whether to stream them.
        native: Whether to ask for all in one request; ``"auto"`` makes requests for those that do not come.
        raising: Whether the first error ends it.
        stop_when: Whether a finished choice is what was wanted, or None.
        wanted: How many such choices end it, or None.
        hedge_after: Seconds without content after which a second request races the first, or None.
    """

    n: int
    streamed: bool
    native: bool | Literal["auto"]
    raising: bool
    stop_when: StopWhen | None
    wanted: int | None
    hedge_after: float | None


class FanOutResult(msgspec.Struct, kw_only=True):
    """What became of one choice.

    Attributes:
        index: Which choice.
        state: ``"waiting"`` for its turn, ``"running"``, ``"completed"``, ``"failed"``, or ``"stopped"`` because
            others were enough or failed.
        choice: The choice, once it is whole.
        id: The completion that it came in, or "".
        request_id: The server's name for its request, or None.
        requests: How many requests were made for it: two, if a second one raced the first.
        error: Why it failed, or None.
    """

    index: int
    state: State = "waiting"
    choice: Choice | None = None
    id: str = ""
    request_id: str | None = None
    requests: int = 0
    error: GradientError | None = None
