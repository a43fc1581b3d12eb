"""Maps the exceptions of aiohttp and sockets to the errors of this library; no other file does."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp import http_exceptions

from ..errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ConfigurationError,
    GatewayTimeoutError,
    Phase,
    QuotaExceededError,
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

_OS_MODULES = frozenset({"builtins", "socket", "ssl"})  # modules of the exceptions that `os_error_of` makes

PROXY_AUTHENTICATION = 407
_BAD_GATEWAY = 502
_PROXY_BUSY = frozenset({408, 429})  # refusals of a proxy after which another attempt may succeed
MAX_ID = 200  # characters of a request id

_ADVICE: dict[int, str] = {
    401: "check the key: model_access_key or GRADIENT_MODEL_ACCESS_KEY (agents: agent_access_key)",
    402: "the account needs credit",
    403: "the key may not use this model or agent",
    404: "check the model's name and the endpoint; client.models.list() lists the models",
    413: "send less: shorter messages, or smaller images",
    429: "send fewer requests at once, or wait",
}
_QUOTA_ADVICE = "the account's quota is used up, and waiting does not help"


def bare(error: BaseException) -> BaseException:
    """Remove traceback and context from an exception of aiohttp and from its causes, and return the exception.

    aiohttp keeps some exceptions, and local variables here hold others. Their tracebacks would keep frames alive, and
    so close reference cycles; see `copy_of`. The context is not searched for more tracebacks: it may be an exception
    that the user is handling.
    """
    for origin in origins(error):
        origin.__traceback__ = None
        origin.__context__ = None
    return error


def reply_begun(cause: BaseException) -> bool:
    """Whether a connection was lost inside the head of a reply."""
    return isinstance(cause, aiohttp.ServerDisconnectedError) and not isinstance(cause.message, str)


def never_sent(cause: BaseException) -> bool:
    """Whether a connection was gone before anything could be written to it."""
    unsent = (UnsentError, aiohttp.ClientConnectionResetError)
    return any(isinstance(origin, unsent) for origin in origins(cause))


def origins(cause: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, its cause, the cause of its cause, and so on."""
    while cause is not None:
        yield cause
        cause = cause.__cause__


def os_error_of(cause: BaseException | None) -> OSError | None:
    """Return the error of the operating system, of the name server or of TLS that is below an exception of aiohttp, if any.

    It is a new exception with number and text alone, so that it may be the cause of an error that users log: those of
    aiohttp hold the headers of the request.
    """
    for origin in origins(cause):
        for error in (getattr(origin, "certificate_error", None), getattr(origin, "os_error", None), origin):
            if isinstance(error, OSError) and error.errno is not None:
                kind = next(kind for kind in type(error).__mro__ if kind.__module__ in _OS_MODULES)
                return cast("OSError", kind(error.errno, escape(error.strerror or "")))
    return None


class Peer(msgspec.Struct, frozen=True):
    """The other end of an attempt, as errors describe it.

    Attributes:
        host: The server's host and port.
        proxy: The proxy's host and port; None if there is none, or if it is unknown.
        unsure: Whether it is unknown if there is a proxy.
        tls: Whether the server is reached by TLS. A proxy then only passes bytes on; otherwise it reads the request, and
            answers it.
    """

    host: str
    proxy: str | None = None
    unsure: bool = False
    tls: bool = False

    @property
    def through(self) -> str:
        """Words for the way to the server."""
        return f"{self.host} through the proxy {self.proxy}" if self.proxy else self.host

    @property
    def answering(self) -> str:
        """The peer that answers a request."""
        if self.tls:
            return self.host
        if self.proxy:
            return f"the proxy {self.proxy} (for {self.host})"
        return f"{self.host}, or a proxy of the session," if self.unsure else self.host

    def connecting_to(self, cause: aiohttp.ClientConnectorError) -> str:
        """Return the peer to which no connection could be made."""
        # In an error that a test makes without a place, the property `host` raises an AttributeError.
        host = getattr(cause, "host", None)
        place = f"{host}:{cause.port}" if host else self.host
        return self.through if place == self.host else f"the proxy {place} (for {self.host})"


def proxy_error(status: int, reason: str, request: RequestInfo, peer: Peer) -> APIConnectionError:
    """Make the error for a proxy that refused to connect to the server, or to pass the request on."""
    proxy = f"the proxy {peer.proxy}" if peer.proxy else "the proxy"
    advice = (
        "; give its user name and password in its URL, http://USER:PASSWORD@HOST:PORT"
        if status == PROXY_AUTHENTICATION
        else ""
    )
    return APIConnectionError(
        f"{proxy} did not {'connect' if peer.tls else 'pass the request on'} to {peer.host}: "
        f"{status} {escape(reason)}{advice}",
        request=request,
        phase="connect",
        # If the rules of a proxy refuse the request, they also refuse another attempt.
        code="proxy_refused" if 400 <= status < 500 and status not in _PROXY_BUSY else None,  # noqa: PLR2004
    )


