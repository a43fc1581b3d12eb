"""Maps the exceptions of aiohttp and sockets to the errors of this library; no other file does."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
from aiohttp import http_exceptions

from ..errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    GatewayTimeoutError,
    Phase,
    RequestInfo,
    ResponseInfo,
    StreamInterruptedError,
    escape,
    status_error_class,
)
from ..policy.ratelimit import rate_limits, retry_after

if TYPE_CHECKING:
    from ..config import Limits
    from ..decoding import ErrorBody
    from ..types import Headers


class UnsentError(aiohttp.ClientConnectionError):
    """The connection was gone before the request could be written; never leaves the library."""


class TooManyInterimError(http_exceptions.HttpProcessingError):
    """More interim responses came than `Limits` allow; never leaves the library."""


# Everything that aiohttp and the sockets below it raise. aiohttp's parser in Python raises HttpProcessingError. Invalid
# headers and lengths raise ValueError, and a connection that was closed while it was read raises EofStream.
TRANSPORT_ERRORS = (
    aiohttp.ClientError,
    aiohttp.EofStream,
    http_exceptions.HttpProcessingError,
    TimeoutError,
    OSError,
    ValueError,
)

# Error numbers of a connection that was lost after the peer had accepted it; any other failed connection was never made.
_RESET = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE})

MAX_ID = 200  # characters of a request id

_ADVICE: dict[int, str] = {
    401: "check the key: model_access_key or GRADIENT_MODEL_ACCESS_KEY (agents: agent_access_key)",
    402: "the account needs credit",
    403: "the key may not use this model or agent",
    404: "check the model's name and the endpoint; client.models.list() lists the models",
    413: "send less: shorter messages, or smaller images",
    429: "send fewer requests at once, or wait",
}


def reply_begun(cause: BaseException) -> bool:
    """Whether a connection was lost inside the head of a reply."""
    return isinstance(cause, aiohttp.ServerDisconnectedError) and not isinstance(cause.message, str)


def never_sent(cause: BaseException) -> bool:
    """Whether a connection was gone before anything could be written to it."""
    unsent = (UnsentError, aiohttp.ClientConnectionResetError)
    return any(isinstance(origin, unsent) for origin in _origins(cause))


def _origins(cause: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, its cause, the cause of its cause, and so on."""
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _bad_head(cause: BaseException, request: RequestInfo, host: str, limits: Limits) -> APIConnectionError:
    """Map the exception for a reply whose head is not HTTP, or too large."""
    origins = list(_origins(cause))
    if any(isinstance(origin, TooManyInterimError) for origin in origins):
        return APITimeoutError(
            f"{host} sent more than interim_responses={limits.interim_responses} interim (1xx) responses "
            "and no answer",
            request=request,
            phase="response",
            ambiguous=True,
        )
    why = str(getattr(cause, "message", "") or cause)
    if "Too many headers" in why or any(isinstance(o, http_exceptions.LineTooLong) for o in origins):
        what = (
            f"the headers that {host} answered are too large: more than headers={limits.headers}, "
            f"or one of more than header_bytes={limits.header_bytes}; raise them in Limits if that is intended"
        )
    else:
        what = f"what {host} answered is not HTTP: {escape(why)}"
    return APIConnectionError(what, request=request, phase="response", ambiguous=True)


