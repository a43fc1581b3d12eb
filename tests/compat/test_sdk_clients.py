"""The facts that the suites of ``gradient`` and ``openai`` assert of their asynchronous clients, in ``test_client.py``."""

from __future__ import annotations

import gc
import inspect
import weakref
from typing import Any

import pytest
from client_calls import Start
from sdk_clients import ALL, KEYS, OURS, Sdk, create, differs

import gradient_async
from gradient_async import (
    AsyncGradient,
    ConfigurationError,
    Timeout,
)
from gradient_async.testing import HOLD, completion, reply_bytes, reply_json, reply_sse, reply_writes

REPLY = reply_json(completion())
BROKEN = reply_json({"error": "broken"}, 500, {"retry-after-ms": "1"})


# Copies


@ALL
def test_copy(sdk: Sdk) -> None:
    client = sdk.client()
    assert client is not client.copy()
    for name, key in KEYS[sdk.style].items():
        assert f"another {key}" == getattr(client.copy(**{name: f"another {key}"}), name)
        assert key == getattr(client, name)


@ALL
def test_copy_default_options(sdk: Sdk) -> None:
    client = sdk.client()
    seven = client.copy(max_retries=7)
    six = seven.copy(max_retries=6)
    assert (2, 7, 6) == (client.max_retries, seven.max_retries, six.max_retries)


@OURS
@differs("`client.timeout` is an `httpx.Timeout`, and None if there are no limits")
def test_copy_without_limits(sdk: Sdk) -> None:
    client = sdk.client()
    none = Timeout(connect=None, first_token=None, idle=None, response=None)
    assert none == client.copy(timeout=None).timeout
    assert Timeout() == client.timeout


@ALL
async def test_copy_default_headers(start: Start, sdk: Sdk) -> None:
    server, _ = await start()
    async with sdk.client(server.url, default_headers={"X-Foo": "bar"}) as client:
        assert "bar" == client.default_headers["X-Foo"]
        cases: list[tuple[dict[str, Any], str | None, str | None]] = [
            ({}, "bar", None),
            ({"default_headers": {"X-Bar": "stainless"}}, "bar", "stainless"),
            ({"default_headers": {"X-Foo": "stainless"}}, "stainless", None),
            ({"set_default_headers": {}}, None, None),
            ({"set_default_headers": {"X-Bar": "Robert"}}, None, "Robert"),
        ]
        for options, foo, bar in cases:
            copy = client.copy(**options)
            assert (foo, bar) == (copy.default_headers.get("X-Foo"), copy.default_headers.get("X-Bar"))
            await create(copy)
            sent = server.requests[-1].headers
            assert (foo, bar) == (sent.get("x-foo"), sent.get("x-bar"))
        with pytest.raises(ValueError, match=r"default_headers.*set_default_headers"):
            client.copy(set_default_headers={}, default_headers={"X-Foo": "Bar"})


@ALL
async def test_copy_default_query(start: Start, sdk: Sdk) -> None:
    server, _ = await start()
    async with sdk.client(server.url, default_query={"foo": "bar"}) as client:
        cases: list[tuple[dict[str, Any], dict[str, str]]] = [
            ({}, {"foo": "bar"}),
            ({"default_query": {"bar": "stainless"}}, {"foo": "bar", "bar": "stainless"}),
            ({"default_query": {"foo": "stainless"}}, {"foo": "stainless"}),
            ({"set_default_query": {}}, {}),
            ({"set_default_query": {"bar": "Robert"}}, {"bar": "Robert"}),
        ]
        for options, expected in cases:
            copy = client.copy(**options)
            assert expected == copy.default_query
            await create(copy)
            assert expected == server.requests[-1].query
        with pytest.raises(ValueError, match=r"default_query.*set_default_query"):
            client.copy(set_default_query={}, default_query={"foo": "Bar"})


@differs("`copy` takes every option of the constructor")
def test_copy_signature() -> None:
    """The missing ones belong to the connections, which a copy shares."""
    options = inspect.signature(AsyncGradient).parameters.keys()
    assert {"session", "max_connections", "trust_env", "allow_insecure_http"} == (
        options - inspect.signature(AsyncGradient.copy).parameters.keys()
    )


