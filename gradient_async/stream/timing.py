"""Durations of a stream, and the content that restarts its time limits."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import pairwise
from operator import attrgetter

import msgspec

from ..types import ChatCompletionChunk, ChunkChoice, TextBatch
from ..types.messages import ANSWER_FIELDS


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


# Fields that are not content by their mere presence: a chunk that only keeps the connection open may repeat them.
_STATED = frozenset({"tool_calls", "function_call", "reasoning_details", "content_parts"})
_said = attrgetter(*(name for name in ANSWER_FIELDS if name not in _STATED))


class Content:
    """Tells the chunks of one stream that have content from the others.

    Text, reasoning, a refusal, arguments and media are content. A finish_reason, usage, the id and name of a tool call, and
    details of the reasoning are content only if the last chunk that had nothing else was not the same: a gateway that
    repeats such a chunk to keep the connection open does not say that the model is at work.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: ChatCompletionChunk | None = None

    def is_in(self, chunks: Iterable[ChatCompletionChunk]) -> bool:
        """Whether the next chunks of the stream have content."""
        if type(chunks) is TextBatch:
            return any(chunks.texts)
        for chunk in chunks:
            if any(map(_says_anything, chunk.choices)):
                return True
            if chunk.usage is not None or any(map(_states_anything, chunk.choices)):
                last, self._last = self._last, chunk
                if last is None or chunk.usage != last.usage or chunk.choices != last.choices:
                    return True
        return False


def _says_anything(choice: ChunkChoice) -> bool:
    delta = choice.delta
    calls = delta.tool_calls
    function = delta.function_call
    return bool(
        (calls is not None and any(call.function.arguments or call.custom for call in calls))
        or (function is not None and function.arguments)
        or any(_said(delta))
    )


def _states_anything(choice: ChunkChoice) -> bool:
    delta = choice.delta
    calls = delta.tool_calls
    function = delta.function_call
    return bool(
        choice.finish_reason is not None
        or (calls is not None and any(call.id or call.function.name or call.extra_content for call in calls))
        or (function is not None and function.name)
        or delta.reasoning_details
        or delta.content_parts
    )
