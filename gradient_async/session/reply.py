"""A reply of status 2xx, from its headers on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

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
    copy_of,
)
from ..hooks import Outcome
from ..policy.ratelimit import rate_limits
from ..types import ChatCompletion, Headers, RateLimits
from ..types.received import Pairs
from .body import Body, Expired
from .call import Call
from .exceptions import MAX_ID, Peer, request_id_of, status_error
from .pace import Turn
from .trace import Trace, log

_json = json.JSONEncoder(ensure_ascii=False, check_circular=False)


def _beginning(body: Any, size: int) -> Any:
    """Return decoded JSON, or the beginning of its text if it is longer than so many characters."""
    if isinstance(body, str):
        return body[:size]
    pieces: list[str] = []
    for piece in _json.iterencode(body):  # the JSON is written in pieces, so that the rest is never written
        pieces.append(piece[:size])
        size -= len(piece)
        if size < 0:
            return "".join(pieces)
    return body


class Reply:
    """A reply of status 2xx: headers, and a body that has not been read yet.

    Attributes:
        status: HTTP status.
        http_version: HTTP version, such as ``HTTP/1.1``.
        rate_limits: The rate limits in the headers.
        request: The request.
        body: The body.
        redactor: Removes keys from text that the server sends.
        limits: Limits on what the server may send.
        n: Value of ``n`` in the request, or None.
        trace: Informs hooks and the log about the end of the call; None if there are none.
        turn: The call's turn in a `Pace`; None if it has none.
        attempts: Number of attempts that were made.
        queued: Seconds that the last attempt waited for a free connection.
        started: When the call began, on the loop's clock.
        sent: When the request of the last attempt was sent, on the loop's clock.
        received: When the headers had arrived, on the loop's clock.
    """

    __slots__ = (
        "__weakref__",
        "_headers",
        "_names_and_values",
        "attempts",
        "body",
        "http_version",
        "limits",
        "n",
        "queued",
        "rate_limits",
        "received",
        "redactor",
        "request",
        "sent",
        "started",
        "status",
        "trace",
        "turn",
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
        usual = version == aiohttp.HttpVersion11  # nearly always True; then all replies share one string
        self.http_version = "HTTP/1.1" if usual else f"HTTP/{version.major}.{version.minor}"
        self._names_and_values = response.headers
        self._headers: Headers | None = None
        self.rate_limits: RateLimits | None = None
        if "ratelimit" in "\n".join(response.headers).lower():
            # The limits are computed now, because durations in the headers count from the arrival of the reply.
            self.rate_limits = rate_limits(self.headers, time.time())
        self.request = request
        self.body = body
        self.attempts = 1
        self.started = started
        self.sent = started
        self.queued = 0.0
        # The call itself is not kept: its body and messages may be large, and a stream may last long.
        self.redactor = call.redactor
        self.limits = call.limits
        self.n: object = call.params.get("n")
        self.trace = trace
        self.turn: Turn | None = None
        self.received = asyncio.get_running_loop().time()

    @property
    def headers(self) -> Headers:
        """The reply's headers, made at the first use: a reply is decoded without them."""
        if self._headers is None:
            self._headers = Headers(self.header_pairs)
        return self._headers

    @property
    def header_pairs(self) -> Pairs:
        """Names and values of the reply's headers."""
        return tuple(self._names_and_values.items())

    @property
    def content_type(self) -> str:
        """The header ``Content-Type``; "" if there is none."""
        return self._names_and_values.getall("content-type", ("",))[-1]

    @property
    def request_id(self) -> str | None:
        """The server's id of the request, from the headers, escaped and cut."""
        if "x-request-id" not in self._names_and_values:
            return None
        request_id = self.headers.get("x-request-id")
        # Nearly always there is nothing to escape. This check takes less time than `escape`.
        if request_id is None or (request_id.isprintable() and len(request_id) <= MAX_ID):
            return request_id
        return request_id_of(self.headers)

    @property
    def elapsed(self) -> float:
        """Seconds from the call to now."""
        return asyncio.get_running_loop().time() - self.started

    def info(self, content: bytes = b"") -> ResponseInfo:
        """Return status, headers and request, with the given body, for an error."""
        return ResponseInfo(
            status_code=self.status, headers=self.headers, request=self.request, content=content
        )

    def describe(self, error: APIError, content: bytes = b"") -> None:
        """Set the attributes of an error that describe this reply, and remove keys from the error.

        Args:
            error: The error.
            content: The part of the body that the error should show.
        """
        # Keys are searched in everything that the error has. The size is limited, because searching a large body would block
        # the event loop.
        size = self.limits.error_body_bytes
        error.response = self.info(content[:size])
        error.body = _beginning(error.body, size)
        error.request = self.request
        error.request_id = error.request_id or self.request_id
        error.rate_limits = self.rate_limits
        error.attempts = self.attempts
        error.elapsed = self.elapsed
        self.redactor.clean(error)

    def refusal(self, error_body: ErrorBody, content: bytes) -> APIStatusError:
        """Make the error of a reply of status 2xx whose body holds an error."""
        peer = Peer(URL(self.request.url).authority)
        error = status_error(error_body, self.info(content), now=time.time(), jitter=0.0, peer=peer)
        self.describe(error, content)
        return error

    def note_content_type(self) -> None:
        """Log that the body is an event stream although its content type does not say so."""
        log.debug("the content-type is not that of an event stream; recognized the stream by its first line")

    def end(
        self,
        error: BaseException | None = None,
        *,
        completion: ChatCompletion | None = None,
        outcome: Outcome | None = None,
        first_token: float | None = None,
        gaps: Sequence[float] = (),
    ) -> None:
        """Note how the call ended, and inform hooks and the log; only the first call of this method counts.

        Args:
            error: The error, if the call failed.
            completion: The completion, as far as it was received.
            outcome: How the call ended, if the error does not show it.
            first_token: For a stream, seconds from the sent request to the first content.
            gaps: For a stream, seconds between the reads that brought content.
        """
        if self.turn is not None:
            usage = None if completion is None else completion.usage
            self.turn.finish(error, succeeded=error is None and outcome is None, usage=usage)
        if self.trace is None:
            return
        if outcome is None:
            failed = isinstance(error, GradientError)
            outcome = "completed" if error is None else "failed" if failed else "cancelled"
        self.trace.end(outcome, error=error, completion=completion, first_token=first_token, gaps=gaps)

    async def read_all(self, limits: Limits) -> bytes:
        """Read the whole body.

        Args:
            limits: Limits on the size of the body.

        Raises:
            APIConnectionError: If the connection was lost before the end of the body.
            APIResponseValidationError: If the body is larger than ``limits.body_bytes``, or can't be decompressed.
        """
        pieces: list[bytes] = []
        size = 0
        max_size = limits.body_bytes
        failure: APIError
        try:
            data = self.body.take_rest()
            if data is None:
                data = await self.body.read()
            elif max_size is None or len(data) <= max_size:
                return data  # the usual case: the headers of a small reply come with its body
            while data:
                pieces.append(data)
                size += len(data)
                if max_size is not None and size > max_size:
                    break
                data = await self.body.read()
        except (APIError, Expired) as error:
            failure = self._failure(error.with_traceback(None), size)
        else:
            if not data and not self.body.cut:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            failure = APIResponseValidationError(
                "the reply is cut: its gzip body has no end"
                if self.body.cut
                else f"the reply has more than body_bytes={max_size} bytes; "
                "raise Limits(body_bytes=...) if that is intended"
            )
        finally:
            self.body.close()  # runs in `finally`, because this task may be cancelled
        beginning = bytearray()
        for piece in pieces:
            beginning += piece
            if len(beginning) >= limits.error_body_bytes:
                break
        self.describe(failure, bytes(beginning))
        raise copy_of(failure)

    async def read_some(self) -> bytes:
        """Wait until bytes of the body have arrived, and return them; b"" at the end.

        Raises:
            APIConnectionError: If the connection was lost, or a time limit ran out.
            APIResponseValidationError: If the body can't be decompressed.
        """
        failure: APIError
        try:
            return await self.body.read()
        except (APIError, Expired) as error:
            failure = self._failure(error.with_traceback(None), None)
        self.body.close()
        self.describe(failure, b"")
        self.end(failure)
        raise copy_of(failure)

    def _failure(self, error: APIError | Expired, size: int | None) -> APIError:
        """Map the error that broke off the reading of a reply that is not an event stream."""
        after = "" if size is None else f", after {size} bytes"
        if isinstance(error, Expired):
            return APITimeoutError(
                f"the reply was not whole within Timeout.{self.body.expired}{after}",
                phase="total" if self.body.expired == "total" else "response",
                ambiguous=True,
            )
        if isinstance(error, APIConnectionError):
            lost = APIConnectionError(
                f"the connection was lost in the middle of the reply{after} ({self.body.lost_by})",
                phase="body",
                ambiguous=True,
            )
            lost.__cause__ = error.__cause__
            return lost
        return APIResponseValidationError(f"the reply can't be read: {error.message}")
