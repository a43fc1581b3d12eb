"""Where calls wait while this process can open no file: "too many open files" is a limit of ours, not a fault of a server."""

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
_LOOK_EVERY = 0.05  # seconds; other parts of the program may close files, and tell nobody
_LOG_EVERY = 60.0  # seconds


def lacks_files(error: OSError) -> bool:
    """Whether a connection could not be made because this process, or its system, has too many open files."""
    if any(isinstance(origin, OSError) and origin.errno in _SHORT for origin in origins(error)):
        return True
    # A resolver that can open neither its configuration nor a socket reports an unknown name. If several addresses fail
    # in different ways, the error has no number.
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
    """The calls of one event loop that wait until a file can be opened, in the order in which they came.

    The first in the line tries again when a connection comes free, which it may then use, and every 50 ms. If it succeeds,
    the next tries.

    Attributes:
        line: The calls that wait, by the futures that they await.
        in_use: Number of connections of this loop that are in use. While it is 0, no connection can come free, and the
            wait counts against the time limit for connecting.
    """

    __slots__ = ("__weakref__", "_limited", "_logged", "_loop", "_timer", "in_use", "line")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._limited = False  # whether the time limits of the line count
        self._logged = -math.inf
        self.line: OrderedDict[asyncio.Future[None], AttemptProgress] = OrderedDict()
        self.in_use = 0

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> OpenFiles:
        """Return the line of a loop; it lives as long as an object holds it."""
        files = _of_loops.get(id(loop))
        if files is None:
            files = _of_loops[id(loop)] = cls(loop)
        return files

    async def wait(self, progress: AttemptProgress, *, first: bool) -> None:
        """Wait until this call may try to connect.

        Args:
            progress: The attempt, whose time limits change while it waits.
            first: Whether the call has tried before, and goes to the front of the line.
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
                self.wake()  # the turn that this call can't take
            raise
        finally:
            progress.queued += self._loop.time() - began

    def wake(self) -> None:
        """Let the first call in the line try again, if any waits."""
        if self.line:
            future, _ = self.line.popitem(last=False)
            if not future.done():  # otherwise it has been cancelled, and wakes the next
                future.set_result(None)

    def _look(self) -> None:
        """Let the first call try, and change the time limits if the last connection in use has been closed."""
        self._timer = None
        limited = not self.in_use
        if limited is not self._limited:
            self._limited = limited
            for progress in self.line.values():
                progress.wait_for_file(limited=limited)
        self.wake()
        if self.line:
            self._timer = self._loop.call_later(_LOOK_EVERY, self._look)


# As with the timers in `deadlines`: a line holds its loop, so the `id` is not reused while the line lives.
_of_loops: weakref.WeakValueDictionary[int, OpenFiles] = weakref.WeakValueDictionary()
