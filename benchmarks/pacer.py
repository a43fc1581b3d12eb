"""Sends events of many streams at even distances, more exactly than timers of an event loop do.

Those are good for a millisecond, and would send what falls into it together: readers would find several streams
ready each time they wake up.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import threading
import time
from collections.abc import Sequence

__all__ = ["Paced", "Pacer"]

_NAP = 0.001  # longest sleep, so that a new stream need not wait


class Paced:
    """A reply that is sent piece by piece.

    Args:
        transport: Of the connection.
        chunks: What to send.
    """

    def __init__(self, transport: asyncio.Transport, chunks: Sequence[bytes]) -> None:
        self._transport = transport
        self._chunks = iter(chunks)
        self._unsent: bytes | None = None
        # A descriptor of our own: the loop may close the connection's at any moment.
        self._descriptor = os.dup(transport.get_extra_info("socket").fileno())

    def send(self) -> bool:
        """Send the next chunk; return whether there may be another."""
        data = next(self._chunks, None) if self._unsent is None else self._unsent
        self._unsent = None
        if data is None or self._transport.is_closing():
            os.close(self._descriptor)
            return False
        try:
            sent = os.write(self._descriptor, data)
        except BlockingIOError:
            sent = 0
        except OSError:  # the other side is gone
            os.close(self._descriptor)
            return False
        self._unsent = data[sent:] or None
        return True


class Pacer:
    """A thread that sends what is due."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, float, Paced]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, reply: Paced, gap: float, streams: int) -> None:
        """Send a reply, a chunk at a time.

        Args:
            reply: What to send.
            gap: Seconds between its chunks.
            streams: How many streams share the gap; no two of them send at one time.
        """
        number = next(self._numbers)
        phase = number % streams / streams
        first = (time.monotonic() // gap + 1 + phase) * gap
        with self._changed:
            heapq.heappush(self._due, (first, number, gap, reply))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due:
                    self._changed.wait()
                due, number, gap, reply = self._due[0]
                wait = due - time.monotonic()
                if wait <= 0:
                    if reply.send():
                        heapq.heapreplace(self._due, (due + gap, number, gap, reply))
                    else:
                        heapq.heappop(self._due)
            if wait > 0:
                time.sleep(min(wait, _NAP))
