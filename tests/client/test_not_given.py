"""An argument of `NOT_GIVEN`, `omit`, or an object of another package that means the same, is as if it were left out."""

from __future__ import annotations

from typing import Any

import pytest
from client_calls import CALL, MESSAGES, Start

import gradient_async
from gradient_async import AsyncGradient, ChatCompletionStream, InvalidRequestError, Timeout
from gradient_async.testing import Server


def foreign(name: str, *, true: bool, base: object = None) -> Any:
    """Return an object as another package has it; some are true, and some false."""

    def is_true(_: object) -> bool:
        return true

    bases = () if base is None else (base.__class__,)
    return type(name, bases, {"__bool__": is_true})()


NOTHING = {
    "NOT_GIVEN": gradient_async.NOT_GIVEN,
    "omit": gradient_async.omit,
    "a foreign NotGiven": foreign("NotGiven", true=False),
    "a foreign Omit": foreign("Omit", true=False),
    "a foreign Omit that is true": foreign("Omit", true=True),
    "of a subclass": foreign("Nothing", true=True, base=foreign("Omit", true=True)),
}
EACH = pytest.mark.parametrize("nothing", NOTHING.values(), ids=NOTHING)
TOOL: Any = {"type": "function", "function": {"name": "f"}}
OPTIONS = ("timeout", "extra_headers", "extra_query", "extra_body")


def sent(server: Server) -> dict[str, Any]:
    """Return the body of the last request, and expect neither query nor headers of the caller."""
    request = server.requests[-1]
    assert ({}, None) == (request.query, request.headers.get("x-a"))
    return dict(request.json)


@EACH
async def test_create(start: Start, nothing: Any) -> None:
    """Parameters, unknown ones too, values inside them, options, headers and parameters of the query."""
    server, client = await start()
    left_out: Any = dict.fromkeys(
        ["stream", "temperature", "tools", "stop", "no_such_name", *OPTIONS], nothing
    )
    for create in (client.chat.completions.create, client.with_raw_response.chat.completions.create):
        await create(**CALL, **left_out)
        assert CALL == sent(server)
    await client.chat.completions.create(
        model="m",
        messages=[
            nothing,
            *MESSAGES,
            {"role": "user", "content": [nothing, "x", nothing]},
            nothing,
            {"role": "assistant", "content": nothing, "name": nothing, "tool_calls": []},
        ],
        stop=["a", nothing],
        tools=[nothing, TOOL],
        metadata={"a": "1", "b": nothing},
        extra_headers={"x-a": nothing},
        extra_query={"a": nothing, "b": [nothing]},
        extra_body={"temperature": nothing, "n": nothing, "seed": 1, "list": (nothing, 1, [nothing])},
        temperature=0.5,
    )
    body = sent(server)
    assert ({"a": "1"}, 0.5, 1) == (body["metadata"], body["temperature"], body["seed"])
    assert [*MESSAGES, {"role": "user", "content": ["x"]}, {"role": "assistant", "tool_calls": []}] == body[
        "messages"
    ]
    assert (["a"], [TOOL], [1, []]) == (body["stop"], body["tools"], body["list"])
    assert "n" not in body
    with pytest.raises(InvalidRequestError, match="expected at least 1 message"):
        await client.chat.completions.create(model="m", messages=[nothing])


@EACH
async def test_streams(start: Start, nothing: Any) -> None:
    server, client = await start()
    left_out: Any = dict.fromkeys(["stream_options", "no_such_name", *OPTIONS], nothing)
    expected = CALL | {"stream": True, "stream_options": {"include_usage": True}}
    async with client.chat.completions.stream(
        **CALL, **left_out | {"stream": nothing, "n": nothing}
    ) as stream:
        assert (await stream.completion()).usage
    assert expected == sent(server)
    fan_out: Any = dict.fromkeys(
        ["stream", "max_concurrency", "native", "on_error", "stop_when", "first", "hedge_after", "adaptive"],
        nothing,
    )
    async with client.chat.completions.fan_out(n=2, **CALL, **left_out | fan_out) as fan:
        assert 2 == len((await fan.completion()).choices)
    assert expected == sent(server)
    opened = await client.chat.completions.create(**CALL, stream=True, stream_options=nothing)
    async with opened:
        assert isinstance(opened, ChatCompletionStream)
    assert CALL | {"stream": True} == sent(server)
    streaming: Any = client.with_streaming_response
    async with streaming.chat.completions.create(**CALL, stream=nothing) as response:
        await response.read()
    assert CALL == sent(server)


@EACH
async def test_map(start: Start, nothing: Any) -> None:
    """An option has its default; in a request, a parameter is that of all requests."""
    server, client = await start()
    options: Any = dict.fromkeys(
        [
            "max_concurrency",
            "ordered",
            "on_error",
            "window",
            "requests_per_minute",
            "tokens_per_minute",
            "adaptive",
        ],
        nothing,
    )
    request = CALL | {"temperature": nothing, "stream": nothing, "no_such_name": nothing}
    results = client.chat.completions.map(
        [request], **options, stream=True, temperature=0.5, stop=nothing, timeout=nothing
    )
    (result,) = [result async for result in results]
    assert result.unwrap().choices
    assert result.request is request
    expected = CALL | {"temperature": 0.5, "stream": True, "stream_options": {"include_usage": True}}
    assert expected == sent(server)
    async for result in client.chat.completions.map([CALL], stream=nothing):
        assert result.unwrap().choices
    assert CALL == sent(server)


@EACH
async def test_agents_and_models(start: Start, nothing: Any) -> None:
    server, client = await start()
    await client.agents.chat.completions.create(
        messages=MESSAGES, k=nothing, stream=nothing, extra_body=nothing
    )
    assert {"messages": MESSAGES} == server.requests[-1].json
    options = {"extra_headers": nothing, "extra_query": nothing, "timeout": nothing}
    assert (await client.models.list(**options)).data
    assert (await (await client.with_raw_response.models.list(**options)).parse()).data


@EACH
def test_options_of_a_client(nothing: Any) -> None:
    """All of them, in the constructor and in `with_options`; the latter changes nothing."""
    make: Any = AsyncGradient
    names = [name for name in AsyncGradient.__init__.__annotations__ if name != "return"]
    plain, client = make(), make(**dict.fromkeys(names, nothing), organization=nothing)
    assert vars(plain._core.connections) == vars(client._core.connections)
    full = make(
        api_key="k",
        agent_endpoint="a.test",
        timeout=1,
        max_retries=7,
        strict=True,
        default_headers={"x": "1"},
    )
    changed = [name for name in AsyncGradient.with_options.__annotations__ if name != "return"]
    for one, other in ((plain, client), (full, full.with_options(**dict.fromkeys(changed, nothing)))):
        for name in (
            "timeout",
            "max_retries",
            "strict",
            "default_headers",
            "default_query",
            "hooks",
            "api_key",
        ):
            assert getattr(one, name) == getattr(other, name), name
        assert one._core.settings.endpoints == other._core.settings.endpoints
    assert Timeout.of(1) == full.timeout


@pytest.mark.parametrize("package", ["openai", "gradient"])
@pytest.mark.filterwarnings("default")
async def test_those_of_other_packages(start: Start, package: str) -> None:
    other = pytest.importorskip(package)
    server, client = await start()
    for nothing in (other.NOT_GIVEN, other.NotGiven(), other.omit, other.Omit()):
        await client.chat.completions.create(
            **CALL, temperature=nothing, timeout=nothing, extra_headers={"Authorization": nothing}
        )
        assert CALL == sent(server)
        assert "authorization" not in server.requests[-1].headers
