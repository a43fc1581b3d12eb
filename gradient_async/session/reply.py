"""A reply of status 2xx, from its headers on."""

from __future__ import annotations

import asyncio
import time

import aiohttp
from yarl import URL

from ..config import Limits
from ..decoding import ErrorBody
from ..errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    RequestInfo,
    ResponseInfo,
)
from ..ratelimit import rate_limits
from ..types import Headers, RateLimits
from .body import Body, Expired
from .faults import status_error

__all__ = ["Reply"]


class Reply:
    """A reply of status 2xx: headers, and a body that is still to be read.

    Attributes:
        status: HTTP status.
        http_version: Such as ``HTTP/1.1``.
        headers: The reply's headers.
        request: What it answers.
        body: Where to read.
        attempts: How many requests it took.
        started: When the call began, on the loop's clock.
        sent: When the request of the last attempt was sent, on the loop's clock.
        received: When the headers were there, on the loop's clock.
    """

    __slots__ = (
        "__weakref__",
        "attempts",
        "body",
        "headers",
        "http_version",
        "received",
        "request",
        "sent",
        "started",
        "status",
    )

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        body: Body,
        request: RequestInfo,
        *,
        started: float,
        sent: float,
    ) -> None:
        self.status = response.status
        version = response.version
        self.http_version = "HTTP/1.1" if version is None else f"HTTP/{version.major}.{version.minor}"
        self.headers = Headers(response.headers.items())
        self.request = request
        self.body = body
        self.attempts = 1
        self.started = started
        self.sent = sent
        self.received = asyncio.get_running_loop().time()

    @property
    def request_id(self) -> str | None:
        """The server's name for the request, from the headers."""
        return self.headers.get("x-request-id")

    @property
    def rate_limits(self) -> RateLimits | None:
        """What the headers said of limits."""
        return rate_limits(self.headers, time.time())

    def info(self, content: bytes = b"") -> ResponseInfo:
        """Describe it for an error."""
        return ResponseInfo(
            status_code=self.status, headers=self.headers, request=self.request, content=content
        )

    def refusal(self, said: ErrorBody, info: ResponseInfo) -> APIStatusError:
        """Make the error of a reply of status 2xx whose body holds one."""
        error = status_error(said, info, now=time.time(), jitter=0.0, host=URL(self.request.url).authority)
        error.attempts = self.attempts
        return error

    async def read_all(self, limits: Limits) -> bytes:
        """Read the whole body.

        Args:
            limits: How many bytes that may be.

        Raises:
            APIConnectionError: If the connection was lost before the end.
            APIResponseValidationError: If there is more than ``limits.body_bytes``.
        """
        pieces: list[bytes] = []
        size = 0
        lost: APIConnectionError
        try:
            while data := await self.body.read():
                pieces.append(data)
                size += len(data)
                if limits.body_bytes is not None and size > limits.body_bytes:
                    self.body.close()
                    raise APIResponseValidationError(
                        f"the reply has more than body_bytes={limits.body_bytes} bytes; "
                        "raise Limits(body_bytes=...) if that is meant",
                        response=self.info(pieces[0][:200]),
                    )
        except APIConnectionError as error:
            lost = APIConnectionError(
                f"the connection was lost in the middle of the reply, after {size} bytes ({error.message})",
                phase="body",
            )
        except Expired:
            lost = APITimeoutError(
                f"the reply was not whole within Timeout.{self.body.expired}, after {size} bytes",
                phase="total" if self.body.expired == "total" else "response",
            )
        else:
            self.body.close()
            return b"".join(pieces)
        self.body.close()
        lost.response = self.info(b"".join(pieces))
        lost.request = self.request
        lost.ambiguous = True
        lost.attempts = self.attempts
        lost.elapsed = asyncio.get_running_loop().time() - self.started
        raise lost
