"""What `client.chat.completions.map` returns."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from .many import MapResult, Run

__all__ = ["MapResults"]


class MapResults:
    """Results of many requests: an async iterator.

    Once nobody holds it any more, as when the loop that it was made for is left by break, exception or
    cancellation, what is under way is given up. ``async with`` does so at a moment that you choose, and waits
    until an async generator of yours, if the requests come from one, is closed too. Several tasks may share
    the iterator.

    Args:
        run: Makes the requests, and has their results.
    """

    def __init__(self, run: Run) -> None:
        # Its tasks know the run and not this object, so that dropping it can end them.
        self._run = run

    def __aiter__(self) -> MapResults:
        return self

    async def __anext__(self) -> MapResult:
        return await self._run.next()

    def drain(self) -> None:
        """Send nothing more: the results of what is under way still come, and then the end.

        Requests that were pulled and wait for their turn, or wait to be sent again, are given up without a
        result.
        """
        self._run.drain()

    async def aclose(self) -> None:
        """Give up what is under way, and wait until it is gone."""
        await self._run.close()

    async def close(self) -> None:
        """The same as `aclose`."""
        await self._run.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._run.close()

    def __del__(self) -> None:
        run = getattr(self, "_run", None)
        if run is not None:
            run.abandon()
