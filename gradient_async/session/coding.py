"""Bodies that are compressed, or coded in a way that nobody asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..errors import RequestInfo, StreamError, StreamProtocolError, escape
from .body import Body, Expired
from .inflate import Gunzip, content_coding

if TYPE_CHECKING:
    import aiohttp

    from ..config import Limits

__all__ = ["open_body"]


class _GzipBody(Body):
    """The body of a reply that is compressed though it was asked not to be."""

    __slots__ = ("_gunzip",)

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        request: RequestInfo,
        *,
        deadline: float | None,
        limits: Limits,
    ) -> None:
        super().__init__(response, request, deadline=deadline)
        self._gunzip = Gunzip(limits)

    def begin(self) -> None:
        """Leave it to `read`: what comes is not what is to be returned."""

    async def read(self) -> bytes:
        """Return what has arrived, unpacked and in pieces; b"" at the end.

        Raises:
            StreamError: As `Body.read`; and if it is no gzip, or exceeds a limit.
        """
        gunzip = self._gunzip
        failure: StreamError
        time = self._loop.time
        asked = time()
        waited = self.waited
        while True:
            # What unpacks to nothing may come so fast that no read has to wait for it.
            self.waited = max(self.waited, waited + time() - asked)
            if self.overdue:
                raise Expired
            if gunzip.pending:
                await asyncio.sleep(0)  # what arrived may unpack to thousands of pieces
                try:
                    data = gunzip.pull()
                except StreamError as error:
                    failure = error
                    break
                if data:
                    self.read_at = self._loop.time()
                    return data
                continue
            data = await super().read()
            if not data:
                self.cut = not gunzip.whole
                return b""
            gunzip.push(data)
        self.refuse(failure)
        raise failure


def open_body(
    response: aiohttp.ClientResponse, request: RequestInfo, *, deadline: float | None, limits: Limits
) -> Body:
    """Make the body of a reply, unpacking if need be.

    Args:
        response: aiohttp's response, its headers read.
        request: What it answers, for errors.
        deadline: When the whole call has to be over, on the loop's clock; None is never.
        limits: How much may come of a compressed body.
    """
    coding = content_coding(response.headers.get("content-encoding", ""))
    if coding == "gzip":
        return _GzipBody(response, request, deadline=deadline, limits=limits)
    body = Body(response, request, deadline=deadline)
    if coding is not None:
        body.refuse(
            StreamProtocolError(
                f"Content-Encoding {escape(coding, 80)} was not asked for, and is not understood"
            )
        )
    return body
