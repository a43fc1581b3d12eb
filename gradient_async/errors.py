"""Every exception the library raises, one tree.

```
GradientError
├── ConfigurationError (ValueError)         a setting is missing or wrong; nothing was sent
├── InvalidRequestError (ValueError)        a parameter is outside its limit; nothing was sent
├── ToolArgumentsError (ValueError)         the arguments of a tool call do not fit the function
├── MaxTurnsError                           a run has made all its requests, and the model calls tools still
├── FanOutError (ExceptionGroup)            some of several requests failed
├── JournalError                            the file of results can't be opened, read or written
└── APIError                                a request failed
    ├── APIConnectionError                  no connection, or the connection was lost
    │   └── APITimeoutError (TimeoutError)  a time limit was exceeded
    ├── APIResponseValidationError          a reply of status 2xx without the documented content
    ├── APIStatusError                      the server answered with an error; one class for each status
    ├── OutputError                         a whole answer is not a value of its type
    │   ├── LengthFinishReasonError         the answer was cut at the limit of tokens
    │   ├── ContentFilterFinishReasonError  a content filter cut the answer
    │   ├── OutputDecodeError (ValueError)  the answer is not JSON
    │   └── OutputValidationError (ValueError)  the answer is JSON of another form
    └── StreamError                         a stream failed; `.partial` holds all that was received
        ├── StreamInterruptedError          (APIConnectionError) the connection was lost
        ├── StreamTimeoutError              (APITimeoutError) no content came within a time limit
        ├── StreamTruncatedError            the stream ended in good order, but too early
        ├── StreamServerError               the server sent an error inside the stream
        ├── StreamProtocolError             the body is not a stream of chunks
        └── StreamLimitError                the stream exceeds one of `Limits`
```

Names and attributes are those of ``gradient`` and ``openai``, with more attributes. All errors survive pickling.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeVar

import msgspec

from .types import ChatCompletion, CompletionUsage, Headers, ParsedChatCompletion, RateLimits
from .types.nesting import decode_json

Phase = Literal["connect", "send", "response", "body", "first_token", "idle", "total"]

# C0, DEL and C1 controls, line and paragraph separators, marks that change the direction of text, lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escape(text: str, limit: int = 500) -> str:
    """Make text from a server safe to print and to log.

    Args:
        text: Text from a server.
        limit: Number of characters to keep.
    """
    cut = text if len(text) <= limit else text[:limit] + "…"
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), cut)


class RequestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The request that failed.

    Attributes:
        method: HTTP method.
        url: URL without its query.
        headers: Headers of the request that the library set, with ``[key]`` in place of keys.
    """

    method: str
    url: str
    headers: Headers = Headers()

    def __repr__(self) -> str:
        # The repr has no headers, because logs show the repr, and any header may contain a secret.
        return f"RequestInfo(method={self.method!r}, url={self.url!r})"


class ResponseInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The reply to a request that failed.

    Attributes:
        status_code: HTTP status.
        headers: Headers of the reply.
        request: The request.
        content: The body as received, as far as it was read.
    """

    status_code: int
    headers: Headers
    request: RequestInfo | None = None
    content: bytes = b""

    @property
    def text(self) -> str:
        """The body as text; bytes that are not UTF-8 become U+FFFD."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Decode the body.

        Raises:
            ValueError: If the body is not JSON, or is nested too deep.
        """
        return decode_json(self.content)


class GradientError(Exception):
    """Base of all errors that the library raises.

    Attributes:
        message: What happened, and what you can do.
    """

    message: str

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # By default pickle calls the class with `args`, the message alone; some classes require more arguments.
        return _restore, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        # OSError, a base of the timeout errors, formats its arguments differently.
        return self.message


E = TypeVar("E", bound=GradientError)


def copy_of(error: E) -> E:
    """Return a copy of an error without traceback and context, to be raised in place of an error that is kept.

    A raised exception refers, by its traceback, to every frame that it passes, also to frames of the user. A frame
    refers to its local variables. If anything in these frames refers to the exception, be it a variable, an attribute
    of a stream or the result of a task, there is a reference cycle: then the frames, with the messages of the request
    and the connection, stay in memory until the cyclic garbage collector runs. Two rules prevent that. An error that
    is kept anywhere, even in a local variable, has no traceback (``error.with_traceback(None)``). It is never raised;
    a copy is, to which nothing refers. Its cause is a copy, too, because users may raise that.
    """
    copied = copy.copy(error)
    if error.__cause__ is not None:
        copied.__cause__ = copy.copy(error.__cause__)
    return copied


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


class JournalError(GradientError):
    """The journal of `map` can't be opened, read or written; the message names the file and says what to do.

    Results that are in the file stay there, and the next run continues after them.

    Attributes:
        path: Path of the file.
    """

    path: str

    def __init__(self, message: str = "", *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class ToolArgumentsError(GradientError, ValueError):
    """The arguments of a tool call do not fit, or the tool does not exist; the message is written for the model to read."""


class MaxTurnsError(GradientError):
    """A run has made ``max_turns`` requests, and the model calls tools still. The tools of the last turn have not run.

    Attributes:
        completion: The completion of the last turn.
        turns: The completions of all turns.
        messages: The conversation without the calls of the last turn, to continue with more turns.
        usage: Usage of all turns, or None if no reply told it.
    """

    def __init__(
        self,
        message: str = "",
        *,
        turns: Sequence[ChatCompletion] = (),
        messages: Sequence[Any] = (),
        usage: CompletionUsage | None = None,
    ) -> None:
        super().__init__(message)
        self.turns = list(turns)
        self.completion: ChatCompletion = self.turns[-1] if turns else ChatCompletion()
        self.messages = list(messages)
        self.usage = usage


class APIError(GradientError):
    """A request failed.

    Attributes:
        message: What happened, and what you can do; text from the server is escaped and cut.
        request: Method and URL.
        response: Status, headers and body of the reply, if one came.
        status_code: HTTP status of the reply, if one came.
        headers: Headers of the reply, if one came.
        request_id: The server's id of the request.
        body: The error as the server sent it: decoded JSON, or the beginning of the text; the whole body is in
            ``response.content``.
        code: The server's code for the error. The library's own codes "tls", "proxy_refused", "too_many_files" and
            "reply_begun" mark a failed or lost connection after which no retry is made.
        type: The server's type of the error.
        param: The parameter that the server refused.
        retry_after: Seconds to wait before a retry, if the server stated them.
        rate_limits: Rate limits in the headers of the reply.
        phase: The phase that failed: connect, send, response, body, first_token, idle, total.
        ambiguous: Whether the server may have done the work although the request failed.
        attempts: Number of requests that were made.
        elapsed: Seconds from the call to the error.
    """

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
        self.request: RequestInfo | None = (
            request if request is not None or response is None else response.request
        )
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
        """The first 200 bytes of the body of the reply, as far as it was read."""
        return b"" if self.response is None else self.response.content[:200]


class APIConnectionError(APIError):
    """No connection could be made, or the connection was lost; ``phase`` says when.

    ``__cause__`` is the error of the operating system, with ``errno`` and ``strerror``, if there was one, else None.
    """


class APITimeoutError(APIConnectionError, TimeoutError):
    """A time limit of `Timeout` was exceeded; ``phase`` names it."""


class APIResponseValidationError(APIError):
    """A reply of status 2xx does not have the documented content; ``body_head`` shows its beginning."""


class APIStatusError(APIError):
    """The server answered with an error.

    Args:
        message: What happened, and what you can do.
        response: The reply; the error has its status and headers.
        body: The error as the server sent it: decoded JSON, or text.
        **details: Arguments of `APIError`.
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
        """Headers of the reply."""
        return self.response.headers


class BadRequestError(APIStatusError):
    """400: the server does not accept the request."""