@OURS
async def test_copy_build_request(start: Start, sdk: Sdk) -> None:
    """A copy that made a request is freed, without the cyclic garbage collector."""
    server, _ = await start()
    async with sdk.client(server.url) as client:
        gc.disable()
        try:
            copies: list[weakref.ref[Any]] = []
            for _ in range(3):
                copy = client.copy()
                await create(copy)
                copies.append(weakref.ref(copy))
                del copy
            assert [None] * 3 == [reference() for reference in copies]
        finally:
            gc.enable()


@ALL
async def test_copied_client_does_not_close_http(start: Start, sdk: Sdk) -> None:
    server, _ = await start()
    async with sdk.client(server.url) as client:
        copy = client.copy()
        assert copy is not client
        await create(copy)
        del copy
        gc.collect()
        assert not client.is_closed()
        await create(client)
        assert 1 == server.connections


@ALL
async def test_client_context_manager(sdk: Sdk) -> None:
    client = sdk.client()
    async with client as entered:
        assert entered is client
        assert not client.is_closed()
    assert client.is_closed()


# Time limits and transports


@OURS
@differs("A client without `timeout` waits 60 (`gradient`) or 600 (`openai`) seconds for each read")
def test_request_timeout(sdk: Sdk) -> None:
    limits = sdk.client().timeout
    assert (5, 180, 120, 600) == (limits.connect, limits.first_token, limits.idle, limits.response)
    assert limits.total is None


@ALL
async def test_a_limit_of_httpx_for_one_request(start: Start, sdk: Sdk) -> None:
    """The other half of `test_request_timeout`; also for one client, as in `test_client_timeout_option`."""
    httpx = pytest.importorskip("httpx2" if sdk.package == "openai" else "httpx")
    server, _ = await start(reply_writes([HOLD]), reply_writes([HOLD]))
    limit = httpx.Timeout(60.0, read=0.05)
    async with sdk.client(server.url, max_retries=0) as client:
        for other, options in ((client, {"timeout": limit}), (client.copy(timeout=limit), {})):
            with pytest.raises(sdk.module.APITimeoutError):
                await create(other, **options)


@OURS
@differs("`timeout=0` and `httpx.Timeout(0)` are accepted")
def test_client_timeout_option(sdk: Sdk) -> None:
    with pytest.raises(ConfigurationError, match="timeout: connect=0"):
        sdk.client(timeout=0)


@OURS
@differs(
    "`http_client=` sets the transport, with its time limits; a client of the wrong kind is a `TypeError`"
)
def test_http_client_timeout_option_and_invalid_http_client(sdk: Sdk) -> None:
    with pytest.raises(TypeError, match="http_client is not supported: pass session="):
        sdk.client(http_client=object())


@differs("`DefaultAsyncHttpxClient` uses the proxies of the environment; `get_platform` names the system")
def test_default_client_creation_proxy_environment_variables_and_get_platform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not hasattr(gradient_async, "DefaultAsyncHttpxClient")
    monkeypatch.setenv("HTTPS_PROXY", "https://example.org")
    assert not AsyncGradient(api_key="k")._core.connections._trust_env
    assert AsyncGradient(api_key="k", trust_env=True)._core.connections._trust_env


# Headers, query and body


@ALL
async def test_default_headers_option(start: Start, sdk: Sdk) -> None:
    server, _ = await start()
    headers = {"X-Foo": "stainless", "X-Stainless-Lang": "my-overriding-header"}
    async with sdk.client(server.url, default_headers=headers) as client:
        await create(client)
    sent = server.requests[-1].headers
    assert ("stainless", "my-overriding-header") == (sent["x-foo"], sent["x-stainless-lang"])


@OURS
@differs("Requests have headers such as `X-Stainless-Lang` and `x-stainless-retry-count`")
async def test_headers_about_the_platform(start: Start, sdk: Sdk) -> None:
    """A part of `test_default_headers_option`, `test_retries_taken` and the generated chat tests."""
    server, _ = await start(BROKEN)
    async with sdk.client(server.url) as client:
        response = await client.chat.completions.with_raw_response.create(
            messages=[{"role": "system", "content": "string"}], model="llama3-8b-instruct"
        )
    assert 1 == response.retries_taken
    assert 2 == (await response.parse()).attempts
    for request in (*server.requests, response.http_request):
        assert [] == [name for name in request.headers if name.lower().startswith("x-stainless")]


