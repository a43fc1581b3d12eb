"""Errors for common mistakes: each message says what to write instead.

Type checkers do not see these methods, so they report the same mistakes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn


class AsyncOnly:
    """An object for ``async with``, whose error says so if it is used with ``with``."""

    if not TYPE_CHECKING:

        def __enter__(self) -> NoReturn:
            raise TypeError(f"write 'async with' in place of 'with': {type(self).__name__} is asynchronous")

        # Python looks for this method before it calls `__enter__`.
        def __exit__(self, *_error: object) -> None: ...


class AsyncForOnly:
    """An object for ``async for``, whose error says so if it is used with ``for``.

    `stream.text` and `stream.raw` are not derived from it: httpx and others look for ``__iter__`` first, and would take
    them for synchronous.
    """

    __slots__ = ()

    if not TYPE_CHECKING:

        def __iter__(self) -> NoReturn:
            raise TypeError(f"write 'async for' in place of 'for': {type(self).__name__} is asynchronous")


class SyncOnly:
    """An object for ``with``, whose error says so if it is used with ``async with``."""

    if not TYPE_CHECKING:

        async def __aenter__(self) -> NoReturn:
            raise TypeError(
                f"write 'with' in place of 'async with': {type(self).__name__} is not asynchronous"
            )

        # Python looks for this method before it calls `__aenter__`.
        async def __aexit__(self, *_error: object) -> None: ...


class EnterFirst:
    """A context manager that opens a stream; its error says so if it is used as if it were the stream.

    Attributes:
        _opens: The class of the stream.
        _keyword: ``async with``, or ``with``.
    """

    _opens: ClassVar[type]
    _keyword: ClassVar[str] = "async with"

    if not TYPE_CHECKING:

        def _advice(self) -> str:
            return (
                f"nothing was sent yet; write '{self._keyword} client.chat.completions.stream(...) as stream', and use "
                "the stream inside"
            )

        def __iter__(self) -> NoReturn:
            raise TypeError(self._advice())

        def __aiter__(self) -> NoReturn:
            raise TypeError(self._advice())

        def __next__(self) -> NoReturn:
            raise TypeError(self._advice())

        def __getattr__(self, name: str) -> Any:
            if hasattr(self._opens, name):
                raise AttributeError(f"{name!r} is an attribute of the stream: {self._advice()}")
            return object.__getattribute__(self, name)


class NoMethod:
    """A view of a stream that is a property; its error says so if it is called."""

    __slots__ = ()

    _loop: ClassVar[str] = "async for"

    if not TYPE_CHECKING:

        def __call__(self, *_arguments: object) -> NoReturn:  # noqa: D102  # not to be called
            raise TypeError(
                "leave the parentheses out: 'stream.text' and 'stream.raw' are no methods, as in "
                f"'{self._loop} text in stream.text'"
            )