class AuthenticationError(APIStatusError):
    """401: the key is missing or wrong."""


class PaymentRequiredError(APIStatusError):
    """402: the account has no credit."""


class PermissionDeniedError(APIStatusError):
    """403: the key does not permit the request."""


class NotFoundError(APIStatusError):
    """404: the model, agent or path does not exist."""


class RequestTimeoutError(APIStatusError):
    """408: the server did not receive the whole request in time."""


class ConflictError(APIStatusError):
    """409: the request conflicts with the server's state."""


class RequestTooLargeError(APIStatusError):
    """413: the request is larger than the server accepts."""


class UnprocessableEntityError(APIStatusError):
    """422: the request is well formed, but cannot be processed."""


class RateLimitError(APIStatusError):
    """429: too many requests or tokens; ``retry_after`` has the wait, if the server stated one."""


class QuotaExceededError(RateLimitError):
    """429 that waiting does not resolve: the account's quota is used up."""


class InternalServerError(APIStatusError):
    """5xx: the server failed."""


class OverloadedError(InternalServerError):
    """503 or 529: the server is overloaded."""


class GatewayTimeoutError(InternalServerError):
    """504, and 520 and 524 of a CDN: a gateway got no answer; the model may have done the work nevertheless."""


class UnexpectedRedirectError(APIStatusError):
    """3xx: a redirect. Redirects are never followed, so that key and prompt do not go to another host."""


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
    520: GatewayTimeoutError,
    524: GatewayTimeoutError,
    529: OverloadedError,
}
_BY_HUNDREDS: dict[int, type[APIStatusError]] = {3: UnexpectedRedirectError, 5: InternalServerError}

# The status for each code or type in an error event, which has no status. Codes are in lower case, without spaces,
# hyphens and underscores, because servers write them differently.
_STATUS_OF_CODE = {
    code: status
    for status, codes in {
        400: "badrequest badrequesterror invalidargument invalidrequest invalidrequesterror",
        401: "unauthorized unauthenticated authenticationerror invalidapikey invalidkey",
        403: "forbidden permissiondenied permissionerror",
        404: "notfound notfounderror modelnotfound",
        429: "toomanyrequests ratelimiterror ratelimitexceeded ratelimitreached resourceexhausted insufficientquota",
        500: "servererror apierror internalerror internalservererror",
        503: "overloaded overloadederror serviceunavailable unavailable",
        504: "timeout timeouterror",
    }.items()
    for code in codes.split()
}

_QUOTA_CODES = frozenset({"insufficient_quota", "quota_exceeded", "billing_hard_limit_reached"})