@ALL
async def test_validate_headers(start: Start, sdk: Sdk) -> None:
    server, _ = await start()
    name = "authorization" if sdk.style == "openai" else "Authorization"  # `gradient` would send both
    async with sdk.client(server.url) as client:
        for headers, sent in (
            ({}, f"Bearer {sdk.key}"),
            ({name: "Bearer custom"}, "Bearer custom"),
            ({"Authorization": sdk.module.Omit()}, None),
        ):
            await create(client, extra_headers=headers)
            assert sent == server.requests[-1].headers.get("authorization")


@differs("A missing key is a `TypeError` (`gradient`), or an `OpenAIError` of the constructor")
async def test_validate_headers_without_a_key(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIGITALOCEAN_ACCESS_TOKEN", "GRADIENT_MODEL_ACCESS_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    server, _ = await start()
    async with AsyncGradient(base_url=f"{server.url}/v1") as client:
        with pytest.raises(ConfigurationError, match="no model access key"):
            await create(client)
        await create(client, extra_headers={"Authorization": gradient_async.Omit()})
    assert 1 == len(server.requests)


@ALL
async def test_default_query_option(start: Start, sdk: Sdk) -> None:
    server, _ = await start()
    async with sdk.client(server.url, default_query={"query_param": "bar"}) as client:
        await create(client)
        assert {"query_param": "bar"} == server.requests[-1].query
        await create(client, extra_query={"foo": "baz", "query_param": "overridden"})
        assert {"foo": "baz", "query_param": "overridden"} == server.requests[-1].query


@ALL
async def test_request_extra_json(start: Start, sdk: Sdk) -> None:
    """Fields of ``extra_body`` are added, win over parameters, and may be null."""
    server, _ = await start(*[REPLY] * 2)
    async with sdk.client(server.url) as client:
        await create(client, extra_body={"baz": False})
        assert {"messages", "model", "baz"} == server.requests[-1].json.keys()
        assert server.requests[-1].json["baz"] is False
        await create(client, user="u", top_p=1, extra_body={"top_p": None})
        assert ("u", None) == (server.requests[-1].json["user"], server.requests[-1].json["top_p"])


@ALL
async def test_request_extra_headers(start: Start, sdk: Sdk) -> None:
    server, _ = await start()
    async with sdk.client(server.url) as client:
        await create(client, extra_headers={"X-Foo": "Foo"})
        assert "Foo" == server.requests[-1].headers["x-foo"]
        await create(client.with_options(default_headers={"X-Bar": "true"}), extra_headers={"X-Bar": "false"})
        assert "false" == server.requests[-1].headers["x-bar"]


@ALL
async def test_request_extra_query(start: Start, sdk: Sdk) -> None:
    server, _ = await start()
    async with sdk.client(server.url) as client:
        for default, extra, sent in (
            ({}, {"my_query_param": "Foo"}, {"my_query_param": "Foo"}),
            ({"bar": "1"}, {"foo": "2"}, {"bar": "1", "foo": "2"}),
            ({"foo": "1"}, {"foo": "2"}, {"foo": "2"}),
        ):
            await create(client.copy(default_query=default), extra_query=extra)
            assert sent == server.requests[-1].query


@OURS
@differs("`client.get` and `client.post` send any request and return any type")
@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "request"])
def test_raw_response_unions_uploads_and_urls(sdk: Sdk, method: str) -> None:
    """What these tests assert of `client.get` and `client.post`.

    These are `test_raw_response`, `test_raw_response_for_binary`, `test_basic_union_response`,
    `test_union_response_different_types`, `test_multipart_repeating_array`, `test_absolute_request_url`,
    `test_hardcoded_query_params_in_url` and the three of `test_binary_content_upload`.
    """
    with pytest.raises(AttributeError, match="send requests to other paths with aiohttp"):
        getattr(sdk.client(), method)


# URLs


@ALL
async def test_base_url_setter(start: Start, sdk: Sdk) -> None:
    server, _ = await start(*[REPLY] * 2)
    async with sdk.client() as client:
        client.base_url = f"{server.url}/from_setter"
        await create(client)
        assert "/from_setter/chat/completions" == server.requests[-1].target


