"""Keeps objects of the parent that a forked process must never close, and prevents forks at wrong moments."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Any

import msgspec


class _Kept(msgspec.Struct, gc=False):
    what: Any
    itself: Any = None


def keep_for_ever(what: object) -> None:
    """Keep an object alive, even while the interpreter ends.

    After a fork, sockets and event loops are shared with the parent. If this process dropped an object that has one, a
    finaliser would close it: the parent's event loop would not be told of data that arrives on its connection. A list
    in a module is not enough, because modules are cleared when the interpreter ends. The object that is made here
    refers to itself, and the garbage collector does not see it.
    """
    kept = _Kept(what)
    kept.itself = kept


no_fork = threading.RLock()
"""A fork waits until no other thread holds this lock, which is held while aiohttp is imported.

A child that is forked in the middle of an import has modules that are half made, and their locks, which no thread of the child
ever releases: its own import would wait for ever.
"""
# Seconds that a fork waits. The import may wait in turn for a module whose own code forks.
_PATIENCE = 5.0


def _before_fork() -> None:
    no_fork.acquire(timeout=_PATIENCE)


def _after_fork() -> None:
    with contextlib.suppress(RuntimeError):  # `_before_fork` timed out, so this thread does not hold the lock
        no_fork.release()


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
