"""The client: its options, copies and life, and its resources."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import logging
import operator
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec, patch

import aiohttp
import pytest
from client_calls import CALL, MESSAGES, Start, create_completion
from yarl import URL

import gradient_async
from gradient_async import (
    NOT_GIVEN,
    AsyncGradient,
    ChatCompletion,
    ConfigurationError,
    Hook,
    Limits,
    Retry,
    Timeout,
)
from gradient_async.client.client import set_up_log
from gradient_async.testing import (
    serve,
)


async def test_base_url_replaces_endpoint_and_version(start: Start) -> None:
    server, client = await start()
    other = client.with_options(base_url=server.url + "/")
    await create_completion(other)
    await other.agents.chat.completions.create(messages=MESSAGES)
    assert ["/chat/completions"] * 2 == [request.path for request in server.requests]
    assert {"agent": "true"} == server.requests[1].query


async def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as server:
        monkeypatch.setenv("GRADIENT_INFERENCE_ENDPOINT", server.url)
        monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "from-the-environment")
        async with AsyncGradient() as client:
            await create_completion(client)
        assert server.requests[0].headers["authorization"] == "Bearer from-the-environment"


async def test_a_missing_key_or_agent_is_an_error_of_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRADIENT_MODEL_ACCESS_KEY", "DIGITALOCEAN_ACCESS_TOKEN", "GRADIENT_AGENT_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    async with AsyncGradient() as client:
        assert client.model_access_key is None
        assert client.agent_access_key is None
        with pytest.raises(ConfigurationError, match="GRADIENT_MODEL_ACCESS_KEY"):
            await create_completion(client)
        with pytest.raises(ConfigurationError, match="GRADIENT_AGENT_ACCESS_KEY"):
            await client.agents.chat.completions.create(messages=MESSAGES)
        other = client.with_options(agent_access_key="k")
        with pytest.raises(ConfigurationError, match="GRADIENT_AGENT_ENDPOINT"):
            await other.agents.chat.completions.create(messages=MESSAGES)
        assert client.agent_endpoint is None


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"hooks": [object()]}, ConfigurationError, "object is not a Hook"),
        ({"hooks": [Hook]}, ConfigurationError, r"^hooks: Hook is a class; pass an instance, Hook\(\)$"),
        ({"hooks": Hook()}, TypeError, "^hooks: expected a list of hooks, not one Hook$"),
        ({"session": object()}, TypeError, "^session: expected an aiohttp.ClientSession, not object$"),
        ({"http_client": object()}, TypeError, "session="),
        ({"organization": "o"}, TypeError, "^organization is not supported: pass default_headers="),
        ({"_strict_response_validation": True}, TypeError, "pass strict=True$"),
        ({"retry": 3}, TypeError, r"^retry: expected gradient_async.Retry\(...\), not int$"),
        ({"limits": {}}, TypeError, r"^limits: expected gradient_async.Limits\(...\), not dict$"),
        ({"max_retries": -1}, ConfigurationError, "max_retries=-1"),
        ({"max_retries": True}, ConfigurationError, "max_retries=True"),
        ({"max_connections": 0}, ConfigurationError, "max_connections=0"),
        ({"on_bad_event": "ignore"}, ConfigurationError, "on_bad_event='ignore'"),
        ({"timeout": "soon"}, ConfigurationError, "timeout='soon'"),
        ({"inference_endpoint": "http://example.com"}, ConfigurationError, "plain http"),
        ({"default_headers": {"x": "a\r\nb: c"}}, ConfigurationError, "line break"),
        ({"model_access_key": "sé"}, ConfigurationError, "visible ASCII"),
        ({"model_access_key": b"k"}, TypeError, "^model_access_key: expected a str, not bytes$"),
        ({"api_key": 5}, TypeError, "^api_key: expected a str, not int$"),
        ({"agent_access_key": ["k"]}, TypeError, "^agent_access_key: expected a str, not list$"),
        ({"access_token": {}}, TypeError, "^access_token: expected a str, not dict$"),
        ({"base_url": b"https://x.test"}, TypeError, "^base_url: expected a str, not bytes$"),
        ({"inference_endpoint": 5}, TypeError, "^inference_endpoint: expected a str, not int$"),
        ({"agent_endpoint": ["x.test"]}, TypeError, "^agent_endpoint: expected a str, not list$"),
        ({"default_headers": {"x": None}}, TypeError, "^header x: expected a str, not NoneType$"),
        ({"default_query": {"x": {}}}, TypeError, "^parameter 'x' of the query: "),
    ],
)
def test_options_that_can_not_be_used_are_refused(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        AsyncGradient(**options)
    if not {"max_connections", "session"} & options.keys():
        with pytest.raises(error, match=says):
            AsyncGradient(model_access_key="k").with_options(**options)


def test_keys_and_urls_may_be_objects_of_other_libraries() -> None:
    """Keys that are hidden, URLs, text of any class; what is not given, or empty, is as if left out."""

    class Hidden:
        def __init__(self, value: str) -> None:
            self.value = value

        def get_secret_value(self) -> str:
            return self.value

    class Text(str):
        __slots__ = ()

    def made(**options: Any) -> AsyncGradient:
        return AsyncGradient(**options)

    client = made(
        model_access_key=Hidden(" a key "), agent_access_key=Text("other"), base_url=URL("https://x.test/v1")
    )
    assert ("a key", "other", "https://x.test/v1") == (
        client.model_access_key, client.agent_access_key, client.base_url,
    )  # fmt: skip
    assert (str, str) == (type(client.model_access_key), type(client.agent_access_key))
    copy: Any = client.with_options
    assert "new" == copy(model_access_key=Hidden("new")).model_access_key
    for nothing in (None, "", Hidden(""), NOT_GIVEN):
        assert None is made(model_access_key=nothing).model_access_key
        assert (
            "https://inference.do-ai.run/v1"
            == made(base_url="" if isinstance(nothing, Hidden) else nothing).base_url
        )


# By the option or attribute that is changed: what is sent by a client that has all of them.
CHANGES: list[tuple[str, str, str, str]] = [
    ("model_access_key", "new", "chat", "https://base.test/v9/chat/completions Bearer new"),
    ("api_key", "new", "chat", "https://base.test/v9/chat/completions Bearer new"),
    ("access_token", "new", "chat", "https://base.test/v9/chat/completions Bearer new"),
    ("agent_access_key", "new", "agent", "https://base.test/v9/chat/completions Bearer new"),
    ("base_url", "https://new.test/v2", "chat", "https://new.test/v2/chat/completions Bearer model"),
    ("base_url", "https://new.test/v2", "agent", "https://new.test/v2/chat/completions Bearer agent"),
    ("inference_endpoint", "https://new.test", "chat", "https://new.test/v1/chat/completions Bearer model"),
    ("inference_endpoint", "https://new.test", "agent", "https://base.test/v9/chat/completions Bearer agent"),
    ("agent_endpoint", "https://new.test", "agent", "https://new.test/api/v1/chat/completions Bearer agent"),
    ("agent_endpoint", "https://new.test", "chat", "https://base.test/v9/chat/completions Bearer model"),
]
ALL_ENDPOINTS = {
    "model_access_key": "model",
    "agent_access_key": "agent",
    "access_token": "token",
    "inference_endpoint": "https://inference.test",
    "agent_endpoint": "https://agent.test",
    "base_url": "https://base.test/v9",
}


def same(client: AsyncGradient) -> AsyncGradient:
    return client


def pickle_copy(client: AsyncGradient) -> AsyncGradient:
    copied: AsyncGradient = pickle.loads(pickle.dumps(client))  # noqa: S301  # our own
    return copied


def next_request(client: AsyncGradient, operation: Any) -> str:
    """Return URL and key of a request that the client would send."""
    call = client._core.template(operation, {}, stream=False)
    return f"{call.url} Bearer {call.key.reveal() if call.key else None}"


@pytest.mark.parametrize(("name", "value", "operation", "expected"), CHANGES)
def test_a_key_or_url_that_is_changed_is_in_use(name: str, value: str, operation: str, expected: str) -> None:
    """In a copy, or in the client itself; whatever was in use before."""
    make: Any = AsyncGradient
    client = make(**ALL_ENDPOINTS)
    before = next_request(client, operation)
    change: Any = {name: value}
    assert expected == next_request(client.with_options(**change), operation)
    assert expected == next_request(client.copy(**change).copy(timeout=3), operation)
    assert before == next_request(client, operation)
    setattr(client, name, value)
    assert (expected, value) == (next_request(client, operation), getattr(client, name))


@pytest.mark.parametrize("way", [same, copy.deepcopy, pickle_copy])
def test_a_change_of_one_key_or_url_changes_no_other(
    monkeypatch: pytest.MonkeyPatch, way: Callable[[AsyncGradient], AsyncGradient]
) -> None:
    """Wherever the client is used: the environment counts when it is made, and never again."""
    monkeypatch.setenv("GRADIENT_BASE_URL", "https://first.test/v1")
    monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "key-of-then")
    client = AsyncGradient()
    monkeypatch.delenv("GRADIENT_BASE_URL")
    monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "second")
    client = way(client)
    copied = client.with_options(agent_access_key="agent")
    assert ("https://first.test/v1", "key-of-then") == (copied.base_url, copied.api_key)
    client.api_key = "tenant"
    assert ("https://first.test/v1", "tenant") == (client.base_url, client.api_key)
    client.api_key = None
    assert ["https://first.test/v1", "key-of-then"] == [client.base_url, client.api_key]
    assert "key-of-then" not in repr(vars(client)) + repr(client._core.settings.environment)


@pytest.mark.parametrize("name", ["api_key", "base_url", "timeout", "strict"])
def test_an_attribute_that_is_patched_is_given_back(name: str) -> None:
    client = AsyncGradient(api_key="mine", base_url="https://mine.test", timeout=5)
    before = getattr(client, name)
    values: dict[str, Any] = {
        "api_key": "other", "base_url": "https://other.test", "timeout": Timeout.of(3), "strict": True
    }  # fmt: skip
    with patch.object(client, name, values[name]):
        assert values[name] == getattr(client, name)
        with patch.object(client, "max_retries", 7):
            pass
    assert (before, 2) == (getattr(client, name), client.max_retries)
    with pytest.raises(AttributeError, match=f"{name} was not assigned"):
        delattr(client, name)


@pytest.mark.parametrize("name", ["api_key", "model_access_key"])
def test_a_key_that_was_replaced_does_not_come_back(name: str) -> None:
    options: Any = {name: "first"}
    client = AsyncGradient(**options)
    client.access_token = "second"
    client.access_token = None
    assert client.api_key is None


def test_a_client_without_an_agent_can_be_examined() -> None:
    client = AsyncGradient(api_key="k")
    assert client.agent_endpoint is None
    assert inspect.getmembers(client)
    assert Mock(spec=client).chat


def test_a_key_or_url_that_is_taken_away_is_no_longer_in_use() -> None:
    make: Any = AsyncGradient
    client = make(**ALL_ENDPOINTS)
    client.base_url = None
    assert next_request(client, "chat").startswith("https://inference.test/v1")
    assert next_request(client, "agent").startswith("https://agent.test/api/v1")
    client.api_key = client.inference_endpoint = client.agent_access_key = ""
    assert "https://inference.do-ai.run/v1/chat/completions Bearer token" == next_request(client, "chat")
    with pytest.raises(ConfigurationError, match="no agent access key"):
        next_request(client, "agent")


def test_what_is_not_given_changes_no_key_and_no_url() -> None:
    make: Any = AsyncGradient
    client = make(**ALL_ENDPOINTS)
    for nothing in (None, NOT_GIVEN):
        copy = client.with_options(**dict.fromkeys([*ALL_ENDPOINTS, "api_key", "timeout", "hooks"], nothing))
        for operation in ("chat", "agent", "models"):
            assert next_request(client, operation) == next_request(copy, operation)


def test_a_token_that_is_taken_away_is_no_longer_sent() -> None:
    client = AsyncGradient(access_token="first", base_url="https://x.test")
    client.access_token = "second"
    assert next_request(client, "chat").endswith("Bearer second")
    assert ("second", "second", "second") == (client.access_token, client.api_key, client.model_access_key)
    client.access_token = None
    assert (None, None) == (client.access_token, client.api_key)
    with pytest.raises(ConfigurationError, match="no model access key"):
        next_request(client, "chat")


def test_settings_can_be_set_or_say_what_to_write() -> None:
    """No attribute is set in silence without an effect."""
    client: Any = AsyncGradient(
        api_key="k",
        timeout=1,
        max_retries=5,
        strict=True,
        limits=Limits(choices=1),
        default_headers={"x": "1"},
    )
    defaults: list[tuple[str, Any]] = [
        ("timeout", Timeout()), ("strict", False), ("limits", Limits()), ("default_headers", {}), ("hooks", ()),
    ]  # fmt: skip
    for name, default in defaults:
        setattr(client, name, NOT_GIVEN if name == "timeout" else None)
        assert default == getattr(client, name)
    client.timeout = None
    assert Timeout.of(None) == client.timeout
    with pytest.raises(ConfigurationError, match="max_retries=None"):
        client.max_retries = None
    with pytest.raises(ConfigurationError, match="base_url can't be used"):
        client.base_url = "ftp://x"
    with pytest.raises(TypeError, match=r"^api_key: expected a str, not int$"):
        client.api_key = 5
    for name, says in (
        ("organization", "^organization is not supported: make a client with default_headers="),
        ("http_client", "^http_client is not supported: make a client with session="),
        ("webhook_secret", "leave it out$"),
        (
            "max_connections",
            r"^max_connections: it can't be changed .* AsyncGradient\(max_connections=...\)$",
        ),
        ("session", r"make another AsyncGradient\(session=...\)$"),
    ):
        with pytest.raises(AttributeError, match=says):
            setattr(client, name, object())


def test_options_of_other_clients_may_be_none() -> None:
    make: Any = AsyncGradient
    client = make(api_key="k", organization=None, project=None, http_client=None)
    assert "k" == client.with_options(organization=None).api_key
    with pytest.raises(TypeError, match="unexpected keyword argument 'organisation'"):
        make(organisation=None)


async def test_copies_share_connections_and_close_nothing(start: Start) -> None:
    server, client = await start(default_headers={"x-a": "1"}, default_query={"q": 1})
    copy = client.with_options(
        timeout=3,
        max_retries=5,
        retry=Retry(budget=1),
        limits=Limits(choices=2),
        strict=True,
        validate=False,
        on_bad_event="skip",
        default_headers={"x-b": "2"},
        set_default_query={"r": 2},
        api_key="another-key",
    )
    await create_completion(client)
    await create_completion(copy)
    await copy.close()
    assert not copy.is_closed()
    await client.copy(set_default_headers={"x-c": "3"}).chat.completions.create(model="m", messages=MESSAGES)
    assert server.connections == 1
    first, second, third = server.requests
    assert (second.headers["x-a"], second.headers["x-b"], second.query) == ("1", "2", {"r": "2"})
    assert ("x-a" in third.headers, third.headers["x-c"], first.query) == (False, "3", {"q": "1"})
    assert copy.timeout == Timeout.of(3)
    assert (copy.max_retries, copy.retry, copy.limits) == (5, Retry(budget=1), Limits(choices=2))
    assert (copy.strict, copy.validate, copy.on_bad_event) == (True, False, "skip")
    with pytest.raises(TypeError, match="session="):
        client.with_options(http_client=object())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the mistake


@pytest.mark.parametrize("name", ["default_headers", "default_query"])
def test_a_dictionary_is_replaced_or_added_to(name: str) -> None:
    change: Any = AsyncGradient(api_key="k").with_options
    with pytest.raises(ConfigurationError, match=f"pass {name} or set_{name}, not both"):
        change(**{name: {"x-a": "1"}, f"set_{name}": {}})


async def test_a_closed_client_says_so(start: Start) -> None:
    _, client = await start()
    await create_completion(client)
    await client.aclose()
    assert client.is_closed()
    with pytest.raises(ConfigurationError, match="has been closed"):
        await create_completion(client)


async def test_a_client_closed_before_its_first_call_says_so(start: Start) -> None:
    server, client = await start()
    copy = client.with_options(timeout=5)
    await client.close()
    for closed in (client, copy):
        assert closed.is_closed()
        with pytest.raises(ConfigurationError, match="has been closed"):
            await create_completion(closed)
    assert [] == server.requests


async def test_a_copy_keeps_what_a_subclass_adds(start: Start) -> None:
    """And has resources of its own, which use its settings."""

    class Tenant(AsyncGradient):
        name = "nobody"

    server, _ = await start()
    async with Tenant(inference_endpoint=server.url, model_access_key="k") as client:
        client.name = "somebody"
        await create_completion(client)
        copy = client.with_options(default_headers={"x-a": "1"})
        assert isinstance(copy, Tenant)
        assert copy.name == "somebody"
        await create_completion(copy)
        await create_completion(client)
    assert [None, "1", None] == [request.headers.get("x-a") for request in server.requests]


def test_keys_do_not_show() -> None:
    client = AsyncGradient(
        model_access_key="model-key-0123", agent_access_key="agent-key-0123", access_token="tok-en-0123"
    )
    shown = repr(client) + repr(vars(client)) + repr(vars(client).values())
    assert "0123" not in shown
    assert (client.model_access_key, client.agent_access_key) == ("model-key-0123", "agent-key-0123")
    assert client.base_url == "https://inference.do-ai.run/v1"
    assert client.inference_endpoint == "https://inference.do-ai.run"


async def test_the_callers_own_session_is_used_and_never_closed() -> None:
    async with serve() as server, aiohttp.ClientSession() as session:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k", session=session)
        await create_completion(client)
        async with client.chat.completions.stream(**CALL) as stream:
            assert (await stream.completion()).choices
        await client.close()
        assert not session.closed
        closed = AsyncGradient(inference_endpoint=server.url, model_access_key="k", session=session)
        await session.close()
        with pytest.raises(ConfigurationError, match="session given to this client"):
            await create_completion(closed)


def test_a_client_made_at_import_time_works_in_every_loop_and_may_be_left_open() -> None:
    client = AsyncGradient(model_access_key="k")

    async def once() -> str | None:
        async with serve() as server:
            got = await create_completion(client.with_options(inference_endpoint=server.url))  # noqa: F821  # deleted later
            return got.choices[0].finish_reason

    assert ["stop", "stop"] == [asyncio.run(once()) for _ in range(2)]
    del client
    gc.collect()


RESOURCES = [
    "chat",
    "chat.completions",
    "chat.completions.with_raw_response",
    "chat.completions.with_streaming_response",
    "chat.with_raw_response.completions",
    "chat.with_streaming_response.completions",
    "agents",
    "agents.chat",
    "agents.chat.completions",
    "agents.chat.completions.with_raw_response",
    "agents.chat.completions.with_streaming_response",
    "agents.chat.with_raw_response.completions",
    "agents.with_raw_response.chat.completions",
    "agents.with_streaming_response.chat.completions",
    "models",
    "models.with_raw_response",
    "with_raw_response.chat.completions",
    "with_raw_response.agents.chat.completions",
    "with_raw_response.models",
    "with_streaming_response.chat.completions",
    "with_streaming_response.agents.chat.completions",
]


def test_a_resource_is_the_same_object_at_each_access() -> None:
    client = AsyncGradient(model_access_key="k")
    copy = client.with_options()
    for path in RESOURCES:
        resource = operator.attrgetter(path)
        assert resource(client) is resource(client), path
        assert resource(client) is not resource(copy), path


def test_a_mock_of_the_class_has_its_resources() -> None:
    for mock in (create_autospec(AsyncGradient, instance=True), MagicMock(spec=AsyncGradient)):
        assert mock.chat.completions.create
        assert mock.with_raw_response.models.list
        assert mock.timeout
        with pytest.raises(AttributeError):
            _ = mock.caht


async def test_a_method_of_a_resource_can_be_replaced(start: Start) -> None:
    """By ``patch.object``, as tests of applications do; of this client and of no copy."""
    server, client = await start()
    answer, models = ChatCompletion(), client.models.list()
    with (
        patch.object(client.chat.completions, "create", return_value=answer) as create,
        patch.object(client.models, "list", return_value=models),
    ):
        assert answer is await client.chat.completions.create(model="m", messages=MESSAGES)
        assert models is client.models.list()
        assert (await create_completion(client.with_options())).choices
    create.assert_awaited_once_with(model="m", messages=MESSAGES)
    assert (await create_completion(client)).choices
    assert len(server.requests) == 2


async def test_a_method_of_a_resource_can_be_set(start: Start) -> None:
    """By plain assignment, whatever is asked for in the meantime."""
    server, client = await start()
    answer = ChatCompletion()
    create = AsyncMock(return_value=answer)
    client.chat.completions.create = create  # type: ignore[method-assign]  # pyright: ignore[reportAttributeAccessIssue]  # as tests do
    _ = client.agents, client.with_options(timeout=5)
    assert answer is await client.chat.completions.create(model="m", messages=MESSAGES)
    create.assert_awaited_once_with(model="m", messages=MESSAGES)
    assert [] == server.requests


@pytest.mark.parametrize("name", ["chat", "agents", "models", "with_raw_response", "with_streaming_response"])
async def test_a_resource_can_be_replaced(name: str) -> None:
    """Of this client alone; ``patch.object`` and ``del`` put back what works."""
    client = AsyncGradient(model_access_key="k")
    mock = MagicMock()
    with patch.object(client, name, mock):
        assert mock is getattr(client, name)
        assert not isinstance(getattr(client.with_options(), name), MagicMock)
    assert not isinstance(getattr(client, name), MagicMock)
    setattr(client, name, mock)
    assert mock is getattr(client, name)


Call = Callable[[AsyncGradient], Coroutine[Any, Any, Any]]


async def enter(manager: Any) -> None:
    """Read a stream or a fan-out to its end."""
    async with manager as stream:
        assert (await stream.completion()).choices


async def iterate(results: Any) -> None:
    """Read results, or models, to the end."""
    assert [result async for result in results]


# Each drops the client before it waits for anything: what it holds is a coroutine, or an object that a
# resource made.
ONE_LINERS: dict[str, Call] = {
    "create": lambda client: client.chat.completions.create(model="m", messages=MESSAGES),
    "raw": lambda client: client.with_raw_response.chat.completions.create(model="m", messages=MESSAGES),
    "agents": lambda client: client.agents.chat.completions.create(messages=MESSAGES),
    "stream": lambda client: enter(client.chat.completions.stream(**CALL)),
    "fan_out": lambda client: enter(client.chat.completions.fan_out(n=2, **CALL)),
    "map": lambda client: iterate(client.chat.completions.map([CALL, CALL])),
    "models": lambda client: iterate(client.models.list()),
}


@pytest.mark.parametrize("call", ONE_LINERS.values(), ids=ONE_LINERS)
async def test_a_call_keeps_its_connections_though_the_client_is_dropped(call: Call) -> None:
    """``await AsyncGradient().chat.completions.create(...)`` works; afterwards its connections are closed."""
    async with serve(delay=0.02) as server:
        gc.disable()
        try:
            await call(
                AsyncGradient(
                    inference_endpoint=server.url,
                    agent_endpoint=server.url,
                    model_access_key="k",
                    agent_access_key="k",
                    max_retries=0,
                )
            )
            assert server.requests
            await server.wait_closed_connections()
        finally:
            gc.enable()
        assert server.open_connections == 0


async def test_a_client_dropped_in_a_running_loop_closes_its_connections() -> None:
    async with serve() as server:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k")
        await create_completion(client)
        assert server.open_connections == 1
        gc.disable()
        try:
            del client
            await server.wait_closed_connections()
        finally:
            gc.enable()
        assert server.open_connections == 0


async def test_a_client_is_freed_without_the_garbage_collector() -> None:
    """Whatever was used of it, and its copies: no resource refers back to it."""
    async with serve() as server:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k")
        copy = client.with_options(timeout=5)
        for path in RESOURCES:
            operator.attrgetter(path)(client)
        await iterate(copy.chat.completions.map([CALL]))
        await enter(client.chat.completions.fan_out(n=2, **CALL))
        await (await client.with_raw_response.models.list()).parse()
        parts = [weakref.ref(part) for part in (client, copy, client._core, client._core.connections)]
        gc.disable()
        try:
            del client
            assert [True, False, True, False] == [part() is None for part in parts]
            del copy
            assert [True] * 4 == [part() is None for part in parts]
        finally:
            gc.enable()


@pytest.mark.parametrize(
    "code", ["import gradient_async", "from gradient_async import AsyncGradient; AsyncGradient()"]
)
def test_importing_and_making_a_client_is_light(code: str) -> None:
    """Neither aiohttp, nor what only tests, the command line or one integration need is loaded."""
    heavy = {"aiohttp", "pydantic", "ray", "rich", "uvloop", "gradient_async.cli", "gradient_async.testing"}
    look = f"print(sorted({heavy} & (set(sys.modules) - before)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; before = set(sys.modules); {code}; {look}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_names_of_the_package() -> None:
    assert all(hasattr(gradient_async, name) for name in gradient_async.__all__)
    assert set(gradient_async.__all__) <= set(dir(gradient_async))
    assert gradient_async.AsyncClient is AsyncGradient
    assert gradient_async.Client is gradient_async.Gradient
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = getattr(gradient_async, "Nothing")  # noqa: B009  # the checkers know that it is not there


def test_a_log_that_is_set_up_is_left_as_it_is() -> None:
    """Handlers of the program's own stay the only ones; the level is that of ``GRADIENT_LOG``."""
    logger = logging.getLogger("gradient_async")
    before, handlers = logger.level, list(logging.root.handlers)
    try:
        set_up_log({"GRADIENT_LOG": " info "})
        assert (logging.INFO, handlers or logging.root.handlers) == (logger.level, logging.root.handlers)
        set_up_log({})
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(before)
        logging.root.handlers[:] = handlers


@pytest.mark.parametrize(("value", "level"), [("debug", 10), ("Info", 20), ("", 0), ("loud", 0)])
def test_the_environment_turns_the_log_on(value: str, level: int) -> None:
    script = (
        "import logging; from gradient_async import AsyncGradient; "
        "print(logging.getLogger('gradient_async').level, len(logging.root.handlers))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"GRADIENT_LOG": value, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"{level} {int(level > 0)}\n"
