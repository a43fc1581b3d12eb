"""One class for each status that an API answers errors with."""

from __future__ import annotations

import re
from typing import Any

from ..types import Headers
from .base import APIError, ResponseInfo

__all__ = [
    "APIStatusError",
    "AuthenticationError",
    "BadRequestError",
    "ConflictError",
    "GatewayTimeoutError",
    "InternalServerError",
    "NotFoundError",
    "OverloadedError",
    "PaymentRequiredError",
    "PermissionDeniedError",
    "QuotaExceededError",
    "RateLimitError",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "UnexpectedRedirectError",
    "UnprocessableEntityError",
    "status_error_class",
    "status_of_words",
]


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