def _refused_handshake(cause: BaseException, *, begun: bool) -> ssl.SSLError | None:
    """Return the error with which the server ended TLS before it read the request.

    In TLS 1.3 a server checks a client's certificate when the client has finished its handshake and has sent its
    request. The refusal, which TLS calls an alert, is then all that comes in reply. Other errors of TLS may also come
    after the server has read the request.
    """
    for origin in origins(cause):
        if isinstance(origin, ssl.SSLError):
            # Only errors that ssl itself has raised have a reason.
            reason = getattr(origin, "reason", None) or ""
            return origin if "ALERT" in reason and "INTERNAL" not in reason and not begun else None
    return None


def _tls_error(cause: BaseException, request: RequestInfo, where: str, *, sent: bool) -> APIConnectionError:
    error = getattr(cause, "certificate_error", None) or getattr(cause, "os_error", None) or cause
    why = escape(str(error))
    if isinstance(cause, aiohttp.ServerFingerprintMismatch):
        why = "the certificate does not have the fingerprint that the session expects"
    plain = "WRONG_VERSION" in why.upper()  # the reply does not begin like TLS
    asks = any(word in why.upper() for word in ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE"))
    return APIConnectionError(
        f"TLS with {where} failed: {why}; "
        + ("the request was not read" if sent else "nothing was sent")
        + ("; if it asks for a client certificate, pass a session that has one" if asks else "")
        + ("; if it has no TLS, write http:// before its address" if plain else ""),
        request=request,
        phase="connect",
        code="tls",
    )


def _unsendable(cause: BaseException, session: aiohttp.ClientSession) -> ConfigurationError:
    """Map the exception of a request that aiohttp refused to send.

    The texts of aiohttp may show a proxy's URL, and the URL a password.
    """
    if session.auth is not None and not isinstance(cause, aiohttp.InvalidURL):
        what = "auth= of the session takes the place of the key: make the session without auth="
    elif isinstance(cause, aiohttp.InvalidURL) or session.trust_env:
        what = (
            "the URL of a proxy can't be used: write http://HOST:PORT in HTTPS_PROXY and HTTP_PROXY of the "
            "environment, or in proxy= of the session"
        )
    else:
        what = f"aiohttp refuses it: {escape(str(cause))}"
    return ConfigurationError(f"the request can't be sent: {what}; nothing was sent")


def _bad_head(
    cause: BaseException, request: RequestInfo, phase: Phase, peer: Peer, limits: Limits
) -> APIConnectionError:
    """Map the exception for a reply whose head is not HTTP, or too large."""
    causes = list(origins(cause))
    why = str(getattr(cause, "message", "") or cause)
    if phase == "connect":  # the reply of a proxy that was asked to connect
        proxy = f"the proxy {peer.proxy}" if peer.proxy else "the proxy"
        return APIConnectionError(
            f"what {proxy} (for {peer.host}) answered is not HTTP: {escape(why)}; nothing was sent",
            request=request,
            phase="connect",
        )
    host, sent = peer.answering, phase != "send"
    if any(isinstance(origin, TooManyInterimError) for origin in causes):
        return APITimeoutError(
            f"{host} sent more than interim_responses={limits.interim_responses} interim (1xx) responses "
            "and no answer",
            request=request,
            phase="response",
            ambiguous=True,
        )
    if "Too many headers" in why or any(isinstance(o, http_exceptions.LineTooLong) for o in causes):
        what = (
            f"the headers that {host} answered are too large: more than headers={limits.headers}, "
            f"or one of more than header_bytes={limits.header_bytes}; raise them in Limits if that is intended"
        )
    else:
        what = f"what {host} {'answered' if sent else 'sent'} is not HTTP: {escape(why)}"
    return APIConnectionError(what, request=request, phase="response" if sent else "send", ambiguous=sent)


def connection_error(
    cause: BaseException,
    request: RequestInfo,
    *,
    phase: Phase,
    begun: bool,
    peer: Peer,
    limits: Limits,
    session: aiohttp.ClientSession,
) -> APIConnectionError | ConfigurationError:
    """Map the exception that ended an attempt before a reply.

    aiohttp's errors hold the request's headers, including the key, so only text from their messages is used.
    """
    if isinstance(cause, aiohttp.ClientHttpProxyError):
        return proxy_error(cause.status, cause.message, request, peer)
    if getattr(getattr(cause, "request_info", None), "method", None) == "CONNECT":
        phase = "connect"  # the reply of a proxy; a caller's own session reports it in this way
    if isinstance(cause, (aiohttp.ClientSSLError, ssl.SSLError, aiohttp.ServerFingerprintMismatch)):
        where = peer.connecting_to(cause) if isinstance(cause, aiohttp.ClientConnectorError) else peer.host
        return _tls_error(cause, request, where, sent=False)
    alert = _refused_handshake(cause, begun=begun)
    if alert is not None:
        return _tls_error(alert, request, peer.host, sent=phase == "response")
    if isinstance(cause, aiohttp.ConnectionTimeoutError) or (
        isinstance(cause, TimeoutError) and phase == "connect"
    ):
        return APITimeoutError(
            f"no connection to {peer.through} within the connect timeout; nothing was sent",
            request=request,
            phase="connect",
        )
    reset = isinstance(cause, aiohttp.ClientConnectorError) and cause.os_error.errno in _RESET
    if (reset and not peer.tls) or (phase != "connect" and never_sent(cause)):
        # With TLS the peer has answered during the handshake, so it is certain that it has not read the request.
        return APIConnectionError(
            f"{peer.answering} closed the connection as soon as it was made",
            request=request,
            phase="connect" if peer.tls else "send",
        )
    if isinstance(cause, aiohttp.ClientConnectorError):
        why = escape(str(cause.os_error) or "it was closed before TLS was established")
        return APIConnectionError(
            f"no connection to {peer.connecting_to(cause)}: {why}; nothing was sent",
            request=request,
            phase="connect",
        )
    # A caller's own session does not tell whether it has sent a GET. No parser of aiohttp raises ValueError itself.
    if isinstance(cause, aiohttp.InvalidURL) or (
        isinstance(cause, ValueError) and (phase == "connect" or request.method == "GET")
    ):
        return _unsendable(cause, session)
    if isinstance(cause, (aiohttp.ClientResponseError, http_exceptions.HttpProcessingError, ValueError)):
        return _bad_head(cause, request, phase, peer, limits)
    sent = phase != "connect"
    works = sent and request.method != "GET"  # a GET lists models, which needs no work of a model
    if sent:
        at = "inside the headers of its answer" if begun else "without an answer"
        what = f"{peer.answering} closed the connection {at} ({type(cause).__name__})"
        what += "; the server may still have done the work" if works else ""
    elif peer.proxy:
        what = f"the proxy {peer.proxy} closed the connection before it was connected to {peer.host}; nothing was sent"
    else:
        what = f"{peer.host} could not be reached ({type(cause).__name__}); nothing was sent"
    return APIConnectionError(
        what, request=request, phase=phase, ambiguous=works, code="reply_begun" if begun else None
    )


def timeout_error(
    request: RequestInfo, *, phase: Phase, limit: float | None, sent: bool, lacks_files: bool, peer: Peer
) -> APITimeoutError:
    """Make the error for the limit that ran out.

    Args:
        request: The request.
        phase: The phase of the limit.
        limit: The limit in seconds.
        sent: Whether the request, or a part of it, had been sent.
        lacks_files: Whether the attempt waited because this process could open no file.
        peer: The other end.
    """
    names: dict[Phase, str] = {"connect": "connect", "first_token": "first_token", "total": "total"}
    name = names.get(phase, "response")
    doing = {
        "connect": f"no connection to {peer.through}",
        "total": f"the call to {peer.host} did not finish",
    }.get(phase, f"no answer from {peer.answering}")
    why = "" if sent else "; nothing was sent"
    if lacks_files:
        why = ": too many open files; nothing was sent; raise `ulimit -n`, or lower max_connections"
    return APITimeoutError(
        f"{doing} within {limit} s (Timeout.{name}){why}",
        request=request,
        phase="response" if phase == "first_token" else phase,
        ambiguous=sent and request.method != "GET",
        code="too_many_files" if lacks_files else None,
    )


def interruption(
    cause: BaseException, request: RequestInfo, *, lost: BaseException | None
) -> StreamInterruptedError:
    """Map the exception that broke a body off.

    Args:
        cause: The exception of aiohttp.
        request: The request.
        lost: The exception with which the connection was lost, if it is known.
    """
    error = StreamInterruptedError(
        f"the connection was lost in the middle of the stream ({type(cause).__name__}); "
        "what came before is in .partial",
        request=request,
        phase="body",
    )
    error.__cause__ = os_error_of(cause) or os_error_of(lost)
    return error


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
    error: ErrorBody, response: ResponseInfo, *, now: float, jitter: float, peer: Peer
) -> APIStatusError:
    """Make the error for a reply, from its status and body.

    Args:
        error: The error that the body describes.
        response: Status, headers and body.
        now: Unix time in seconds.
        jitter: A random number from 0 to 1, for a wait that the server asks for.
        peer: The other end, for the message.
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
    words = _QUOTA_ADVICE if issubclass(kind, QuotaExceededError) else _ADVICE.get(status)
    advice = f"; {words}" if words else ""
    return kind(
        f"{peer.answering} answered {status}: {what}{named}{advice}",
        response=response,
        body=error.body,
        code=error.code,
        type=error.type,
        param=error.param,
        request_id=error.request_id or request_id_of(response.headers),
        retry_after=retry_after(response.headers, status=status, now=now, jitter=jitter),
        rate_limits=rate_limits(response.headers, now),
        ambiguous=issubclass(kind, GatewayTimeoutError),
        # A proxy answers with this status when it did not reach the server.
        phase="connect" if status == _BAD_GATEWAY and peer.proxy and not peer.tls else None,
    )
