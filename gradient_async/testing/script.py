"""Scripted replies as data: the socket writes, the pauses between them, and how the connection ends."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from .connection import Connection
from .payloads import dump, frame_events, head, http_chunk
from .request import Request


class Command(enum.Enum):
    """Steps of a script other than writing and waiting."""

    CLOSE = "close"
    HALF_CLOSE = "half close"
    RESET = "reset"
    HOLD = "hold"


CLOSE = Command.CLOSE
"""Close the connection: FIN after everything written so far."""

HALF_CLOSE = Command.HALF_CLOSE
"""Send FIN, but continue to read; usually followed by `HOLD`."""

RESET = Command.RESET
"""Break the connection: RST."""

HOLD = Command.HOLD
"""Write nothing, with the connection open, until the peer closes."""


@dataclass(frozen=True)
class Forever:
    """Steps played again and again until the peer closes; see `forever`."""

    steps: tuple[Step, ...]


Step: TypeAlias = "bytes | float | Command | Forever | Callable[[Connection], Awaitable[None]]"
Handler: TypeAlias = Callable[[Request, Connection], Awaitable[None]]


@dataclass(frozen=True)
class Reply:
    """One scripted reply: a handler that plays its steps.

    Attributes:
        steps: Each bytes object is one socket write, each number a pause in seconds, the rest are commands.
    """

    steps: tuple[Step, ...]

    async def __call__(
        self,
        request: Request,  # noqa: ARG002  # a handler's signature
        connection: Connection,
    ) -> None:
        """Play the steps; your own handler may await a reply as a part of its answer."""
        await play(self.steps, connection)

    @property
    def data(self) -> bytes:
        """All bytes of the reply in one piece, to cut as you like: ``reply_writes([r.data[:99], RESET])``."""
        return b"".join(step for step in self.steps if isinstance(step, bytes))


async def play(steps: Iterable[Step], connection: Connection) -> None:
    """Carry out steps on a connection.

    Raises:
        ConnectionResetError: If the peer closes before the last step.
    """
    for step in steps:
        match step:
            case bytes():
                await connection.write(step)
            case Forever():
                while True:
                    await play(step.steps, connection)
            case Command.CLOSE:
                connection.close()
            case Command.HALF_CLOSE:
                connection.half_close()
            case Command.RESET:
                connection.reset()
            case Command.HOLD:
                await connection.wait_closed()
            case int() | float():
                await connection.sleep(step)
            case _:
                await step(connection)


def reply_writes(steps: Iterable[Step]) -> Reply:
    r"""Script a reply write by write, status line included.

    The connection stays open for the next request unless a step closes it.

    Args:
        steps: Bytes, each sent unchanged in one socket write; pauses in seconds; `CLOSE`, `RESET`,
            `HALF_CLOSE`, `HOLD`; or `forever`.

    Example:
        A reply that breaks off inside its headers: ``reply_writes([b"HTTP/1.1 200 OK\r\nContent-", CLOSE])``.

    Raises:
        TypeError: If a value is not a step.
    """
    checked: tuple[Any, ...] = tuple(steps)
    for number, step in enumerate(checked, 1):
        if isinstance(step, Reply) or not (
            isinstance(step, bytes | int | float | Command | Forever) or callable(step)
        ):
            raise TypeError(
                f"reply_writes: step {number} is a {type(step).__name__}; write bytes (of a reply: reply.data), a pause in "
                "seconds, CLOSE, RESET, HALF_CLOSE, HOLD or forever(...)"
            )
    return Reply(checked)


def forever(*steps: Step) -> Forever:
    r"""Repeat steps until the peer closes, as the last step of a script.

    Args:
        *steps: For example ``http_chunk(b": keep-alive\n\n"), 0.5``.

    Raises:
        ValueError: If there are no steps.
    """
    if not steps:
        raise ValueError("forever() needs at least one step to repeat")
    return Forever(steps)


@dataclass(frozen=True)
class Early:
    """A handler that is called before the body of the request is read; see `early`."""

    handler: Handler

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer with the wrapped handler."""
        await self.handler(request, connection)


def early(handler: Handler) -> Early:
    """Answer as soon as the headers of the request are read, and leave its body unread.

    The connection is closed afterwards. With a body larger than the socket's buffers the client is still
    sending when the reply arrives, as happens with 413.

    Args:
        handler: A reply or a handler; its request has an empty body.

    Raises:
        TypeError: If it is neither; the message says what to write.
    """
    check_replies("early", handler)
    return Early(handler)