def status_error_class(status: int, code: str | None = None) -> type[APIStatusError]:
    """Return the class of error for a status.

    Args:
        status: HTTP status.
        code: The server's code of the error; it distinguishes a used-up quota from too many requests.
    """
    kind = _BY_STATUS.get(status) or _BY_HUNDREDS.get(min(status // 100, 5), APIStatusError)
    return QuotaExceededError if kind is RateLimitError and code in _QUOTA_CODES else kind


def status_of_code(*codes: str | None) -> int:
    """Return the HTTP status that corresponds to a server's code or type of an error; 0 if none does."""
    for code in codes:
        if code is None:
            continue
        if re.fullmatch(r"\d{3}", code):  # some servers send the status as the code
            return int(code)
        status = _STATUS_OF_CODE.get(re.sub("[ _-]", "", code).lower())
        if status is not None:
            return status
    return 0


class OutputError(APIError):
    """A whole answer is not a value of the type in the request.

    Attributes:
        completion: The completion with all choices, in which the valid ones are parsed; without choices if
            `Answer.decode` read a text that belongs to no completion.
        choice: Index of the first choice that is faulty.
        text: The text of this choice.
        path: Place of the fault, such as ``$.lines[2].price``, or None if it is not known.
        parsed: The plain values that the text holds, as far as they could be read, or None.
    """

    def __init__(
        self,
        message: str = "",
        *,
        completion: ParsedChatCompletion[Any] | None = None,
        choice: int = 0,
        text: str = "",
        path: str | None = None,
        parsed: Any = None,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.completion: ParsedChatCompletion[Any] = (
            ParsedChatCompletion[Any]() if completion is None else completion
        )
        self.choice = choice
        self.text = text
        self.path = path
        self.parsed = parsed


class LengthFinishReasonError(OutputError):
    """The answer was cut at the limit of tokens: its finish_reason is ``length``."""


class ContentFilterFinishReasonError(OutputError):
    """A content filter cut the answer: its finish_reason is ``content_filter``."""


class OutputDecodeError(OutputError, ValueError):
    """The answer is not JSON, or is empty."""


class OutputValidationError(OutputError, ValueError):
    """The answer is JSON, but not a value of the type; ``path`` is the place of the fault."""


class StreamError(APIError):
    """A stream ended with an error.

    Attributes:
        partial: The completion, as far as it was received.
        events: Number of events received.
        bytes_received: Number of bytes received of the body.
    """

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
    """The stream ended properly, but without ``[DONE]`` and without a finish_reason for every choice."""


class StreamTimeoutError(StreamError, APITimeoutError):
    """No content came within a time limit; ``phase`` is first_token, idle or total."""


class StreamProtocolError(StreamError):
    """The body is not a stream of chat completion chunks."""


class StreamLimitError(StreamError):
    """The stream exceeds one of `Limits`; the message names it."""


class StreamServerError(StreamError):
    """The server sent an error inside the stream."""

    @property
    def status_class(self) -> type[APIStatusError]:
        """The class that the error would have if the server had sent it as a status."""
        return status_error_class(status_of_code(self.code, self.type), self.code)

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return issubclass(
            self.status_class, (RateLimitError, InternalServerError, RequestTimeoutError)
        ) and not issubclass(self.status_class, QuotaExceededError)


def choice_index_error(index: int, max_choices: int) -> StreamError:
    """Return the error for a choice whose index is negative or beyond the limit."""
    if index < 0:
        return StreamProtocolError(f"a choice has the index {index}")
    return StreamLimitError(
        f"a choice has the index {index}, and choices={max_choices} are allowed; "
        "raise Limits(choices=...) to allow more"
    )


def call_index_error(choice: int, index: int, max_calls: int) -> StreamError:
    """Return the error for a tool call of a choice whose index is negative or beyond the limit."""
    if index < 0:
        return StreamProtocolError(f"a tool call of choice {choice} has the index {index}")
    return StreamLimitError(
        f"choice {choice} has more than tool_calls={max_calls} tool calls (index {index}); "
        "raise Limits(tool_calls=...) to allow more"
    )


class FanOutError(GradientError, ExceptionGroup[Exception]):  # pyright: ignore[reportIncompatibleVariableOverride]  # `message` of an ExceptionGroup is read-only
    """Some of several requests failed, and the others were cancelled; the group holds every error.

    Attributes:
        message: Number of failures, and the first error.
        errors: The errors, by the index of their choice or request.
        partial: The completion of all choices, as far as it was received; None if the requests are not choices
            of one completion.
    """

    def __new__(
        cls,
        message: str,
        exceptions: Sequence[Exception],
        *,
        errors: Mapping[int, Exception] | None = None,
        partial: ChatCompletion | None = None,
    ) -> Self:
        """Make the group, which must hold at least one error."""
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
        # `ExceptionGroup.__new__` has set message and exceptions, which are read-only.
        Exception.__init__(self, message, exceptions)
        self.errors = dict(errors or {})
        self.partial = partial

    def derive(self, excs: Sequence[Any]) -> Any:
        """Return a group of some of the errors; ``except*`` and `split` call this method."""
        kept = {index: error for index, error in self.errors.items() if error in excs}
        return FanOutError(self.message, excs, errors=kept, partial=self.partial)
