"""Proxies: what a proxy does is never told as the server's, and what never reached the server never as sent."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from client_calls import create_completion

from gradient_async import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    AsyncGradient,
    ConfigurationError,
    GradientError,
    InternalServerError,
    Retry,
    Timeout,
)
from gradient_async.session import aiohttp_internals
from gradient_async.testing import CLOSE, HOLD, RESET, completion, reply_json, reply_writes, serve

CERTIFICATE = Path(__file__).with_name("localhost.pem")
SERVER = "localhost:9"  # nothing listens there, and no proxy here goes there
PASSWORD = "pass-word-of-the-proxy"


class Asker:
    """Makes calls through a proxy that the environment, a session, or the environment of a session names."""

    def __init__(self, way: str, monkeypatch: pytest.MonkeyPatch, stack: AsyncExitStack) -> None:
        self._way = way
        self._monkeypatch = monkeypatch
        self._stack = stack
        # What proxy a session was made with can be learned only from what aiohttp does not document.
        self.knows_proxy = way != "session" or aiohttp_internals.enabled

    async def __call__(
        self, scheme: str, proxy: str, *, limit: float = 2.0, max_retries: int = 1
    ) -> GradientError:
        """Make a call that fails; return its error."""
        session: aiohttp.ClientSession | None = None
        if self._way == "session":
            session = await self._stack.enter_async_context(aiohttp.ClientSession(proxy=proxy))
        else:
            self._monkeypatch.setenv(f"{scheme}_proxy", proxy)
        if self._way == "session with environment":
            session = await self._stack.enter_async_context(aiohttp.ClientSession(trust_env=True))
        client = AsyncGradient(
            base_url=f"{scheme}://{SERVER}/v1",
            model_access_key="model-key-0123",
            session=session,
            trust_env=session is None,
            retry=Retry(max_backoff=0.01),
            max_retries=max_retries,
            timeout=Timeout(connect=limit, response=limit),
        )
        await self._stack.enter_async_context(client)
        with pytest.raises(GradientError) as caught:
            await create_completion(client)
        error = caught.value
        assert PASSWORD not in f"{error} {error!r} {vars(error)}"
        return error


@pytest.fixture(params=["environment", "session", "session with environment"])
async def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asker]:
    """Make a call through a proxy; return its error."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    async with AsyncExitStack() as stack:
        yield Asker(request.param, monkeypatch, stack)


def with_password(url: str) -> str:
    return url.replace("//", f"//user:{PASSWORD}@")


def facts(error: GradientError) -> tuple[Any, ...]:
    assert isinstance(error, APIError)
    return type(error), error.phase, error.ambiguous, error.attempts


REFUSALS = {
    407: (1, "did not connect", "http://USER:PASSWORD@HOST:PORT"),
    403: (1, "did not connect", "403 Forbidden"),
    429: (2, "did not connect", "429 Too Many Requests"),
    502: (2, "did not connect", "502 Bad Gateway"),
    504: (2, "did not connect", "504 Gateway Timeout"),
}


@pytest.mark.parametrize("status", REFUSALS)
async def test_a_proxy_that_refuses_to_connect(ask: Asker, status: int) -> None:
    """Nothing was sent: the connection failed. Its refusals of the caller are not asked for twice."""
    attempts, *says = REFUSALS[status]
    reply = reply_json({"error": "from the proxy"}, status, {"proxy-authenticate": "Basic"})
    async with serve(handler=reply) as proxy:
        error = await ask("https", with_password(proxy.url))
        assert (APIConnectionError, "connect", False, attempts) == facts(error)
        assert attempts == len(proxy.requests)
        assert (f"CONNECT {SERVER}", None) == (
            f"{proxy.requests[0].method} {proxy.requests[0].path}",
            proxy.requests[0].headers.get("authorization"),
        )
        assert not ask.knows_proxy or proxy.url.removeprefix("http://") in str(error)
    assert all(text in str(error) for text in (SERVER, *says))
    assert "answered" not in str(error)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([CLOSE], id="closed"),
        pytest.param([RESET], id="reset"),
        pytest.param([b"SSH-2.0-OpenSSH_9.9\r\n\r\n", CLOSE], id="not HTTP"),
        pytest.param([b"HTTP/1.1 200 Conn", CLOSE], id="torn"),
        pytest.param([b"HTTP/1.1 200 OK\r\n\r\n", CLOSE], id="closed in the handshake"),
        pytest.param([b"HTTP/1.1 200 OK\r\n\r\n", RESET], id="reset in the handshake"),
    ],
)
async def test_a_proxy_that_breaks_off_as_it_connects(ask: Asker, steps: list[Any]) -> None:
    """Nothing was sent, so the call is made again."""
    async with serve(handler=reply_writes(steps)) as proxy:
        error = await ask("https", proxy.url)
        assert (APIConnectionError, "connect", False, 2) == facts(error)
        assert 2 == len(proxy.requests)
    assert "nothing was sent" in str(error)
    assert f"{SERVER} answered" not in str(error)