_CURES = {
    "chat.completion": "reply_json(completion(...))",
    "chat.completion.chunk": "reply_sse(chunk(...), ...)",
}
_TYPES: list[tuple[type | tuple[type, ...], str]] = [
    ((str, bytes, bytearray, memoryview), "reply_sse(...) for an event stream, or reply_bytes(...)"),
    (
        (list, tuple, Iterator),
        "reply_writes([...]) for the writes of one reply, or *replies for several replies",
    ),
    ((Command, Forever, int, float), "reply_writes([...])"),
    (
        (BaseException, type),
        "reply_json({...}, status), or a reply that breaks off: reply_writes([..., RESET])",
    ),
    (Coroutine, "the coroutine function itself, without calling it"),
]


def check_replies(caller: str, *replies: Any) -> None:
    """Check that each value is a reply or a handler. With any other value, the client would wait in vain.

    Raises:
        TypeError: If a value is neither; the message says what to write.
    """
    for reply in replies:
        cure = _cure(reply)
        if cure is None:
            continue
        if isinstance(reply, Coroutine):
            reply.close()  # otherwise Python would warn that the coroutine was never awaited
        raise TypeError(f"{caller}: {_kind(reply)} is no reply; write {cure}")


def _kind(reply: Any) -> str:
    named = isinstance(reply, type) or inspect.isroutine(reply)
    return str(getattr(reply, "__name__", reply)) if named else f"a value of type {type(reply).__name__}"


def _cure(reply: Any) -> str | None:
    """Return what to write in place of a value that is not a reply; return None for a reply."""
    if callable(reply) and not isinstance(reply, type):
        return _cure_callable(reply)
    if isinstance(reply, Mapping):
        kind = cast("Mapping[str, object]", reply).get("object")
        return _CURES.get(kind if isinstance(kind, str) else "", "reply_json({...}, status)")
    for types, cure in _TYPES:
        if isinstance(reply, types):
            return cure
    made = "reply_json(reply.to_dict())" if hasattr(reply, "to_dict") else "reply_json(...), reply_sse(...)"
    return f"{made}, or another reply"


def _cure_callable(reply: Callable[..., Any]) -> str | None:
    if inspect.isfunction(reply) and reply.__module__ == __name__:  # a function that makes replies
        return f"{reply.__name__}(...)"
    handler = "a coroutine function that takes (request, connection) and writes the reply"
    if inspect.isgeneratorfunction(reply) or inspect.isasyncgenfunction(reply):
        return handler
    try:
        signature = inspect.signature(reply)
    except (TypeError, ValueError):  # the object has no signature that Python can read
        return None
    try:
        signature.bind(None, None)
    except TypeError:
        return handler
    return None


def reply_bytes(
    body: bytes,
    status: int = 200,
    headers: Mapping[str, str | None] | None = None,
    content_type: str = "application/octet-stream",
) -> Reply:
    """Answer with a body of known length, in one write.

    Args:
        body: The body, sent unchanged.
        status: Status code.
        headers: Headers to add or replace; None as a value leaves a header out. With ``connection: close`` the
            connection is closed after the reply.
        content_type: Media type of the body.
    """
    fields = _merge({"content-type": content_type, "content-length": str(len(body))}, headers)
    return Reply((head(status, fields) + body, *_announced_close(fields)))


def reply_json(value: object, status: int = 200, headers: Mapping[str, str | None] | None = None) -> Reply:
    """Answer with JSON: a `completion`, or an error with its status.

    Args:
        value: Any value that ``json.dumps`` takes.
        status: Status code.
        headers: The same as for `reply_bytes`; for example ``{"retry-after": "1"}``.

    Example:
        ``reply_json({"id": "too_many_requests", "message": "slow down"}, 429, {"retry-after": "1"})``
    """
    return reply_bytes(dump(value), status, headers, "application/json")


