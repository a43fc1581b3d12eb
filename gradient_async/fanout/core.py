"""What `client.chat.completions.fan_out` returns."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Self

from ..assembly import CompletionAssembler
from ..errors import GradientError
from ..stream import ChunkStream, Timing
from ..types import ChatCompletion, ChatCompletionChunk, RateLimits
from .fan import Fan
from .plan import FanOutResult

__all__ = ["FanOut"]


class FanOut(ChunkStream):
    """n choices of one prompt as one stream: chunks of all as they come, their choices numbered 0 to n - 1.

    Requests are sent on entering ``async with``, and what is under way is given up on leaving. Chunks keep
    the id of the completion that they came in; usage in a chunk is that of all requests so far. What one reply
    has by itself (its bytes, status and headers) the whole has not: `results` names the request of each choice.

    Args:
        fan: Runs it.
        assembler: Where chunks are added.
        buffered: Most that a reader who lags may leave queued, in characters.

    Raises:
        FanOutError: From iterating, unless errors are collected: choices failed, and the others were given
            up; raised once everything received has been given out.
    """

    def __init__(self, fan: Fan, assembler: CompletionAssembler, *, buffered: int) -> None:
        super().__init__(fan.merged, assembler, buffered=buffered)
        self._fan = fan

    async def completion(self) -> ChatCompletion:
        """Read to the end; return one completion with the choices that are whole, under their own indices.

        With ``stop_when`` or ``first`` these are the choices that were wanted, if as many came. Sends the
        requests if that was not done.

        Raises:
            FanOutError: If choices failed, unless errors are collected.
        """
        if not self._fan.begun:
            async with self:
                return await self.completion()
        merged = self._fan.merged
        if not self._cursor.filling:  # or somebody waits for chunks who would see none until the end
            merged.sink = self._drain
        try:
            completion = await super().completion()
        finally:
            merged.sink = None
        kept = self.winners if self._fan.enough() else [r.index for r in self.results if r.choice is not None]
        completion.choices = [choice for choice in completion.choices if choice.index in kept]
        return completion

    def _drain(self, chunks: list[ChatCompletionChunk]) -> None:
        """Pass chunks at once, while the end is waited for; readers of single choices get theirs."""
        self._cursor.take(chunks)

    @property
    def n(self) -> int:
        """How many choices were asked for."""
        return len(self._fan.results)

    @property
    def results(self) -> list[FanOutResult]:
        """What became of each choice so far, by index."""
        return list(self._fan.results)

    @property
    def errors(self) -> dict[int, GradientError]:
        """The errors so far, by index of the choice."""
        return {result.index: result.error for result in self._fan.results if result.error is not None}

    @property
    def winners(self) -> list[int]:
        """Indices of the choices that were wanted, by ``stop_when`` and ``first``, as they finished."""
        return list(self._fan.winners)

    @property
    def winner(self) -> int | None:
        """The first of the winners, or None."""
        return self._fan.winners[0] if self._fan.winners else None

    # What is known of it

    @property
    def request_id(self) -> str | None:
        """The server's name for the request that was answered first."""
        return self._fan.merged.request_id

    @property
    def request_ids(self) -> list[str | None]:
        """The server's names for the requests, by index of the choice."""
        return [result.request_id for result in self._fan.results]

    @property
    def rate_limits(self) -> RateLimits | None:
        """What the headers of the latest reply said of limits."""
        return self._fan.merged.rate_limits

    @property
    def attempts(self) -> int:
        """How many requests it took, of those that were answered."""
        return self._fan.merged.attempts

    @property
    def anomalies(self) -> int:
        """How many events of all replies only the tolerant path understood, or were skipped."""
        return self._fan.merged.anomalies

    @property
    def timing(self) -> Timing:
        """How long things took, in seconds, from the start of all."""
        return self._fan.merged.timing

    # Leaving

    async def aclose(self) -> None:
        """Give up what is under way; its connections are closed at once."""
        await self._fan.close()

    async def close(self) -> None:
        """The same as `aclose`."""
        await self._fan.close()

    async def __aenter__(self) -> Self:
        self._fan.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._fan.close()

    def __repr__(self) -> str:
        done = sum(result.state not in {"waiting", "running"} for result in self._fan.results)
        return f"<FanOut {done} of {self.n} choices done>"

    def __del__(self) -> None:
        # What __init__ could not finish has nothing to close.
        fan = getattr(self, "_fan", None)
        if fan is not None and fan.forgotten:
            fan.abandon()
            warnings.warn(
                f"{self!r} was dropped before its end; use 'async with', or call aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
