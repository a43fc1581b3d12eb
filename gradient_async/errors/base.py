"""The root of the tree, and what every error of a request has."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from ..types import Headers, RateLimits

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APITimeoutError",
    "ConfigurationError",
    "GradientError",
    "InvalidRequestError",
    "Phase",
    "RequestInfo",
    "ResponseInfo",
    "escape",
]

Phase = Literal["connect", "send", "response", "body", "first_token", "idle", "total"]

# C0, DEL and C1 controls, line and paragraph separators, the marks that turn text around, lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escape(text: str, limit: int = 500) -> str:
    """Make text from a server safe to print and to log.

    Args:
        text: What the server sent.
        limit: Most characters to keep.
    """
    cut = text if len(text) <= limit else text[:limit] + "…"
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), cut)


class RequestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The request an error belongs to.

    Attributes:
        method: HTTP method.
        url: Where it went, without its query.
    """

    method: str
    url: str


class ResponseInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The reply an error belongs to.

    Attributes:
        status_code: HTTP status.
        headers: The reply's headers.
        request: What it answers.
        content: As much of the body as was read, in bytes as received.
    """

    status_code: int
    headers: Headers
    request: RequestInfo | None = None
    content: bytes = b""

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 are replaced."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Decode the body.

        Raises:
            ValueError: If it is not JSON.
        """
        return msgspec.json.decode(self.content)


class GradientError(Exception):
    """Root of everything the library raises.

    Attributes:
        message: What happened, and what to do.
    """

    message: str

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled as a call with their arguments, and some of ours need more than a message.
        return _restore, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        # OSError, a base of the timeout errors, has a way of its own to print arguments.
        return self.message


def _restore(kind: type[GradientError], args: tuple[Any, ...]) -> GradientError:
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class ConfigurationError(GradientError, ValueError):
    """A setting is missing or wrong: a key, a URL, a limit. Raised before anything is sent."""


class InvalidRequestError(GradientError, ValueError):
    """A parameter is outside its documented limit. Raised before anything is sent.

    Attributes:
        param: Name of the parameter.
    """

    param: str | None

    def __init__(self, message: str = "", *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class APIError(GradientError):
    """A request that went out did not bring what it should.

    Attributes:
        message: What happened, and what to do; text from the server is escaped and cut.
        request: Method and URL.
        response: Status, headers and body, where a reply came.
        status_code: HTTP status, where a reply came.
        headers: The reply's headers, where one came.
        request_id: The server's name for the request.
        body: The error as the server sent it: decoded JSON, or else the beginning of the text; all that was
            read is in ``response.content``.
        code: The server's code for the error; of ours, "tls" and "reply_begun" say why a lost connection is
            not tried again.
        type: The server's kind of the error.
        param: The parameter the server complains of.
        retry_after: Seconds to wait before another try, where the server said so.
        rate_limits: What the reply's headers said of limits.
        phase: What was under way: connect, send, response, body, first_token, idle, total.
        ambiguous: Whether the server may have done the work all the same.
        attempts: How many requests were made.
        elapsed: Seconds from the call to the error.
    """

    request: RequestInfo | None
    response: ResponseInfo | None
    body: Any
    code: str | None
    type: str | None
    param: str | None
    request_id: str | None
    retry_after: float | None
    rate_limits: RateLimits | None
    phase: Phase | None
    ambiguous: bool
    attempts: int
    elapsed: float | None

    def __init__(
        self,
        message: str = "",
        *,
        request: RequestInfo | None = None,
        response: ResponseInfo | None = None,
        body: Any = None,
        code: str | None = None,
        type: str | None = None,  # noqa: A002  # the API's own name
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        rate_limits: RateLimits | None = None,
        phase: Phase | None = None,
        ambiguous: bool = False,
        attempts: int = 1,
        elapsed: float | None = None,
    ) -> None:
        super().__init__(message)
        self.request = request if request is not None or response is None else response.request
        self.response = response
        self.body = body
        self.code = code
        self.type = type
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after
        self.rate_limits = rate_limits
        self.phase = phase
        self.ambiguous = ambiguous
        self.attempts = attempts
        self.elapsed = elapsed

    @property
    def status_code(self) -> int | None:
        """HTTP status, or None if no reply came."""
        return None if self.response is None else self.response.status_code

    @property
    def headers(self) -> Headers | None:
        """The reply's headers, or None if no reply came."""
        return None if self.response is None else self.response.headers

    @property
    def body_head(self) -> bytes:
        """The first 200 bytes of the reply's body, as far as it was read."""
        return b"" if self.response is None else self.response.content[:200]


class APIConnectionError(APIError):
    """The connection could not be made, or was lost; ``phase`` says when."""


class APITimeoutError(APIConnectionError, TimeoutError):
    """A time limit of `Timeout` ran out; ``phase`` says which."""


class APIResponseValidationError(APIError):
    """A reply of status 2xx is not what the API promises; ``body_head`` shows how it begins."""
