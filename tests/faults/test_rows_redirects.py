"""Rows of the fault list where the server points elsewhere: neither key nor prompt goes there."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fault_requests import AMBIGUOUS, BOTH_WAYS, Ask
from fault_rows import Start, expect_connection, failed

from gradient_async import UnexpectedRedirectError
from gradient_async.testing import Reply, Server, reply_bytes, serve

PATH = "/v1/chat/completions?page=nobodys-business"


@pytest.fixture
async def elsewhere() -> AsyncIterator[Server]:
    """A server that nobody has asked for."""
    async with serve() as server:
        yield server


def redirect(location: str, status: int = 307) -> Reply:
    """Point to another place."""
    return reply_bytes(b"", status, {"location": location})


@BOTH_WAYS
@pytest.mark.parametrize(
    ("status", "location", "says"),
    [
        pytest.param(
            307, "http://127.0.0.1:{other}" + PATH, "http://127.0.0.1:{other}", id="redirect_307_other_port"
        ),
        pytest.param(
            307, "http://localhost:{other}" + PATH, "http://localhost:{other}", id="redirect_307_other_host"
        ),
        pytest.param(
            302, "http://127.0.0.1:{other}" + PATH, "http://127.0.0.1:{other}", id="redirect_302_other_port"
        ),
        pytest.param(308, "//localhost:{other}" + PATH, "", id="redirect_308_same_scheme"),
        pytest.param(307, "/other" + PATH, "redirects are never followed", id="redirect_307_same"),
        pytest.param(307, "http://127.0.0.1:{own}" + PATH, "http://127.0.0.1:{own}", id="redirect_loop"),
        pytest.param(307, "http://[::bad:" + PATH, "redirects are never followed", id="redirect_garbage"),
        pytest.param(307, "file:///etc/passwd", "file:", id="redirect_ftp"),
        pytest.param(303, "", "redirects are never followed", id="redirect_303_empty"),
    ],
)
async def test_a_redirect_is_an_error_and_is_never_followed(
    start: Start, elsewhere: Server, ask: Ask, status: int, location: str, says: str
) -> None:
    """The error names the status and the other origin, and no more of the location."""
    server, client = await start(**AMBIGUOUS)
    ports = {"own": server.port, "other": elsewhere.port}
    server.push(redirect(location.format(**ports), status))
    seen = await ask(client)
    error = failed(seen, UnexpectedRedirectError, says=says.format(**ports), status_code=status, attempts=1)
    assert f"answered {status}" in str(error)
    assert "business" not in str(error)
    assert "passwd" not in str(error)
    assert (1, 0) == (len(server.requests), elsewhere.connections)
    await expect_connection(server, client, "reused")


@pytest.mark.parametrize(
    "location",
    [
        pytest.param("https://user:hidden@example.test/", id="user"),
        pytest.param("https://example.test?key=hidden", id="query"),
        pytest.param("https://example.test#hidden", id="fragment"),
        pytest.param("https:\\\\example.test\\hidden", id="backslashes"),
        pytest.param("/a//hidden", id="path"),
        pytest.param("//user:hidden@example.test/", id="no_scheme"),
    ],
)
@BOTH_WAYS
async def test_the_origin_of_a_redirect_is_scheme_host_and_port(
    start: Start, ask: Ask, location: str
) -> None:
    _, client = await start(redirect(location))
    error = failed(await ask(client), UnexpectedRedirectError)
    assert "hidden" not in str(error)