async def test_a_proxy_that_does_not_connect_in_time(ask: Asker) -> None:
    async with serve(handler=reply_writes([HOLD])) as proxy:
        error = await ask("https", proxy.url, limit=0.1, max_retries=0)
    assert (APITimeoutError, "connect", False, 1) == facts(error)
    assert "nothing was sent" in str(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_does_not_exist_or_listen(ask: Asker, dead_port: int, scheme: str) -> None:
    """The message names the proxy: the server may well be there."""
    for host in (f"127.0.0.1:{dead_port}", f"no-such-proxy.invalid:{dead_port}"):
        error = await ask(scheme, f"http://{host}")
        assert (APIConnectionError, "connect", False, 2) == facts(error)
        assert f"no connection to the proxy {host} (for {SERVER}): " in str(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:3128",
        "proxy.example:3128",
        f"user:{PASSWORD}@proxy.example:3128",
        "proxy.example",
        "http:///",
        f"http://user:{PASSWORD}#more@proxy.example:80",
        "http://proxy.example:99999999",
        "socks5://127.0.0.1:1080",
    ],
)
async def test_a_proxy_whose_url_can_not_be_used(ask: Asker, scheme: str, url: str) -> None:
    """A setting is wrong: the message says how to write it, and does not show it."""
    if url.startswith("socks") and not ask.knows_proxy:
        pytest.skip("aiohttp takes it for a proxy of HTTP")
    error = await ask(scheme, url)
    assert isinstance(error, ConfigurationError)
    assert "the URL of a proxy can't be used: write http://HOST:PORT" in str(error)


async def test_a_proxy_of_plain_http_that_wants_a_password(ask: Asker) -> None:
    """The server has not seen the request."""
    reply = reply_json({"message": "who are you?"}, 407, {"proxy-authenticate": "Basic"})
    async with serve(handler=reply) as proxy:
        error = await ask("http", proxy.url)
        assert 1 == len(proxy.requests)
    assert (APIConnectionError, "connect", False, 1) == facts(error)
    assert f"did not pass the request on to {SERVER}: 407 who are you?" in str(error)


async def test_a_proxy_of_plain_http_answers_in_place_of_the_server(ask: Asker) -> None:
    """The proxy is named with its answer; a 502 means that it did not reach the server."""
    async with serve(handler=reply_json({"message": "no route"}, 502)) as proxy:
        error = await ask("http", proxy.url)
        assert 2 == len(proxy.requests)
        named = ask.knows_proxy
        assert (InternalServerError, "connect" if named else None, False, 2) == facts(error)
        place = f"the proxy {proxy.url.removeprefix('http://')} (for {SERVER})"
        assert (
            place if named else f"{SERVER}, or a proxy of the session,"
        ) + " answered 502: no route" in str(error)


@pytest.mark.parametrize("steps", [[CLOSE], [b"HTTP/1.1 200 O", CLOSE], [b"junk\r\n\r\n"]])
async def test_a_proxy_of_plain_http_has_the_request(ask: Asker, steps: list[Any]) -> None:
    """It may have passed the request on, so the failure is ambiguous."""
    async with serve(handler=reply_writes(steps)) as proxy:
        error = await ask("http", proxy.url)
    assert (APIConnectionError, "response", True, 1) == facts(error)
    assert "proxy" in str(error)


