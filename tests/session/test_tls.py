"""TLS that fails: never told as sent, never tried again; also where a server refuses the client after its handshake."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from cancellation import without_collector
from client_calls import create_completion
from leaked_key import expect_plain_cause

from gradient_async import APIConnectionError, AsyncGradient, InternalServerError, Limits, Retry, Timeout
from gradient_async.errors import RequestInfo
from gradient_async.session.connector import Connection, buffer_of
from gradient_async.session.exceptions import Peer, connection_error

CERTIFICATE = str(Path(__file__).with_name("localhost.pem"))
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TLSServer:
    """A server with TLS in a thread: unlike asyncio's, it tells the client why it refuses it.

    Args:
        version: The version of TLS.
        trusts: Whether it trusts the certificate of these tests as that of a client.
        asks: Whether it asks for a certificate.
        host: Where it listens.
    """

    def __init__(self, version: str, *, trusts: bool, asks: bool = True, host: str = "127.0.0.1") -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        context.minimum_version = context.maximum_version = VERSIONS[version]
        context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
        if trusts:
            context.load_verify_locations(CERTIFICATE)
        self._context = context
        self._socket = socket.create_server((host, 0))
        self.port: int = self._socket.getsockname()[1]
        self.connections = 0
        self.requests = 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.settimeout(5)
            secure = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            with secure, contextlib.suppress(OSError):
                try:
                    secure.do_handshake()
                except ssl.SSLError:
                    # What the client has sent is read, as otherwise the system resets the connection, and the client
                    # may not see why.
                    secure.shutdown(socket.SHUT_WR)  # from here on nothing is decrypted
                    while secure.recv(65536):
                        pass
                    continue
                if secure.recv(65536):
                    self.requests += 1
                    secure.sendall(b"HTTP/1.1 500 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


Connect = Callable[..., Any]


@pytest.fixture(params=["own", "session"])
async def connect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connect]:
    """Make a client that trusts the server's certificate, and has it, too, if asked to."""
    async with AsyncExitStack() as stack:

        async def connected(
            port: int, *, certificate: bool, host: str = "localhost", trusts: bool = True
        ) -> AsyncGradient:
            context = ssl.create_default_context(cafile=CERTIFICATE if trusts else None)
            if certificate:
                context.load_cert_chain(CERTIFICATE)
            session = None
            if request.param == "session":
                connector = aiohttp.TCPConnector(ssl=context)
                session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            else:
                monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", context)
            return await stack.enter_async_context(
                AsyncGradient(
                    base_url=f"https://{host}:{port}/v1",
                    model_access_key="k-012345",
                    session=session,
                    max_retries=1,
                    retry=Retry(max_backoff=0.01),
                    timeout=Timeout(connect=5, response=5),
                )
            )

        yield connected


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("certificate", [False, True])
async def test_a_client_whose_certificate_is_missing_or_refused(
    connect: Connect, version: str, *, certificate: bool
) -> None:
    """In TLS 1.3 the refusal comes after the client has sent the request, in place of a reply."""
    with TLSServer(version, trusts=not certificate) as server:
        client = await connect(server.port, certificate=certificate)
        with pytest.raises(APIConnectionError) as caught:
            await create_completion(client)
        error = caught.value
        assert (type(error), error.phase, error.ambiguous) == (APIConnectionError, "connect", False)
        assert 0 == server.requests
    if error.code is None:
        # A session of the caller that is closed in the moment in which aiohttp writes does not tell why.
        assert "closed the connection as soon as it was made" in str(error)
        return
    assert ("tls", 1, 1) == (error.code, error.attempts, server.connections)
    assert f"TLS with localhost:{server.port} failed" in str(error)
    assert ("pass a session that has one" in str(error)) is not certificate
    assert "answer" not in str(error)


async def test_a_lost_connection_leaves_nothing_of_its_tls(connect: Connect) -> None:
    """Event loops keep the methods that receive decrypted bytes, for ever, beside buffers of 256 KiB and more."""
    kinds = {"Connection", "SSLProtocol"}
    with without_collector(), TLSServer("1.3", trusts=True, asks=False) as server:
        before = {id(found) for found in gc.get_objects() if type(found).__name__ in kinds}
        client = await connect(server.port, certificate=False)
        with pytest.raises(InternalServerError):
            await create_completion(client)
        left = ["?"]
        for _ in range(500):  # until the loop has seen the end of the connection
            if not left:
                break
            await asyncio.sleep(0.01)
            left = [
                type(found).__name__
                for found in gc.get_objects()
                if type(found).__name__ in kinds and id(found) not in before
            ]
        assert [] == left


class Piped(asyncio.Transport):
    """A transport without a socket, for TLS on top of it; a test plays the server."""

    _start_tls_compatible = True  # as asyncio asks

    def __init__(self) -> None:
        super().__init__()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        self._sent, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = context.wrap_bio(self._sent, self._to_send, server_side=True)
        self.protocol: Any = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def write(self, data: Any) -> None:
        self._sent.write(data)

    def close(self) -> None:
        self.protocol.connection_lost(None)

    def shake_hands(self) -> None:
        """Take the server's next step, if the client has begun."""
        if self.protocol is not None:
            with contextlib.suppress(ssl.SSLWantReadError):
                self.server.do_handshake()
            self.receive()

    def receive(self) -> None:
        """Hand over what the server has sent."""
        data = self._to_send.read()
        while data:
            buffer = self.protocol.get_buffer(-1)
            size = min(len(buffer), len(data))
            buffer[:size], data = data[:size], data[size:]
            self.protocol.buffer_updated(size)


