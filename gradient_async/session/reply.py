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
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    GradientError,
    RequestInfo,
    ResponseInfo,
    escape,
)
from ..hooks import Outcome
from ..policy.ratelimit import rate_limits
from ..secrets import Redactor
from ..types import ChatCompletion, Headers, RateLimits
from .body import Body, Expired
from .call import Call
from .exceptions import status_error
from .trace import Trace, log

_HEAD = 64 * 1024  # bytes to keep of a body that has too many


class Reply:
    """A reply of status 2xx: headers, and a body that is still to be read.

    Attributes:
        status: HTTP status.
        http_version: Such as ``HTTP/1.1``.
        headers: The reply's headers.
        rate_limits: What they said of limits.
        request: What it answers.
        body: Where to read.
        secrets: Keys to take out of what the server says.
        limits: Sizes that the server may send.
        n: How many choices were asked for, as far as the request says.
        trace: Who is told how it ends, or None.
        attempts: How many requests it took.
        queued: Seconds that the request of the last attempt waited for a free connection.
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
        "limits",
        "n",
        "queued",
        "rate_limits",
        "received",
        "request",
        "secrets",
        "sent",
        "started",
        "status",
        "trace",
    )

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        body: Body,
        request: RequestInfo,
        call: Call,
        *,
        trace: Trace | None,
        started: float,
    ) -> None:
        self.status = response.status
        version = response.version or aiohttp.HttpVersion11
        usual = version == aiohttp.HttpVersion11  # one text for all of them
        self.http_version = "HTTP/1.1" if usual else f"HTTP/{version.major}.{version.minor}"
        self.headers = Headers(response.headers.items())
        # Now: durations count from the reply.
        self.rate_limits: RateLimits | None = rate_limits(self.headers, time.time())
        self.request = request
        self.body = body
        self.attempts = 1
        self.started = started
        self.sent = started
        self.queued = 0.0
        # Not the call itself: its body and messages may be large, and a stream go on for long.
        self.secrets = call.secrets
        self.limits = call.limits
        self.n: object = call.params.get("n")
        self.trace = trace
        self.received = asyncio.get_running_loop().time()

    @property
    def request_id(self) -> str | None:
        """The server's name for the request, from the headers."""
        return self.headers.get("x-request-id")

    @property
    def elapsed(self) -> float:
        """Seconds from the call to now."""
        return asyncio.get_running_loop().time() - self.started

    def info(self, content: bytes = b"") -> ResponseInfo:
        """Describe it for an error."""
        return ResponseInfo(
            status_code=self.status, headers=self.headers, request=self.request, content=content
        )

    def describe(self, error: APIError, content: bytes = b"") -> None:
        """Fill in what an error of this reply can tell of it, and take keys out of the error.

        Args:
            error: The error.
            content: As much of the body as the error is to show.
        """
        error.response = self.info(content)
        error.request = self.request
        error.request_id = error.request_id or self.request_id
        error.rate_limits = self.rate_limits
        error.attempts = self.attempts
        error.elapsed = self.elapsed
        Redactor(self.secrets).clean(error)

    def refusal(self, error_body: ErrorBody, content: bytes) -> APIStatusError:
        """Make the error of a reply of status 2xx whose body holds an error."""
        host = URL(self.request.url).authority
        error = status_error(error_body, self.info(content), now=time.time(), jitter=0.0, host=host)
        self.describe(error, content)
        return error

    def note_content_type(self) -> None:
        """Log that the body is an event stream, though its type does not say so."""
        log.debug(
            "an event stream of content-type %r, told by its first line",
            escape(self.headers.get("content-type", ""), 80),
        )

    def end(
        self,
        error: BaseException | None = None,
        *,
        completion: ChatCompletion | None = None,
        outcome: Outcome | None = None,
        first_token: float | None = None,
    ) -> None:
        """Tell hooks and the log how the call ended; only the first end counts.

        Args:
            error: What it failed with, if it did.
            completion: What came of it.
            outcome: How it ended, where the error does not tell.
            first_token: Of a stream, seconds from the request sent to the first content.
        """
        if self.trace is None:
            return
        if outcome is None:
            failed = isinstance(error, GradientError)
            outcome = "completed" if error is None else "failed" if failed else "cancelled"
        self.trace.end(outcome, error=error, completion=completion, first_token=first_token)

    async def read_all(self, limits: Limits) -> bytes:
        """Read the whole body.

        Args:
            limits: How many bytes that may be.

        Raises:
            APIConnectionError: If the connection was lost before the end.
            APIResponseValidationError: If there is more than ``limits.body_bytes``, or it can't be unpacked.
        """
        pieces: list[bytes] = []
        size = 0
        failure: APIError
        try:
            while data := await self.body.read():
                pieces.append(data)
                size += len(data)
                if limits.body_bytes is not None and size > limits.body_bytes:
                    break
        except (APIError, Expired) as error:
            failure = self._failure(error.with_traceback(None), size)
        else:
            if not data and not self.body.cut:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            failure = APIResponseValidationError(
                "the reply is cut: its gzip body has no end"
                if self.body.cut
                else f"the reply has more than body_bytes={limits.body_bytes} bytes; "
                "raise Limits(body_bytes=...) if that is meant"
            )
        finally:
            self.body.close()  # also when cancelled
        # Of a body that is refused for its size the beginning will do.
        too_long = limits.body_bytes is not None and size > limits.body_bytes
        self.describe(failure, b"".join(pieces[:1])[:_HEAD] if too_long else b"".join(pieces))
        raise failure

    async def read_some(self) -> bytes:
        """Read what has arrived of the body; b"" at the end.

        Raises:
            APIConnectionError: If the connection was lost, or a time limit ran out.
            APIResponseValidationError: If it can't be unpacked.
        """
        failure: APIError
        try:
            return await self.body.read()
        except (APIError, Expired) as error:
            failure = self._failure(error.with_traceback(None), None)
        self.body.close()
        self.describe(failure, b"")
        self.end(failure)
        raise failure

    def _failure(self, error: APIError | Expired, size: int | None) -> APIError:
        """Map what ended the reading of a reply that is no event stream."""
        after = "" if size is None else f", after {size} bytes"
        if isinstance(error, Expired):
            return APITimeoutError(
                f"the reply was not whole within Timeout.{self.body.expired}{after}",
                phase="total" if self.body.expired == "total" else "response",
                ambiguous=True,
            )
        if isinstance(error, APIConnectionError):
            return APIConnectionError(
                f"the connection was lost in the middle of the reply{after} ({self.body.lost_by})",
                phase="body",
                ambiguous=True,
            )
        return APIResponseValidationError(f"the reply can't be read: {error.message}")