def reply_sse(
    *events: Mapping[str, Any] | str | bytes,
    done: bool = True,
    status: int = 200,
    headers: Mapping[str, str | None] | None = None,
    framing: Literal["chunked", "length", "eof"] = "chunked",
    gap: float = 0.0,
    end_delay: float = 0.0,
    per_write: int = 1,
) -> Reply:
    """Answer with an event stream.

    The headers, each group of events, and the end of the body are separate socket writes. To send the whole reply
    in one write: ``reply_writes([reply_sse(...).data])``.

    Args:
        *events: A mapping (see `chunk`) becomes the JSON of one event, a string becomes its data, and bytes are
            sent unchanged, for comments and broken events.
        done: Whether to end with ``data: [DONE]``.
        status: Status code.
        headers: The same as for `reply_bytes`.
        framing: How HTTP marks the end of the body: by its last chunk, by ``Content-Length``, or by closing
            the connection.
        gap: Seconds between two writes of events.
        end_delay: Seconds between the last event and the end of the HTTP body.
        per_write: Events in one write, and with chunked framing in one HTTP chunk.

    Raises:
        ValueError: If ``per_write`` is less than 1.
    """
    if per_write < 1:
        raise ValueError(f"per_write={per_write}: a write holds at least 1 event")
    single = frame_events(events, done=done)
    writes = [b"".join(single[i : i + per_write]) for i in range(0, len(single), per_write)]
    framings = {
        "chunked": {"transfer-encoding": "chunked"},
        "length": {"content-length": str(sum(map(len, writes)))},
        "eof": {"connection": "close"},
    }
    fields = _merge({"content-type": "text/event-stream", **framings[framing]}, headers)
    steps: list[Step] = [head(status, fields)]
    for number, data in enumerate(writes):
        if gap and number:
            steps.append(gap)
        steps.append(http_chunk(data) if framing == "chunked" else data)
    if end_delay:
        steps.append(end_delay)
    if framing == "chunked":
        steps.append(http_chunk(b""))
    return Reply((*steps, *((CLOSE,) if framing == "eof" else _announced_close(fields))))


def _merge(defaults: Mapping[str, str], headers: Mapping[str, str | None] | None) -> dict[str, str | None]:
    """Put headers in place of defaults of the same name, in any case."""
    replaced = {name.lower() for name in headers or {}}
    return {name: value for name, value in defaults.items() if name not in replaced} | dict(headers or {})


def _announced_close(fields: Mapping[str, str | None]) -> tuple[Step, ...]:
    # A client that reads `Connection: close` may wait for the close, so the server must close.
    announced = any(
        name.lower() == "connection" and (value or "").lower() == "close" for name, value in fields.items()
    )
    return (CLOSE,) if announced else ()


# Functions for replies that the simulated model or another server makes for one request

NO_BODY = frozenset({204, 304})  # statuses of replies without a body

End: TypeAlias = Literal["eof", "cut", "reset", "client"]
Framing: TypeAlias = Literal["chunked", "length", "close", "none"]

# A client that learns of a reset before it has taken the last bytes out of the socket may lose them. Without this pause,
# in seconds, some replays of a reset would be shorter than others.
_BEFORE_RESET = 0.05


def open_reply(
    request: Request, status: int, headers: Mapping[str, str], *, chunked: bool
) -> tuple[bytes, Framing]:
    """Return the head of a reply, and how the end of its body is marked.

    Args:
        request: The request that is answered.
        status: Status of the reply.
        headers: Headers of the reply; Content-Length counts if the body is not chunked.
        chunked: Whether the body is sent in HTTP chunks, if the client understands them.
    """
    if request.method == "HEAD" or status in NO_BODY:
        return head(status, headers), "none"
    if chunked and request.version == "1.1":
        return head(status, {**headers, "transfer-encoding": "chunked"}), "chunked"
    if "content-length" in headers:
        return head(status, headers), "length"
    return head(status, {**headers, "connection": "close"}), "close"


def frame(data: bytes, framing: Framing | None) -> bytes:
    """Add the HTTP framing to bytes of a body; return no bytes if the reply has no body."""
    return http_chunk(data) if framing == "chunked" and data else b"" if framing == "none" else data


def end_reply(end: End, framing: Framing | None) -> list[Step]:
    """Return the steps that end a reply. A framing of None means that no part of the reply was sent."""
    match end:
        case "eof":
            return [http_chunk(b"")] if framing == "chunked" else [CLOSE] if framing == "close" else []
        case "cut":
            return [CLOSE]
        case "reset":
            return [_BEFORE_RESET, RESET]
        case _:
            return [HOLD]
