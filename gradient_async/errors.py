"""Every exception the library raises, one tree.

```
GradientError
├── ConfigurationError (ValueError)         a setting is missing or wrong; nothing was sent
├── InvalidRequestError (ValueError)        a parameter is outside its limit; nothing was sent
├── FanOutError (ExceptionGroup)            some of several requests failed
└── APIError                                a request was sent, or should have been
    ├── APIConnectionError                  no reply, or the connection was lost
    │   └── APITimeoutError (TimeoutError)  a time limit ran out
    ├── APIResponseValidationError          a reply of status 2xx that is not what the API promises
    ├── APIStatusError                      the server answered with an error: a class for each status
    └── StreamError                         a stream that did not end as it should; `.partial` has the rest
        ├── StreamInterruptedError          (APIConnectionError) the connection was lost
        ├── StreamTimeoutError              (APITimeoutError) no content came in time
        ├── StreamTruncatedError            it ended in good order, but short
        ├── StreamServerError               the server sent an error event
        ├── StreamProtocolError             what came is no stream of chunks
        └── StreamLimitError                it exceeds one of `Limits`
```

Names and attributes are those of ``gradient`` and ``openai``; what they lack is added. All errors survive pickling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import msgspec

from .types import ChatCompletion, Headers, RateLimits

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


class APIStatusError(APIError):
    """The server answered with an error.

    Args:
        message: What happened, and what to do.
        response: The answer; its status and headers are the error's.
        body: The error as the server sent it: decoded JSON, or else text.
        **details: Those of `APIError`.
    """

    response: ResponseInfo  # pyright: ignore[reportIncompatibleVariableOverride]  # never None here

    def __init__(
        self, message: str = "", *, response: ResponseInfo, body: Any = None, **details: Any
    ) -> None:
        super().__init__(message, response=response, body=body, **details)

    @property
    def status_code(self) -> int:
        """HTTP status."""
        return self.response.status_code

    @property
    def headers(self) -> Headers:
        """The answer's headers."""
        return self.response.headers


class BadRequestError(APIStatusError):
    """400: the server does not accept the request."""


class AuthenticationError(APIStatusError):
    """401: the key is missing or wrong."""


class PaymentRequiredError(APIStatusError):
    """402: the account has no credit."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not do this."""


class NotFoundError(APIStatusError):
    """404: there is no such model, agent or path."""


class RequestTimeoutError(APIStatusError):
    """408: the server did not get the whole request in time."""


class ConflictError(APIStatusError):
    """409: the request contradicts the server's state."""


class RequestTooLargeError(APIStatusError):
    """413: the request has more bytes than the server takes."""


class UnprocessableEntityError(APIStatusError):
    """422: the request is well formed but can't be served."""


class RateLimitError(APIStatusError):
    """429: too many requests or tokens; ``retry_after`` says how long to wait, if the server did."""


class QuotaExceededError(RateLimitError):
    """429 that waiting does not mend: the account's quota is used up."""


class InternalServerError(APIStatusError):
    """5xx: the server failed."""


class OverloadedError(InternalServerError):
    """503 or 529: the server has no room now."""


class GatewayTimeoutError(InternalServerError):
    """504: a gateway waited in vain; the model may have worked all the same."""


class UnexpectedRedirectError(APIStatusError):
    """3xx: redirects are never followed, so that neither key nor prompt goes to another place."""


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: PaymentRequiredError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: RequestTimeoutError,
    409: ConflictError,
    413: RequestTooLargeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
    503: OverloadedError,
    504: GatewayTimeoutError,
    529: OverloadedError,
}

# Codes and types that servers put into an error event, where no status tells what it is; without case,
# spaces and underscores, in which servers differ.
_STATUS_OF_WORD = {
    "unauthorized": 401,
    "unauthenticated": 401,
    "authenticationerror": 401,
    "invalidapikey": 401,
    "invalidkey": 401,
    "forbidden": 403,
    "permissiondenied": 403,
    "permissionerror": 403,
    "notfound": 404,
    "notfounderror": 404,
    "modelnotfound": 404,
    "toomanyrequests": 429,
    "ratelimiterror": 429,
    "ratelimitexceeded": 429,
    "ratelimitreached": 429,
    "resourceexhausted": 429,
    "insufficientquota": 429,
    "badrequest": 400,
    "badrequesterror": 400,
    "invalidargument": 400,
    "invalidrequest": 400,
    "invalidrequesterror": 400,
    "overloaded": 503,
    "overloadederror": 503,
    "serviceunavailable": 503,
    "unavailable": 503,
    "servererror": 500,
    "apierror": 500,
    "internalerror": 500,
    "internalservererror": 500,
    "timeout": 504,
    "timeouterror": 504,
}

_QUOTA_CODES = frozenset({"insufficient_quota", "quota_exceeded", "billing_hard_limit_reached"})


