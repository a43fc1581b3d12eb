"""Virtual time: an event loop whose clock moves only while there is nothing to do.

A test with the fixture ``virtual_time`` runs in such a loop, and `time.monotonic` and `time.time` follow its clock. What the
test measures then depends on what the program waits for, and not on how busy the machine is. Client and server share
the loop, with sockets on loopback between them.
"""

from __future__ import annotations

import asyncio
import selectors

# Seconds of real time in which a socket must be ready for what was sent to it, even on a busy machine.
_DELIVERY = 0.002
_TICK = 1e-6  # seconds; without it, rounding errors could leave the clock before a timer for ever
_UNIX_TIME = 1_800_000_000.3  # any time; not a whole second, because some waits are rounded to whole seconds


class _Selector(selectors.DefaultSelector):
    """Moves the clock by the timeout in place of waiting for it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select()
        ready = super().select(min(timeout, _DELIVERY))
        if not ready and timeout > 0:
            self.now += timeout + _TICK
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, which begins at 0."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._virtual.now

    def unix_time(self) -> float:
        """Return a virtual Unix time in seconds."""
        return _UNIX_TIME + self._virtual.now
