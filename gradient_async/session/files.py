"""Lets calls wait while this process has too many open files, which is a local limit and not a fault of the server."""

from __future__ import annotations

import asyncio
import errno
import math
import socket
import weakref
from collections import OrderedDict

import aiohttp

from .deadlines import AttemptProgress
from .exceptions import origins
from .trace import log

_SHORT = frozenset({errno.EMFILE, errno.ENFILE})
# Seconds between two attempts to open a file. Other parts of the program may close files without notice.
_LOOK_EVERY = 0.05
_LOG_EVERY = 60.0  # seconds between two warnings in the log


def lacks_files(error: OSError) -> bool:
    """Whether a connection could not be made because this process, or its system, has too many open files."""
    if any(isinstance(origin, OSError) and origin.errno in _SHORT for origin in origins(error)):
        return True
    # Two errors do not name the reason. A resolver that can open neither its configuration nor a socket reports an unknown
    # name. If several addresses fail in different ways, the error has no number.
    if not isinstance(error, aiohttp.ClientConnectorError) or isinstance(error, aiohttp.ClientSSLError):
        return False
    return (isinstance(error, aiohttp.ClientConnectorDNSError) or error.errno is None) and not _can_open()


def _can_open() -> bool:
    try:
        socket.socket().close()
    except OSError as error:
        return error.errno not in _SHORT
    return True


class OpenFiles:
    """The calls of one event loop that wait until a file can be opened, in the order in which they began to wait.

    The first call in the line tries again every 50 ms. It also tries when a connection becomes free, because it may use
    that connection. If it succeeds, the next call tries.

    Attributes:
        line: The waiting attempts; the keys are the futures that the attempts await.
        in_use: Number of connections of this loop that are in use. While it is 0, no connection can become free, so the
            wait counts against the time limit for connecting.
    """

    __slots__ = ("__weakref__", "_limited", "_logged", "_loop", "_timer", "in_use", "line")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._limited = False  # whether the wait counts against the time limits
        self._logged = -math.inf
        self.line: OrderedDict[asyncio.Future[None], AttemptProgress] = OrderedDict()
        self.in_use = 0

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> OpenFiles:
        """Return the line of a loop. The line exists as long as another object refers to it."""
        files = _of_loops.get(id(loop))
        if files is None:
            files = _of_loops[id(loop)] = cls(loop)
        return files

    async def wait(self, progress: AttemptProgress, *, first: bool) -> None:
        """Wait until this call may try to connect.

        Args:
            progress: The attempt; its time limits change while it waits.
            first: Whether the call has waited before, so that it goes to the front of the line.
        """
        began = self._loop.time()
        if began >= self._logged + _LOG_EVERY:
            self._logged = began
            log.warning(
                "too many open files: calls wait for a connection; raise `ulimit -n`, or lower max_connections"
            )
        future = self._loop.create_future()
        self.line[future] = progress
        self.line.move_to_end(future, last=not first)
        if self._timer is None:
            self._timer = self._loop.call_later(_LOOK_EVERY, self._look)
        progress.wait_for_file(limited=not self.in_use)
        try:
            await future
        except asyncio.CancelledError:
            if self.line.pop(future, None) is None:
                self.wake()  # this call was woken but is cancelled, so the next call tries to connect
            raise
        finally:
            progress.queued += self._loop.time() - began

    def wake(self) -> None:
        """Let the first call in the line try again, if any waits."""
        if self.line:
            future, _ = self.line.popitem(last=False)
            if not future.done():  # a cancelled call wakes the next call itself
                future.set_result(None)

    def _look(self) -> None:
        """Let the first call try; update the time limits if the first connection came into use, or the last was freed."""
        self._timer = None
        limited = not self.in_use
        if limited is not self._limited:
            self._limited = limited
            for progress in self.line.values():
                progress.wait_for_file(limited=limited)
        self.wake()
        if self.line:
            self._timer = self._loop.call_later(_LOOK_EVERY, self._look)


# The lines, by `id` of their loops. A line refers to its loop, so the `id` is not reused while the line exists.
_of_loops: weakref.WeakValueDictionary[int, OpenFiles] = weakref.WeakValueDictionary()