def status_error_class(status: int, code: str | None = None) -> type[APIStatusError]:
    """Return the class of error that a status stands for.

    Args:
        status: HTTP status.
        code: The server's code for the error, which tells a spent quota from a busy minute.
    """
    if status == 429 and code in _QUOTA_CODES:  # noqa: PLR2004  # an HTTP status
        return QuotaExceededError
    known = _BY_STATUS.get(status)
    if known is not None:
        return known
    if 300 <= status < 400:  # noqa: PLR2004  # HTTP statuses
        return UnexpectedRedirectError
    return InternalServerError if status >= 500 else APIStatusError  # noqa: PLR2004  # an HTTP status


def status_of_words(*words: str | None) -> int:
    """Return the status that a code or a type stands for; 0 if none."""
    for word in words:
        if word is None:
            continue
        if word.isdecimal() and len(word) == 3:  # noqa: PLR2004  # an HTTP status as text
            return int(word)
        status = _STATUS_OF_WORD.get(re.sub("[ _-]", "", word).lower())
        if status is not None:
            return status
    return 0


class StreamError(APIError):
    """A stream did not end as it should.

    Attributes:
        partial: Everything received before, assembled.
        events: How many events were received.
        bytes_received: How many bytes of body were received.
    """

    partial: ChatCompletion | None
    events: int
    bytes_received: int

    def __init__(
        self,
        message: str = "",
        *,
        partial: ChatCompletion | None = None,
        events: int = 0,
        bytes_received: int = 0,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.partial = partial
        self.events = events
        self.bytes_received = bytes_received


class StreamInterruptedError(StreamError, APIConnectionError):
    """The connection was lost before the stream was complete."""


class StreamTruncatedError(StreamError):
    """The stream ended cleanly, but short: neither ``[DONE]`` nor a finish_reason for every choice."""


class StreamTimeoutError(StreamError, APITimeoutError):
    """No content came within the limit; ``phase`` is first_token, idle or total."""


class StreamProtocolError(StreamError):
    """What came is not a stream of chat completion chunks."""


class StreamLimitError(StreamError):
    """What came exceeds a limit of `Limits`; the message names it."""


class StreamServerError(StreamError):
    """The server sent an error inside the stream."""

    @property
    def status_class(self) -> type[APIStatusError]:
        """The class that the same error would have as a status."""
        return status_error_class(status_of_words(self.code, self.type), self.code)

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return issubclass(
            self.status_class, (RateLimitError, InternalServerError, RequestTimeoutError)
        ) and not issubclass(self.status_class, QuotaExceededError)


def refused_choice(index: int, most: int) -> StreamError:
    """Make the error of a choice whose index is none, or that of too many.

    Args:
        index: Its index.
        most: How many choices there may be.
    """
    if index < 0:
        return StreamProtocolError(f"a choice has the index {index}")
    return StreamLimitError(
        f"a choice has the index {index}, and choices={most} are allowed; "
        "raise Limits(choices=...) if that is meant"
    )


def refused_call(choice: int, index: int, most: int) -> StreamError:
    """Make the error of a tool call whose index is none, or that of too many.

    Args:
        choice: Index of its choice.
        index: Its own.
        most: How many tool calls a choice may have.
    """
    if index < 0:
        return StreamProtocolError(f"a tool call of choice {choice} has the index {index}")
    return StreamLimitError(
        f"choice {choice} has more than tool_calls={most} tool calls (index {index}); "
        "raise Limits(tool_calls=...) if that is meant"
    )


class FanOutError(GradientError, ExceptionGroup[Exception]):  # pyright: ignore[reportIncompatibleVariableOverride]  # message is the group's, which can only be read
    """Some of several requests failed, and the others were given up; the group holds every error.

    Attributes:
        message: How many failed, and the first of the errors.
        errors: The errors, by the index of the choice or request they belong to.
        partial: Everything received of all choices, assembled; None for requests that have nothing in common.
    """

    errors: dict[int, Exception]
    partial: ChatCompletion | None

    def __new__(
        cls,
        message: str,
        exceptions: Sequence[Exception],
        *,
        errors: Mapping[int, Exception] | None = None,
        partial: ChatCompletion | None = None,
    ) -> Self:
        """Make the group; it has to hold an error at least."""
        del errors, partial
        return super().__new__(cls, message, exceptions)

    def __init__(
        self,
        message: str,
        exceptions: Sequence[Exception],
        *,
        errors: Mapping[int, Exception] | None = None,
        partial: ChatCompletion | None = None,
    ) -> None:
        # The group keeps message and errors itself, and lets nobody set them.
        Exception.__init__(self, message, exceptions)
        self.errors = dict(errors or {})
        self.partial = partial

    def derive(self, excs: Sequence[Any]) -> Any:
        """Make the group of some of its errors, as ``except*`` and `split` need it."""
        kept = {index: error for index, error in self.errors.items() if error in excs}
        return FanOutError(self.message, excs, errors=kept, partial=self.partial)
