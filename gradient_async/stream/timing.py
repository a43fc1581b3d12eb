"""Durations of a stream."""

from __future__ import annotations

from array import array
from itertools import pairwise

import msgspec


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Durations of a stream, in seconds.

    Attributes:
        queued: Time waited for a free connection, if all of ``max_connections`` were in use.
        headers: Time from the sent request to the reply's headers.
        first_token: Time from the sent request to the first content; None if none has come yet.
        gaps: Times between reads that brought content; if each read brings one token, times between tokens.
        total: Time from the call to the end of the stream, or to now.
    """

    queued: float
    headers: float
    first_token: float | None
    gaps: list[float]
    total: float


class ReadTimes:
    """Clock readings of a stream, which take eight bytes each.

    Attributes:
        content_at: When each read that brought content returned, on the loop's clock.
        ended_at: When the stream ended, on the loop's clock; None before.
    """

    __slots__ = ("content_at", "ended_at")

    def __init__(self) -> None:
        self.content_at = array("d")
        self.ended_at: float | None = None

    def timing(self, started: float, queued: float, sent: float, received: float, now: float) -> Timing:
        """Return the durations. All times are on the loop's clock.

        Args:
            started: When the call was made.
            queued: Seconds that the request waited for a connection.
            sent: When the request was sent.
            received: When the reply's headers had arrived.
            now: The current time.
        """
        came = self.content_at
        return Timing(
            queued=queued,
            headers=received - sent,
            first_token=came[0] - sent if came else None,
            gaps=[later - earlier for earlier, later in pairwise(came)],
            total=(now if self.ended_at is None else self.ended_at) - started,
        )
