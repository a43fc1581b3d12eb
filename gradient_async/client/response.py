"""Replies as they came, for those who want status and headers beside the completion."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from ..errors import RequestInfo, ResponseInfo
from ..types import Headers, RateLimits
from .replies import fetch

if TYPE_CHECKING:
    from ..config import Limits
    from ..session.reply import Reply

__all__ = ["APIResponse", "ResponseContext"]

T = TypeVar("T")


class APIResponse(Generic[T]):
    """A reply of status 2xx, its body read or not yet.

    Args:
        reply: What the session returned.
        limits: How large the body may be.
        finish: Makes the result: of the whole body, or a stream, which reads the body itself.
    """

    def __init__(
        self, reply: Reply, limits: Limits, finish: Callable[[APIResponse[T]], Awaitable[T]]
    ) -> None:
        self._reply = reply
        self._limits = limits
        self._finish = finish
        self._content: bytes | None = None
        self._parsed: T | None = None

    @property
    def status_code(self) -> int:
        """HTTP status."""
        return self._reply.status

    @property
    def headers(self) -> Headers:
        """The reply's headers."""
        return self._reply.headers

    @property
    def request_id(self) -> str | None:
        """The server's name for the request."""
        return self._reply.request_id

    @property
    def rate_limits(self) -> RateLimits | None:
        """What the headers said of limits."""
        return self._reply.rate_limits

    @property
    def http_request(self) -> RequestInfo:
        """Method and URL of the request."""
        return self._reply.request

    @property
    def http_response(self) -> ResponseInfo:
        """Status, headers, and the body if it has been read."""
        return self._reply.info(self._content or b"")

    @property
    def url(self) -> str:
        """Where the request went."""
        return self._reply.request.url

    @property
    def method(self) -> str:
        """HTTP method of the request."""
        return self._reply.request.method

    @property
    def http_version(self) -> str:
        """Version of HTTP, such as ``HTTP/1.1``."""
        return self._reply.http_version

    @property
    def elapsed(self) -> dt.timedelta:
        """From the request sent to the reply's headers."""
        return dt.timedelta(seconds=self._reply.received - self._reply.sent)

    @property
    def retries_taken(self) -> int:
        """How many attempts followed the first."""
        return self._reply.attempts - 1

    @property
    def is_closed(self) -> bool:
        """Whether the body has been read or given up."""
        return self._reply.body.closed

    async def parse(self) -> T:
        """Return what the call returns without this wrapper: a completion, a stream, a list of models.

        Raises:
            APIConnectionError: If the connection was lost before the body's end.
            APIResponseValidationError: If the body is not what it should be.
        """
        if self._parsed is None:
            self._parsed = await self._finish(self)
        return self._parsed

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            APIConnectionError: If the connection was lost before its end.
            APIResponseValidationError: If it is larger than ``Limits.body_bytes``.
        """
        if self._content is None:
            self._content = await fetch(self._reply, self._limits, _as_it_is)
        return self._content

    async def text(self) -> str:
        """Return the whole body as text; bytes that are not UTF-8 are replaced."""
        return (await self.read()).decode("utf-8", "replace")

    async def json(self) -> Any:
        """Decode the whole body.

        Raises:
            ValueError: If it is not JSON.
        """
        return msgspec.json.decode(await self.read())

    async def iter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Args:
            chunk_size: Bytes in each piece but the last; None takes what has arrived.

        Raises:
            APIConnectionError: If the connection was lost before the body's end, or a time limit ran out.
            APIResponseValidationError: If it can't be unpacked.
        """
        held = b""
        async for data in self._pieces():
            if chunk_size is None:
                yield data
                continue
            held += data
            while len(held) >= chunk_size:
                yield held[:chunk_size]
                held = held[chunk_size:]
        if held:
            yield held

    async def iter_text(self, chunk_size: int | None = None) -> AsyncIterator[str]:
        """Yield the body as text as it arrives, never a torn character.

        Args:
            chunk_size: As for `iter_bytes`, in bytes.
        """
        import codecs  # noqa: PLC0415  # few need it

        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async for data in self.iter_bytes(chunk_size):
            text = decoder.decode(data)
            if text:
                yield text
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest

    async def iter_lines(self) -> AsyncIterator[str]:
        """Yield the body's lines as they arrive, without their ends."""
        held = ""
        async for text in self.iter_text():
            *lines, held = (held + text).split("\n")
            for line in lines:
                yield line.removesuffix("\r")
        if held:
            yield held

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self._content is not None:
            yield self._content
            return
        while data := await self._reply.read_some():
            yield data
        self._reply.end()

    async def close(self) -> None:
        """Give up what has not been read."""
        self._reply.body.close()
        self._reply.end(outcome="left")

    def __repr__(self) -> str:
        return f"<APIResponse {self.status_code} {self.url}>"


def _as_it_is(_reply: Reply, content: bytes) -> bytes:
    return content


class ResponseContext(Generic[T]):
    """A reply for ``async with``: sent on entering, closed on leaving.

    Args:
        start: Sends the request.
    """

    _response: APIResponse[T]

    def __init__(self, start: Callable[[], Awaitable[APIResponse[T]]]) -> None:
        self._start = start

    async def __aenter__(self) -> APIResponse[T]:
        self._response = await self._start()
        return self._response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._response.close()
