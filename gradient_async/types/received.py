"""What the session knows of a reply or chunk besides its fields: the JSON of the server, and the headers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self, TypeAlias, cast

from .headers import Headers

Pairs: TypeAlias = Iterable[tuple[str, str]]
"""Names and values of headers; `Headers` are made of them at each use, because few programs ask for them."""
Source: TypeAlias = tuple[Any, Callable[[bytes], Any] | None, Pairs]
"""The body, the function that decodes it (None if the body is plain data already), and the headers."""

_NOTHING: Source = (None, None, ())


class Received:
    """The JSON of the server, with the fields for which this library has no names. Copies and pickles include the JSON."""

    # A slot of a base class is not a field of a Struct. So comparison, repr, encoding and conversion concern the fields alone,
    # a body cannot set the slots, and decoding does not become slower. `source` is absent if nothing was received.
    __slots__ = ("_body", "source")

    source: Source
    _body: Any

    @property
    def body(self) -> Any:
        """The JSON that the server sent, as plain data; None if it was not kept.

        It has every field, also those for which this library has no names, such as ``citations``. An awaited reply always
        has its body, and a chunk has it with ``AsyncGradient(keep_body=True)``. A completion that was assembled from a
        stream has none, because the server sent no such JSON.

        Until you ask for it, only the received bytes are kept. To keep them costs no time and, for a completion that is
        stored, about as much memory as its text once more; log probabilities are much larger than their bytes. Fields
        that this library does not know exist only in these bytes, and it can't tell whether a program will ask for them.
        A program that stores many completions and needs little of them should store that part, such as
        ``completion.choices[0].message``, which does not refer to the body.
        """
        content, decode, _ = self._known()
        if decode is None:
            return content
        if not hasattr(self, "_body"):
            self._body = decode(content)
        return self._body

    def receive(
        self, content: Any, decode: Callable[[bytes], Any] | None = None, headers: Pairs = ()
    ) -> None:
        """Note what was received.

        Args:
            content: The bytes of the server or, without ``decode``, plain data.
            decode: Decodes the bytes. It is a function of a module, so that it can be pickled.
            headers: The headers of the reply. They can be read more than once, and pickled.
        """
        self.source = (content, decode, headers)

    def receive_as(self, other: Received) -> Self:
        """Note the same as another object; return this object."""
        if hasattr(other, "source"):
            self.source = other.source
        return self

    def _known(self) -> Source:
        return getattr(self, "source", _NOTHING)

    @property
    def body_size(self) -> int:
        """Number of bytes that are kept."""
        content = self._known()[0]
        return len(content) if isinstance(content, bytes) else 0

    def __copy__(self) -> Self:
        copied: Self = cast("Any", super()).__copy__()
        return copied.receive_as(self)

    def __reduce__(self) -> tuple[Any, ...]:
        reduced = cast("tuple[Any, ...]", super().__reduce__())
        return (*reduced, self.source) if hasattr(self, "source") else reduced

    def __setstate__(self, source: Source) -> None:
        self.source = source


class ReceivedReply(Received):
    """A `Received` that also shows the headers."""

    __slots__ = ()

    @property
    def headers(self) -> Headers:
        """The headers of the reply; empty if they are not known."""
        return Headers(self._known()[2])
