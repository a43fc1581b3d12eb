"""Promises about the client's side: what can't be sent safely is refused before anything is on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fault_requests import BOTH_WAYS, Ask, healthy_for
from fault_rows import TEXT, Start
from leaked_key import KEY, MIDDLE, everything_shown

from gradient_async import AsyncGradient, ConfigurationError
from gradient_async.testing import serve

CONTROL = KEY[:15] + "\x07" + KEY[15:]
FOREIGN = "http://192.88.99.7"  # a range that nobody uses any more


@pytest.mark.parametrize("by", ["argument", "environment", "copy"])
@pytest.mark.parametrize(
    ("option", "variable", "value"),
    [
        pytest.param("model_access_key", "GRADIENT_MODEL_ACCESS_KEY", CONTROL, id="a control character"),
        pytest.param("model_access_key", "MODEL_ACCESS_KEY", KEY + "\nX-Other: 1", id="a header of its own"),
        pytest.param("agent_access_key", "GRADIENT_AGENT_ACCESS_KEY", KEY + "é", id="not ASCII"),
        pytest.param("access_token", "DIGITALOCEAN_ACCESS_TOKEN", KEY + "\u2028x", id="an invisible character"),
        pytest.param("base_url", "GRADIENT_BASE_URL", "http://me:{key}@{host}/v1", id="userinfo"),
        pytest.param("inference_endpoint", "GRADIENT_INFERENCE_ENDPOINT", "http://{key}@{host}", id="user"),
        pytest.param("agent_endpoint", "GRADIENT_AGENT_ENDPOINT", "http://{host}?key={key}", id="a query"),
        pytest.param("base_url", "GRADIENT_BASE_URL", FOREIGN, id="plain http to a foreign address"),
        pytest.param("inference_endpoint", "GRADIENT_INFERENCE_ENDPOINT", "http://example.com", id="to a foreign name"),
        pytest.param("agent_endpoint", "GRADIENT_AGENT_ENDPOINT", "http://example.com", id="of an agent"),
        pytest.param(
            "base_url", "GRADIENT_BASE_URL", "http://3227023110", id="to a number",
        ),
        pytest.param(
            "base_url", "GRADIENT_BASE_URL", "http://0xc0586306", id="to a number in hexadecimal",
        ),
    ],
)  # fmt: skip
async def test_what_is_unsafe_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, option: str, variable: str, value: str, by: str
) -> None:
    """Wherever it comes from; and no trace of the error shows the key."""
    async with serve() as server:
        value = value.replace("{host}", f"127.0.0.1:{server.port}").replace("{key}", KEY)
        options: dict[str, Any] = {"model_access_key": KEY} if "://" in value else {}
        given: dict[str, Any] = {option: value}
        if by == "environment":
            monkeypatch.setenv(variable, value)
        with pytest.raises(ConfigurationError) as caught:
            if by == "copy":
                AsyncGradient(inference_endpoint=server.url).with_options(**given)
            else:
                AsyncGradient(**options, **(given if by == "argument" else {}))
        assert MIDDLE not in everything_shown(caught.value)
        assert (0, 0) == (server.connections, len(server.requests))


@BOTH_WAYS
@pytest.mark.parametrize("header", [{"x-note": CONTROL + "\r\nx-other: 1"}, {"x note": "1"}, {"x\r\ny": "1"}])
async def test_a_header_that_would_end_early_is_refused(
    start: Start, ask: Ask, header: Mapping[str, str]
) -> None:
    server, client = await start(model_access_key=KEY)
    seen = await ask(client, extra_headers=header)
    assert isinstance(seen.error, ConfigurationError)
    assert MIDDLE not in everything_shown(seen.error)
    assert 0 == server.connections


def passwords(folder: Path) -> Path:
    path = folder / "netrc"
    path.write_text("default login me password other\n")
    path.chmod(0o600)
    return path


@BOTH_WAYS
@pytest.mark.parametrize("trusted", [pytest.param(False, id="ignored"), pytest.param(True, id="asked_for")])
async def test_proxies_and_passwords_of_the_environment_are_ignored(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ask: Ask, *, trusted: bool
) -> None:
    """Unless the caller trusts it: then, and only then, the proxy sees the request."""
    if not trusted:
        monkeypatch.setenv("NETRC", str(passwords(tmp_path)))
    async with serve(healthy_for(ask)) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.replace("//", "//user:word@"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        server, client = await start(healthy_for(ask), trust_env=trusted)
        seen = await ask(client)
        assert (TEXT, None) == (seen.delivered, seen.error)
        assert (int(not trusted), int(trusted)) == (len(server.requests), len(proxy.requests))
        sent = (proxy if trusted else server).requests[0]
        assert sent.headers["authorization"] == "Bearer model-key-0123"
        assert ("proxy-authorization" in sent.headers) is trusted


@BOTH_WAYS
async def test_the_key_comes_before_passwords_of_a_trusted_environment(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ask: Ask
) -> None:
    """Who needs the environment's proxy may well have a password for every other host."""
    monkeypatch.setenv("NETRC", str(passwords(tmp_path)))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server, client = await start(healthy_for(ask), trust_env=True)
    seen = await ask(client)
    assert (TEXT, None) == (seen.delivered, seen.error)
    assert server.requests[0].headers["authorization"] == "Bearer model-key-0123"
