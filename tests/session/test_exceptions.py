"""The cause of an error is the error of the operating system, and never one of aiohttp, which would hold the key."""

from __future__ import annotations

import errno
import pickle
import socket
import ssl
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from client_calls import CALL, Start, create_completion
from leaked_key import KEY, MIDDLE, everything_shown, expect_plain_cause

from gradient_async import APIConnectionError, APITimeoutError, AsyncGradient, StreamInterruptedError
from gradient_async.session.exceptions import os_error_of
from gradient_async.testing import RESET, chunk, reply_sse, reply_writes

PLACE: Any = SimpleNamespace(host="h", port=1, ssl=True, is_ssl=True)


def below(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("raised", "kind", "number", "text"),
    [
        (ConnectionResetError(errno.ECONNRESET, "reset"), ConnectionResetError, errno.ECONNRESET, "reset"),
        (aiohttp.ClientOSError(errno.EPIPE, "pipe"), BrokenPipeError, errno.EPIPE, "pipe"),
        (aiohttp.ClientConnectorError(PLACE, OSError(111, "no")), ConnectionRefusedError, 111, "no"),
        (
            aiohttp.ClientConnectorDNSError(PLACE, socket.gaierror(-2, "unknown")),
            socket.gaierror, -2, "unknown",
        ),
        (
            aiohttp.ClientConnectorCertificateError(PLACE, ssl.SSLCertVerificationError(1, "expired")),
            ssl.SSLCertVerificationError, 1, "expired",
        ),
        (aiohttp.ClientConnectorSSLError(PLACE, ssl.SSLError(1, "wrong")), ssl.SSLError, 1, "wrong"),
        (below(aiohttp.ClientError(), OSError(113, "a\x1bb")), OSError, 113, "a\\x1bb"),
    ],
)  # fmt: skip
def test_the_error_of_the_operating_system_is_made_anew(
    raised: BaseException, kind: type[OSError], number: int, text: str
) -> None:
    error = APIConnectionError()
    error.__cause__ = found = os_error_of(raised)
    assert found is not None
    assert found is not raised
    assert expect_plain_cause(error) is found
    assert (kind, number, text) == (type(found), found.errno, found.strerror)


@pytest.mark.parametrize(
    "raised",
    [
        aiohttp.ServerDisconnectedError(),
        aiohttp.ConnectionTimeoutError(),
        TimeoutError(),
        ConnectionResetError(),
        ValueError("x"),
        aiohttp.ClientConnectorError(PLACE, OSError("refused")),
    ],
)
def test_without_such_an_error_there_is_no_cause(raised: BaseException) -> None:
    assert None is os_error_of(raised)


async def test_no_connection() -> None:
    """As the documentation of other clients prints it."""
    async with AsyncGradient(base_url="http://127.0.0.1:9/v1", model_access_key=KEY, max_retries=1) as client:
        with pytest.raises(APIConnectionError) as caught:
            await create_completion(client)
    cause = expect_plain_cause(caught.value)
    assert isinstance(cause, ConnectionRefusedError)
    assert errno.ECONNREFUSED == cause.errno
    assert "127.0.0.1" in str(cause)
    assert MIDDLE not in everything_shown(caught.value)
    assert None is pickle.loads(pickle.dumps(caught.value)).__cause__  # noqa: S301  # as Python pickles exceptions


async def test_an_unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_arguments: Any, **_options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with AsyncGradient(base_url="https://no.invalid/v1", model_access_key=KEY, max_retries=0) as client:
        with pytest.raises(APIConnectionError) as caught:
            await create_completion(client)
    cause = expect_plain_cause(caught.value)
    assert (socket.gaierror, socket.EAI_NONAME) == (type(cause), cause.errno)


async def test_a_connection_that_is_lost(start: Start) -> None:
    """In a stream, for each reader of the error; in an awaited reply; with bytes read by hand."""
    body = b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\nContent-Type: application/json\r\n\r\n{"id":'
    cut = reply_sse(chunk("a"), done=False).data[:-7]
    _, client = await start(
        reply_writes([cut, RESET]), *[reply_writes([body, RESET])] * 2, model_access_key=KEY
    )
    found: list[APIConnectionError] = []
    async with client.chat.completions.stream(**CALL) as stream:
        for _ in range(2):
            with pytest.raises(StreamInterruptedError) as caught:
                await stream.completion()
            found.append(caught.value)
    with pytest.raises(APIConnectionError) as awaited:
        await create_completion(client)
    found.append(awaited.value)
    streaming: Any = client.with_streaming_response
    async with streaming.chat.completions.create(**CALL) as response:
        with pytest.raises(APIConnectionError) as read:
            await anext(response.iter_lines())
    found.append(read.value)
    causes = [expect_plain_cause(error) for error in found]
    assert [(ConnectionResetError, errno.ECONNRESET)] * 4 == [(type(cause), cause.errno) for cause in causes]
    assert 4 == len(set(map(id, causes)))


async def test_a_limit_of_ours_has_no_cause(start: Start) -> None:
    _, client = await start(reply_writes([3.0]), timeout=0.05, max_retries=0)
    with pytest.raises(APITimeoutError) as caught:
        await create_completion(client)
    assert None is caught.value.__cause__