def connection_error(
    cause: BaseException, request: RequestInfo, *, phase: Phase, begun: bool, host: str, limits: Limits
) -> APIConnectionError:
    """Map the exception that ended an attempt before a reply.

    aiohttp's errors hold the request's headers, including the key, so only text from their messages is used.
    """
    if isinstance(cause, (aiohttp.ClientSSLError, ssl.SSLError)):
        why = escape(
            str(getattr(cause, "certificate_error", None) or getattr(cause, "os_error", None) or cause)
        )
        return APIConnectionError(
            f"TLS with {host} failed: {why}; nothing was sent", request=request, phase="connect", code="tls"
        )
    if isinstance(cause, aiohttp.ConnectionTimeoutError) or (
        isinstance(cause, TimeoutError) and phase == "connect"
    ):
        return APITimeoutError(
            f"no connection to {host} within the connect timeout; nothing was sent",
            request=request,
            phase="connect",
        )
    if (isinstance(cause, aiohttp.ClientConnectorError) and cause.os_error.errno in _RESET) or (
        phase != "connect" and never_sent(cause)
    ):
        return APIConnectionError(
            f"{host} closed the connection as soon as it was made", request=request, phase="send"
        )
    if isinstance(cause, aiohttp.ClientConnectorError):
        why = escape(str(cause.os_error))
        return APIConnectionError(
            f"no connection to {host}: {why}; nothing was sent", request=request, phase="connect"
        )
    if isinstance(cause, (aiohttp.ClientResponseError, http_exceptions.HttpProcessingError, ValueError)):
        return _bad_head(cause, request, host, limits)
    sent = phase != "connect"
    at = "inside the headers of its answer" if begun else "without an answer"
    what = f"closed the connection {at}" if sent else "could not be reached"
    return APIConnectionError(
        f"{host} {what} ({type(cause).__name__})"
        + ("; the server may still have done the work" if sent else ""),
        request=request,
        phase=phase,
        ambiguous=sent,
        code="reply_begun" if begun else None,
    )


def timeout_error(request: RequestInfo, *, phase: Phase, limit: float | None, host: str) -> APITimeoutError:
    """Make the error for the limit that ran out."""
    names: dict[Phase, str] = {"connect": "connect", "first_token": "first_token", "total": "total"}
    name = names.get(phase, "response")
    doing = {
        "connect": f"no connection to {host}",
        "total": f"the call to {host} did not finish",
    }.get(phase, f"no answer from {host}")
    return APITimeoutError(
        f"{doing} within {limit} s (Timeout.{name})",
        request=request,
        phase="response" if phase == "first_token" else phase,
        ambiguous=phase != "connect",
    )


def interruption(cause: BaseException, request: RequestInfo) -> StreamInterruptedError:
    """Map the exception that broke a body off."""
    return StreamInterruptedError(
        f"the connection was lost in the middle of the stream ({type(cause).__name__}); "
        "what came before is in .partial",
        request=request,
        phase="body",
    )


def _origin_of(location: str) -> str:
    """Describe the target of a redirect without user name, path and query, which may be confidential."""
    try:
        parts = urlsplit(location)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "nowhere"
    if not host:
        return f"a {parts.scheme}: URL" if parts.scheme else "a path of its own"
    return f"{parts.scheme or 'the same scheme'}://{host}" + (f":{port}" if port else "")


def request_id_of(headers: Headers) -> str | None:
    """Return the server's id of a request from the headers of the reply, escaped and cut, because it will be logged."""
    request_id = headers.get("x-request-id")
    return None if request_id is None else escape(request_id, MAX_ID)


def status_error(
    error: ErrorBody, response: ResponseInfo, *, now: float, jitter: float, host: str
) -> APIStatusError:
    """Make the error for a reply, from its status and body.

    Args:
        error: The error that the body describes.
        response: Status, headers and body.
        now: Unix time in seconds.
        jitter: A random number from 0 to 1, for a wait that the server asks for.
        host: The server that answered, for the message.
    """
    status = response.status_code
    kind = status_error_class(status, error.code or error.type)
    named = f" ({error.code or error.type})" if error.code or error.type else ""
    location = response.headers.get("location")
    if 300 <= status < 400 and location is not None:  # noqa: PLR2004  # HTTP statuses
        origin = _origin_of(location)
        what = f"points to {escape(origin, 200)}, and redirects are never followed"
    else:
        what = error.message or "no message"
    advice = f"; {_ADVICE[status]}" if status in _ADVICE else ""
    return kind(
        f"{host} answered {status}: {what}{named}{advice}",
        response=response,
        body=error.body,
        code=error.code,
        type=error.type,
        param=error.param,
        request_id=error.request_id or request_id_of(response.headers),
        retry_after=retry_after(response.headers, status=status, now=now, jitter=jitter),
        rate_limits=rate_limits(response.headers, now),
        ambiguous=issubclass(kind, GatewayTimeoutError),
    )
