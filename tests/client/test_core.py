"""The core that the resources of a client share: settings that change, and what is made of them once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Any

import pytest
from client_calls import CALL, MESSAGES, Start, create_completion, open_stream
from leaked_key import KEY, MIDDLE, everything_shown

from gradient_async import (
    NOT_GIVEN,
    APIError,
    APIResponseValidationError,
    APITimeoutError,
    AsyncGradient,
    CallInfo,
    ConfigurationError,
    Hook,
    Limits,
    OverloadedError,
    Retry,
    StreamTruncatedError,
    Timeout,
    omit,
)
from gradient_async.testing import HOLD, chunk, completion, head, reply_json, reply_sse, reply_writes


async def test_headers_and_query_that_change_count_for_later_calls(start: Start) -> None:
    """Set anew, or changed in place; for every kind of call."""
    server, client = await start()

    async def received() -> list[tuple[str | None, dict[str, str]]]:
        server.requests.clear()
        await create_completion(client)
        await (await open_stream(client)).completion()
        await client.agents.chat.completions.create(messages=MESSAGES)
        await client.models.list()
        return [(request.headers.get("x-a"), request.query) for request in server.requests]

    agent = {"agent": "true"}
    assert [(None, {}), (None, {}), (None, agent), (None, {})] == await received()
    headers = client.default_headers
    headers["X-A"] = "1"
    client.default_query["q"] = 2
    assert [
        ("1", {"q": "2"}),
        ("1", {"q": "2"}),
        ("1", {"q": "2"} | agent),
        ("1", {"q": "2"}),
    ] == await received()
    client.timeout = Timeout(idle=9)
    assert headers is client.default_headers  # another setting leaves it the dictionary that it was
    headers["X-A"] = "2"
    client.default_query = {}
    assert [("2", {}), ("2", {}), ("2", agent), ("2", {})] == await received()
    client.default_headers = {}
    assert [(None, {}), (None, {}), (None, agent), (None, {})] == await received()


async def test_settings_that_are_set_count_for_later_calls(start: Start) -> None:
    busy = reply_json({"message": "busy"}, 503)
    _, client = await start(
        busy, busy, reply_writes([HOLD]), reply_json(completion("Hello")), reply_json(completion())
    )
    create = client.chat.completions.create  # bound before the settings change
    with pytest.raises(OverloadedError):
        await create(**CALL)
    client.max_retries, client.retry = 1, Retry(max_backoff=0.01)
    client.timeout = Timeout(response=0.1)
    with pytest.raises(APITimeoutError):
        await create(**CALL)
    client.limits = Limits(body_bytes=10)
    with pytest.raises(APIResponseValidationError, match="body_bytes=10"):
        await create(**CALL)
    client.limits = Limits()
    ended: list[CallInfo] = []

    class Notes(Hook):
        def on_end(self, call: CallInfo) -> None:
            ended.append(call)

    client.hooks = (Notes(),)
    client.validate = False
    await create(**CALL, top_p=7)
    assert [7] == [call.params["top_p"] for call in ended]


async def test_settings_of_streams_that_are_set_count_for_later_calls(start: Start) -> None:
    odd, open_ended = reply_sse(chunk("a"), "{bad", chunk(finish_reason="stop")), reply_sse(chunk("a"))
    _, client = await start(odd, open_ended, open_ended)
    client.on_bad_event = "skip"
    assert (await (await open_stream(client)).completion()).choices
    assert (await (await open_stream(client)).completion()).choices
    client.strict = True
    with pytest.raises(StreamTruncatedError):
        await (await open_stream(client)).completion()


def test_a_setting_is_checked_when_it_is_set() -> None:
    client = AsyncGradient(model_access_key="k")
    client.timeout = 3  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]  # seconds, as openai takes
    assert Timeout.of(3) == client.timeout
    with pytest.raises(ConfigurationError, match="max_retries=-1"):
        client.max_retries = -1
    with pytest.raises(ConfigurationError, match="max_retries=None"):
        client.with_options(max_retries=None)
    assert client.with_options(max_retries=NOT_GIVEN).max_retries == 2
    with pytest.raises(ConfigurationError, match='on_bad_event=\'ignore\': expected "raise" or "skip"'):
        client.on_bad_event = "ignore"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]  # the mistake
    assert (client.max_retries, client.on_bad_event) == (2, "raise")


class Colour(str, Enum):  # noqa: UP042  # as it is written for older versions of Python
    """Text that shows itself by its name."""

    RED = "red"


class Number(IntEnum):
    """A number."""

    TWO = 2


class Noted(Hook):
    """Notes which calls begin."""

    def __init__(self) -> None:
        self.calls: list[CallInfo] = []

    def on_request(self, call: CallInfo) -> None:
        """Note it."""
        self.calls.append(call)


async def listed(client: AsyncGradient, headers: dict[Any, Any]) -> Any:
    """List the models."""
    return await client.models.list(extra_headers=headers)


def set_header(client: AsyncGradient) -> None:
    client.default_headers = {"Authorization": KEY + "\n"}


def change_header(client: AsyncGradient) -> None:
    client.default_headers["Authorization"] = KEY + "\n"


@pytest.mark.parametrize("change", [set_header, change_header])
async def test_a_header_that_can_not_be_sent_is_refused_and_not_shown(
    start: Start, change: Callable[[AsyncGradient], None]
) -> None:
    server, client = await start()
    with pytest.raises(ConfigurationError, match="line break") as caught:
        change(client)
        await create_completion(client)
    assert MIDDLE not in everything_shown(caught.value)
    assert [] == server.requests


WRONG_HEADERS: list[tuple[dict[Any, Any], type[Exception], str]] = [
    ({"X-A": None}, TypeError, "header X-A: expected a str, not NoneType"),
    ({"X-A": 1}, TypeError, "header X-A: expected a str, not int"),
    ({"X-A": True}, TypeError, "header X-A: expected a str, not bool"),
    ({"X-A": ["a"]}, TypeError, "header X-A: expected a str, not list"),
    ({"X-A": b"\xff"}, TypeError, "header X-A: expected a str, not bytes"),
    ({"Authorization": KEY.encode() + b"\xff"}, TypeError, "header Authorization: expected a str, not bytes"),
    ({b"x-api-key": [KEY]}, TypeError, "header x-api-key: expected a str, not list"),
    ({1: "a"}, TypeError, "name of a header: expected a str, not int"),
    ({None: KEY}, TypeError, "name of a header: expected a str, not NoneType"),
    ({"X-A": "a\r\nX-B: b"}, ConfigurationError, "header X-A has a line break"),
    ({"X-A": "a\x00"}, ConfigurationError, "header X-A has a line break or another control character"),
    ({"X-A": "a\x1b"}, ConfigurationError, "header X-A has a line break or another control character"),
    ({"Content-Length": "5"}, ConfigurationError, "header Content-Length belongs to the body"),
    ({b"transfer-encoding": b"chunked"}, ConfigurationError, "header transfer-encoding belongs to the body"),
    ({"X-A": "a\x85"}, ConfigurationError, "header X-A has a line break or another control character"),
    ({"X-A": b"a\n"}, ConfigurationError, "header X-A has a line break"),
    ({"Cookie": f"a={KEY}\x7f"}, ConfigurationError, "header Cookie has a line break"),
    ({"X A": "a"}, ConfigurationError, "header name 'X A'"),
    ({"": "a"}, ConfigurationError, "header name ''"),
]
QUERIES: list[tuple[dict[str, Any], str]] = [
    ({"a": [1, "b", True, 2.5]}, "?a=1&a=b&a=true&a=2.5"),
    ({"a": ("x",), "b": [], "c": None, "d": NOT_GIVEN}, "?a=x"),
    ({"a": False, "b": 1.0, "c": "é &="}, "?a=false&b=1.0&c=%C3%A9+%26%3D"),
    ({"a": Colour.RED, "b": Number.TWO}, "?a=red&b=2"),
    ({"a": "\x1b\r\n"}, "?a=%1B%0D%0A"),
    ({}, ""),
]
WRONG_QUERIES: list[tuple[dict[Any, Any], type[Exception], str]] = [
    ({"a": {"b": 1}}, TypeError, "parameter 'a' of the query: expected .*, not dict"),
    ({"a": {1}}, TypeError, "parameter 'a' of the query: expected .*, not set"),
    ({"a": b"x"}, TypeError, "parameter 'a' of the query: expected .*, not bytes"),
    ({"a": object()}, TypeError, "parameter 'a' of the query: expected .*, not object"),
    ({"a": [1, None]}, TypeError, r"parameter 'a\[1\]' of the query: expected .*, not NoneType"),
    ({"a": [[1]]}, TypeError, r"parameter 'a\[0\]' of the query: expected .*, not list"),
    ({1: "a"}, TypeError, "parameter of the query: expected a str, not int"),
    ({"a": "\ud800"}, ConfigurationError, "half a surrogate pair"),
    ({"\udfff": 1}, ConfigurationError, "half a surrogate pair"),
]


@pytest.mark.parametrize(("headers", "error", "says"), WRONG_HEADERS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_wrong_header_is_refused_before_anything_is_opened(
    start: Start, headers: dict[Any, Any], error: type[Exception], says: str, *, stream: bool
) -> None:
    """Of a call or of all calls; what is in the header is not shown."""
    server, client = await start(hooks=[hook := Noted()])
    other = client.with_options()
    other.default_headers.update(headers)
    for call in (
        create_completion(client, stream=stream, extra_headers=headers),
        create_completion(other, stream=stream),
        listed(client, headers),
    ):
        with pytest.raises(error, match=says) as caught:
            await call
        assert MIDDLE not in everything_shown(caught.value)
    with pytest.raises(error, match=says):
        AsyncGradient(default_headers=headers)
    assert (0, []) == (server.connections, hook.calls)


@pytest.mark.parametrize("header", ["Accept", "user-agent", b"Authorization", "X-A"])
async def test_a_header_that_is_not_given_is_not_sent(start: Start, header: Any) -> None:
    """One that the library makes, or a default one, whatever its spelling; in one call or in all."""
    server, client = await start(default_headers={"x-a": "1", "X-B": "2"})
    name = (header.decode() if isinstance(header, bytes) else header).lower()
    copy: Any = client.with_options
    await create_completion(client, extra_headers={header: omit})
    await create_completion(copy(default_headers={header: NOT_GIVEN}))
    await create_completion(copy(default_headers={header: omit}), extra_headers={header: "3"})
    first, second, third = (request.headers for request in server.requests)
    assert ("2", "2", "3") == (first["x-b"], second["x-b"], third[name])
    assert name not in {*first, *second}


async def test_headers_that_describe_a_body_are_sent_though_they_are_not_given(start: Start) -> None:
    """Without them a body might be misread; they may be replaced, and so may a default that is taken away."""
    server, client = await start(default_headers={"content-type": "application/json; charset=utf-8"})
    left_out = {"CONTENT-TYPE": omit, "accept-encoding": omit, "Content-Length": omit, "Host": omit}
    await create_completion(client)
    await create_completion(client, extra_headers=left_out)
    await create_completion(client, extra_headers={"Accept-Encoding": "gzip"})
    first, second, third = (request.headers for request in server.requests)
    assert ("application/json; charset=utf-8", "identity") == (
        first["content-type"],
        first["accept-encoding"],
    )
    assert ("application/json", "identity") == (second["content-type"], second["accept-encoding"])
    assert {"content-length", "host"} <= set(second)
    assert "gzip" == third["accept-encoding"]


@pytest.mark.parametrize(("query", "sent"), QUERIES)
async def test_a_query_is_sent_as_it_is_meant(start: Start, query: dict[str, Any], sent: str) -> None:
    server, client = await start(default_query=query)
    await create_completion(client)
    client.default_query = {}
    await create_completion(client, extra_query=query)
    await client.models.list(extra_query=query)
    assert [f"/v1/chat/completions{sent}"] * 2 + [f"/v1/models{sent}"] == [r.target for r in server.requests]
    client.default_query = {"a": "default", "other": 1}
    await create_completion(client, extra_query={"a": [1, 2]})
    assert server.requests[-1].target.endswith("?a=1&a=2&other=1")


@pytest.mark.parametrize(("query", "error", "says"), WRONG_QUERIES)
async def test_a_wrong_query_is_refused_before_anything_is_opened(
    start: Start, query: dict[Any, Any], error: type[Exception], says: str
) -> None:
    server, client = await start()
    with pytest.raises(error, match=says):
        AsyncGradient(default_query=query)
    with pytest.raises(error, match=says):
        await create_completion(client, extra_query=query)
    client.default_query.update(query)
    with pytest.raises(error, match=says):
        await create_completion(client)
    assert 0 == server.connections


@pytest.mark.parametrize("name", ["default_headers", "default_query"])
def test_headers_and_queries_are_dictionaries(name: str) -> None:
    options: dict[str, Any] = {name: [("a", "b")]}
    with pytest.raises(TypeError, match="expected a dict, not list"):
        AsyncGradient(**options)


async def test_a_count_of_choices_may_be_nearly_a_number(start: Start) -> None:
    """As many choices are expected as are asked for."""

    class Scalar:
        def tolist(self) -> int:
            return 2

    one = reply_sse(chunk("a", finish_reason="stop"), done=False)
    for n in (Scalar(), Number.TWO):
        _, client = await start(one)
        with pytest.raises(StreamTruncatedError):
            await (await open_stream(client, n=n)).completion()


async def test_a_key_added_in_place_is_taken_out_of_errors(start: Start) -> None:
    """As one that was given to the client: a server may echo it, and a traceback may show locals."""
    refused = reply_json({"error": {"message": f"bad key {KEY}"}}, 401)
    server, client = await start(refused, refused)
    client.default_headers["Authorization"] = f"Bearer {KEY}"
    extra: dict[str, Any]
    for extra in ({}, {"extra_query": {"a": 1}}):
        with pytest.raises(APIError) as caught:
            await create_completion(client, **extra)
        assert MIDDLE not in everything_shown(caught.value)
    assert [f"Bearer {KEY}"] * 2 == [request.headers["authorization"] for request in server.requests]


async def test_what_calls_share_is_made_once(start: Start) -> None:
    """A call of usual options takes over all but body, parameters and time limits from the one before."""
    calls: list[Any] = []
    _, client = await start()
    manager = client._core.connections.manager
    send = manager.send

    async def noted(call: Any) -> Any:
        calls.append(call)
        return await send(call)

    manager.send = noted  # type: ignore[method-assign]
    await create_completion(client)
    await create_completion(client, timeout=3)
    await create_completion(client, extra_headers={"X-A": "1"})
    await create_completion(client)
    assert [True, True, False, True] == [call.headers is calls[0].headers for call in calls]
    assert [Timeout(), Timeout.of(3), Timeout(), Timeout()] == [call.timeout for call in calls]


async def test_a_call_cancelled_while_its_body_is_read_ends_as_cancelled(start: Start) -> None:
    outcomes: list[Any] = []

    class Notes(Hook):
        def on_end(self, call: CallInfo) -> None:
            outcomes.append(call.outcome)

    _, client = await start(reply_writes([head(200, {"content-length": "9"}), b"{", HOLD]), hooks=[Notes()])
    call = asyncio.create_task(create_completion(client))
    await asyncio.sleep(0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ["cancelled"] == outcomes