@pytest.mark.usefixtures("needs_asyncio")  # uvloop has TLS of its own, for its own transports
async def test_what_comes_with_the_end_of_tls_is_received_by_a_slow_reader() -> None:
    """Decrypted and not yet decrypted bytes together are more than asyncio reads from a socket at once."""
    loop = asyncio.get_running_loop()
    piped = Piped()
    handler = ResponseHandler(loop)
    trusting = ssl.create_default_context(cafile=CERTIFICATE)
    starting = asyncio.create_task(loop.start_tls(piped, handler, trusting, server_hostname="localhost"))
    while not starting.done():
        await asyncio.sleep(0)
        piped.shake_hands()
    transport = await starting
    assert transport is not None
    handler.connection_made(transport)
    handler.set_response_params(read_until_eof=True)
    connection = Connection(transport, handler, buffer_of(loop))
    progress: Any = SimpleNamespace(begun=False, interim_left=1)
    connection.expect_reply(progress)
    transport.set_protocol(connection)
    piped.server.write(b"HTTP/1.1 200 OK\r\n\r\n")
    piped.receive()
    _, content = await handler.read()
    response: Any = SimpleNamespace(content=content, headers={})
    connection.attach(response)

    transport.pause_reading()  # as a slow reader does
    records = [8 * 1024] + [16 * 1024] * (len(buffer_of(loop)) // (16 * 1024))
    for size in records:  # 8 KiB more than the buffer: half of the last record is left, decrypted
        piped.server.write(b"x" * size)
    piped.receive()
    transport.resume_reading()
    await asyncio.sleep(0)
    transport.pause_reading()
    await asyncio.sleep(0)  # nothing more is read
    for size in [*[16 * 1024] * 15, 15 * 1000]:
        records.append(size)
        piped.server.write(b"x" * size)
    piped.receive()
    assert piped.protocol.eof_received()
    transport.resume_reading()
    received = 0
    for _ in range(20):
        received += len(content.read_nowait())
        await asyncio.sleep(0)
    assert (sum(records), True) == (received, content.at_eof())


async def test_a_client_whose_certificate_is_accepted(connect: Connect) -> None:
    with TLSServer("1.3", trusts=True) as server:
        client = await connect(server.port, certificate=True)
        with pytest.raises(InternalServerError, match="answered 500"):
            await create_completion(client)
        assert 2 == server.requests


@pytest.mark.parametrize("why", ["other name", "unknown authority"])
async def test_a_certificate_of_the_server_that_is_not_accepted(connect: Connect, why: str) -> None:
    host = "127.0.0.2" if why == "other name" else "127.0.0.1"
    with TLSServer("1.3", trusts=True, asks=False, host=host) as server:
        client = await connect(server.port, certificate=False, host=host, trusts=why == "other name")
        with pytest.raises(APIConnectionError) as caught:
            await create_completion(client)
        error = caught.value
        assert ("connect", False, 1, 0) == (error.phase, error.ambiguous, error.attempts, server.requests)
    assert "tls" == error.code
    assert "certificate verify failed" in str(error)
    assert isinstance(expect_plain_cause(error), ssl.SSLCertVerificationError)
    assert "nothing was sent" in str(error)


async def test_a_certificate_without_the_expected_fingerprint() -> None:
    with TLSServer("1.3", trusts=True, asks=False) as server:
        connector = aiohttp.TCPConnector(ssl=aiohttp.Fingerprint(b"x" * 32))
        async with aiohttp.ClientSession(connector=connector) as session:
            client = AsyncGradient(
                base_url=f"https://localhost:{server.port}", model_access_key="k-0123", session=session
            )
            with pytest.raises(
                APIConnectionError, match="fingerprint that the session expects; nothing"
            ) as caught:
                await create_completion(client)
        assert ("tls", "connect", 0) == (caught.value.code, caught.value.phase, server.requests)


def lost_by(reason: str | None) -> aiohttp.ClientOSError:
    """The error of a connection that TLS ended, as aiohttp raises it."""
    lost, cause = aiohttp.ClientOSError(1, "lost"), ssl.SSLError(1, "lost")
    if reason is not None:
        cause.reason = reason
    lost.__cause__ = cause
    return lost


@pytest.mark.parametrize(
    ("reason", "begun", "refused"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", False, True),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", False, True),
        ("TLSV1_ALERT_ACCESS_DENIED", False, True),
        ("TLSV1_ALERT_ACCESS_DENIED", True, False),
        ("TLSV1_ALERT_INTERNAL_ERROR", False, False),
        ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", False, False),
        (None, False, False),
    ],
)
def test_which_errors_of_tls_say_that_the_request_was_not_read(
    reason: str | None, *, begun: bool, refused: bool
) -> None:
    """Other errors of TLS may come after the server has done the work."""
    session: Any = SimpleNamespace(auth=None, trust_env=False)
    error = connection_error(
        lost_by(reason),
        RequestInfo(method="POST", url="https://h/v1"),
        phase="response",
        begun=begun,
        peer=Peer("h:443", tls=True),
        limits=Limits(),
        session=session,
    )
    assert isinstance(error, APIConnectionError)
    assert (not refused, "connect" if refused else "response") == (error.ambiguous, error.phase)