@ALL
async def test_base_url_env(start: Start, sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = await start(REPLY)
    name = "OPENAI_BASE_URL" if sdk.package == "openai" else "GRADIENT_BASE_URL"
    monkeypatch.setenv(name, f"{server.url}/from/env")
    async with sdk.client(base_url=None) as client:
        await create(client)
        assert "/from/env/chat/completions" == server.requests[-1].target


@ALL
@pytest.mark.parametrize("slash", ["/", ""])
async def test_base_url_trailing_slash_and_no_trailing_slash(start: Start, sdk: Sdk, slash: str) -> None:
    server, _ = await start(REPLY)
    async with sdk.client(base_url=f"{server.url}/custom/path{slash}") as client:
        await create(client)
    assert "/custom/path/chat/completions" == server.requests[-1].target


@OURS
@differs("`client.base_url` is an `httpx.URL` that ends with a slash")
def test_base_url_as_text(sdk: Sdk) -> None:
    """A part of the three tests above."""
    client = sdk.client(base_url="https://example.com/from_init/")
    assert "https://example.com/from_init" == client.base_url


# Replies


@ALL
async def test_non_application_json_content_type_for_json_data(start: Start, sdk: Sdk) -> None:
    server, _ = await start(reply_json(completion("Hi"), headers={"content-type": "application/text"}))
    async with sdk.client(server.url) as client:
        assert "Hi" == (await create(client)).choices[0].message.content


@OURS
@differs(
    "A value of the wrong type is an error only with `_strict_response_validation`, caused by pydantic's"
)
async def test_client_response_validation_error(start: Start, sdk: Sdk) -> None:
    server, _ = await start(reply_json({"choices": {"invalid": True}}))
    async with sdk.client(server.url) as client:
        with pytest.raises(sdk.module.APIResponseValidationError, match=r"\$\.choices") as caught:
            await create(client)
    assert caught.value.__cause__ is None
    with pytest.raises(TypeError, match="_strict_response_validation is not supported: pass strict=True"):
        sdk.client(_strict_response_validation=True)


@OURS
@differs("A reply that is not JSON is returned as a `str`, except with `_strict_response_validation`")
async def test_received_text_for_expected_json(start: Start, sdk: Sdk) -> None:
    server, _ = await start(reply_bytes(b"my-custom-format", content_type="text/plain"))
    async with sdk.client(server.url) as client:
        with pytest.raises(sdk.module.APIResponseValidationError, match="not a chat completion") as caught:
            await create(client)
    assert "my-custom-format" == caught.value.body


@ALL
async def test_default_stream_cls(start: Start, sdk: Sdk) -> None:
    server, _ = await start(reply_sse(end_delay=5))
    async with sdk.client(server.url) as client:
        stream = await create(client, stream=True)
        assert isinstance(stream, sdk.module.AsyncStream)
        await stream.response.aclose()
        await server.wait_closed_connections()


# Keys of openai


@differs("`api_key=` is a function that is called before each request; `auth_headers` has its key (`openai`)")
async def test_api_key_before_after_refresh_provider_str_and_copy_auth(start: Start) -> None:
    """Also `test_bearer_token_refresh_async`: set the key before a call."""
    make: Any = AsyncGradient
    with pytest.raises(TypeError, match="api_key: expected a str, not function"):
        make(api_key=lambda: "key")
    server, _ = await start()
    async with make(api_key="first", base_url=f"{server.url}/v1") as client:
        for key in ("first", "second"):
            client.api_key = key
            await create(client)
            assert f"Bearer {key}" == server.requests[-1].headers["authorization"]
        await create(client.copy(api_key="third"))
        assert "Bearer third" == server.requests[-1].headers["authorization"]
        with pytest.raises(AttributeError, match=r"write client\.api_key"):
            _ = client.auth_headers


@differs("`admin_api_key=` and `workload_identity=` are keys for other requests (`openai`)")
@pytest.mark.parametrize("option", ["admin_api_key", "workload_identity"])
def test_api_key_provider_and_workload_identity_preserve_admin_auth(option: str) -> None:
    make: Any = AsyncGradient
    with pytest.raises(TypeError, match=f"{option} is not supported: pass api_key="):
        make(**{option: "key"})
