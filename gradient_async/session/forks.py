"""What a forked process has of its parent, and must never close."""

from __future__ import annotations

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