@pytest.fixture
async def tunnel() -> AsyncIterator[str]:
    """A proxy that connects to a server with TLS, which answers; return the proxy's URL and the server's port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    body = reply_json(completion("ok")).data

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status = b"HTTP/1.1 407 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        writer.write(status if b"x-refuse" in head.lower() else body)
        await writer.drain()
        writer.close()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        beyond = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(copy(reader, beyond[1]), copy(beyond[0], writer))

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server,
        await asyncio.start_server(connect, "127.0.0.1", 0) as proxy,
    ):
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]} {port}"


async def test_a_tunnel_passes_on_what_the_server_answers(tunnel: str) -> None:
    """Behind it a 407 is the server's own."""
    proxy, port = tunnel.split()
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting), proxy=proxy) as session:
        client = AsyncGradient(
            base_url=f"https://localhost:{port}/v1", model_access_key="k-0123", session=session
        )
        assert (await create_completion(client)).choices[0].message.content == "ok"
        with pytest.raises(APIError, match=f"localhost:{port} answered 407: no message") as caught:
            await create_completion(client, extra_headers={"x-refuse": "1"})
        assert (407, None) == (caught.value.status_code, caught.value.phase)


async def test_a_certificate_that_is_not_trusted_behind_a_proxy(
    tunnel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS is with the server, so the message names the server."""
    proxy, port = tunnel.split()
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    url = f"https://localhost:{port}/v1"
    async with AsyncGradient(base_url=url, model_access_key="k-0123", trust_env=True) as client:
        with pytest.raises(
            APIConnectionError, match=f"TLS with localhost:{port} .*nothing was sent"
        ) as caught:
            await create_completion(client)
    assert ("tls", "connect", False, 1) == (
        caught.value.code, caught.value.phase, caught.value.ambiguous, caught.value.attempts,
    )  # fmt: skip


async def test_middlewares_of_a_session_come_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept, may choose the proxy, and may send another body, which then has been sent."""
    monkeypatch.delenv("http_proxy", raising=False)

    async def through(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        signed = request.body
        assert isinstance(signed, aiohttp.Payload)
        request.headers["x-signed"] = str(len(await signed.as_bytes()))
        return await handler(request)

    async def replace(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        await request.update_body(request.body.decode().encode())
        return await handler(request)

    for middleware in (through, replace):
        async with (
            serve(reply_json(completion("ok")), reply_writes([CLOSE])) as server,
            aiohttp.ClientSession(middlewares=(middleware,), trust_env=False) as session,
        ):
            client = AsyncGradient(base_url=server.url, model_access_key="k-0123", session=session)
            assert (await create_completion(client)).choices
            assert ("x-signed" in server.requests[0].headers) is (middleware is through)
            with pytest.raises(APIConnectionError) as caught:
                await create_completion(client)
            assert ("response", True, 2) == (caught.value.phase, caught.value.ambiguous, len(server.requests))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_session_with_auth_is_a_wrong_setting(stream: bool) -> None:
    """Both want the header ``Authorization``: the message says so, and nothing is sent."""
    with pytest.warns(DeprecationWarning, match="auth"):
        session = aiohttp.ClientSession(auth=aiohttp.BasicAuth("user", PASSWORD))
    async with session, serve() as server:
        client = AsyncGradient(base_url=server.url, model_access_key="k-0123", session=session)
        with pytest.raises(
            ConfigurationError, match="make the session without auth=; nothing was sent"
        ) as caught:
            await create_completion(client, stream=stream)
        with pytest.raises(ConfigurationError, match="without auth="):
            await client.models.list()
        assert ([], None) == (server.requests, caught.value.__context__)


@pytest.mark.parametrize(
    ("raised", "expected", "says"),
    [
        (
            ValueError("not\nthis"),
            ConfigurationError,
            r"can't be sent: aiohttp refuses it: not\\nthis; nothing",
        ),
        (
            aiohttp.ClientError("no"),
            APIConnectionError,
            r"could not be reached \(ClientError\); nothing was sent",
        ),
    ],
)
async def test_what_fails_before_a_request_is_sent(
    raised: Exception, expected: type[GradientError], says: str
) -> None:
    """A value that aiohttp refuses is a wrong setting."""

    async def refuse(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        raise raised

    async with serve() as server, aiohttp.ClientSession(middlewares=(refuse,)) as session:
        client = AsyncGradient(base_url=server.url, model_access_key="k-0123", session=session, max_retries=0)
        with pytest.raises(expected, match=says):
            await create_completion(client)
        assert [] == server.requests


@pytest.fixture
def dead_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
