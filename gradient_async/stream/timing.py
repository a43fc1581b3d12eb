"""How long things took."""

from __future__ import annotations

from array import array
from itertools import pairwise

import msgspec


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long things took, in seconds.

    Attributes:
        queued: Waited for a free connection, where all of ``max_connections`` were in use.
        headers: From the request sent to the reply's headers.
        first_token: From the request sent to the first content; None if none came yet.
        gaps: Between reads that brought content: between tokens, where each comes in a read of its own.
        total: From the call to the end of the stream, or to now.
    """

    queued: float
    headers: float
    first_token: float | None
    gaps: list[float]
    total: float


class ReadTimes:
    """Clock readings of a stream as it comes; eight bytes for each that is kept.

    Attributes:
        content_at: When reads returned that brought content, on the loop's clock.
        ended_at: When the stream ended; None before.
    """

    __slots__ = ("content_at", "ended_at")

    def __init__(self) -> None:
        self.content_at = array("d")
        self.ended_at: float | None = None

    def timing(self, started: float, queued: float, sent: float, received: float, now: float) -> Timing:
        """Sum up.

        Args:
            started: When the call was made, on the loop's clock.
            queued: Seconds that the request waited for a connection.
            sent: When the request was sent.
            received: When the reply's headers were there.
            now: The loop's clock.
        """
        came = self.content_at
        return Timing(
            queued=queued,
            headers=received - sent,
            first_token=came[0] - sent if came else None,
            gaps=[later - earlier for earlier, later in pairwise(came)],
            total=(now if self.ended_at is None else self.ended_at) - started,
        )
