"""Errors for what is easily written by mistake: each message says what to write instead.

Checkers do not see these methods, so they report the mistakes, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn


class AsyncOnly:
    """An object for ``async with``, whose error says so if it is used with ``with``."""

    if not TYPE_CHECKING:

        def __enter__(self) -> NoReturn:
            raise TypeError(f"write 'async with' in place of 'with': {type(self).__name__} is asynchronous")

        # Python looks for this method before it calls `__enter__`.
        def __exit__(self, *_error: object) -> None: ...


class NoMethod:
    """A view of a stream that is a property; its error says so if it is called."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __call__(self, *_arguments: object) -> NoReturn:  # noqa: D102  # not to be called
            raise TypeError(
                "leave the parentheses out: 'stream.text' and 'stream.raw' are no methods, as in "
                "'async for text in stream.text'"
            )
