"""Tasks that wait while one of them reads for all."""

from __future__ import annotations

import asyncio

from .lanes import Lane

__all__ = ["Waiters"]


class Waiters:
    """Who waits: for chunks in a lane, or for whatever comes.

    Those with a lane are woken by what comes there, and one at a time to read on for all: were everyone woken for
    each chunk, it would cost the more the more readers there are.

    Attributes:
        all: All of them, in the order they came.
    """

    __slots__ = ("_loose", "all")

    def __init__(self) -> None:
        self.all: dict[asyncio.Future[None], None] = {}
        self._loose: list[asyncio.Future[None]] = []  # those without a lane

    async def wait(self, lane: Lane | None) -> None:
        """Wait until there may be something to take, or somebody has to read on.

        Args:
            lane: Where the chunks come that the caller waits for; None if any will do.
        """
        waiter = asyncio.get_running_loop().create_future()
        self.all[waiter] = None
        if lane is None:
            self._loose.append(waiter)
        else:
            lane.waiters.add(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.wake_one()  # it was woken, maybe to read on, and will not
            raise
        finally:
            del self.all[waiter]
            if lane is not None:
                lane.waiters.discard(waiter)

    def wake_one(self) -> None:
        """Wake who has waited longest."""
        for waiter in self.all:
            if not waiter.done():
                waiter.set_result(None)
                return

    def wake_loose(self) -> None:
        """Wake those who wait for whatever comes."""
        loose, self._loose = self._loose, []
        for waiter in loose:
            if not waiter.done():
                waiter.set_result(None)

    def wake_all(self) -> None:
        """Wake everyone."""
        self._loose.clear()
        for waiter in self.all:
            if not waiter.done():
                waiter.set_result(None)
