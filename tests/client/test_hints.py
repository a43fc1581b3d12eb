"""What users of other clients write by habit is an error of one sentence that says what to write."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Iterable
from typing import Any

import pytest
from client_calls import CALL, Start
from sync_calls import started

from gradient_async import AsyncGradient, Gradient
from gradient_async.client import hints
from gradient_async.types import Hint

make: Any = AsyncGradient
make_sync: Any = Gradient
TABLES: dict[str, dict[str, str]] = {
    "": hints.CLIENT,
    "agents": hints.AGENTS,
    "models": hints.MODELS,
    "with_streaming_response": hints.STREAMING,
}


def at(client: Any, path: str) -> Any:
    return operator.attrgetter(path)(client) if path else client


WITHOUT_ASYNCIO = {
    "": {**hints.without_asyncio(hints.CLIENT), **hints.RAW},
    "agents": {**hints.without_asyncio(hints.AGENTS), **hints.RAW},
    "models": {**hints.without_asyncio(hints.MODELS), **hints.RAW},
    "chat.completions": hints.RAW,
    "agents.chat.completions": hints.RAW,
}
OF_COMPLETIONS = {
    name: hint.sentence for name, hint in vars(hints.CompletionsHints).items() if isinstance(hint, Hint)
}


@pytest.mark.parametrize(
    ("kind", "path", "table"),
    [
        *((AsyncGradient, path, table) for path, table in TABLES.items()),
        *((Gradient, path, table) for path, table in WITHOUT_ASYNCIO.items()),
        *(
            (kind, path, OF_COMPLETIONS)
            for kind in (AsyncGradient, Gradient)
            for path in ("chat.completions", "agents.chat.completions")
        ),
    ],
)
def test_attributes_of_other_clients(kind: Any, path: str, table: dict[str, str]) -> None:
    owner = at(kind(api_key="k"), path)
    for name, sentence in table.items():
        assert "await" not in sentence or kind is AsyncGradient
        assert not hasattr(owner, name), name
        with pytest.raises(AttributeError) as caught:
            getattr(owner, name)
        assert f"{type(owner).__name__} has no {name!r}: {sentence}" == str(caught.value)
        assert not re.search(r"(?<![.])[.]( |$)|\n", sentence), sentence
    with pytest.raises(AttributeError, match=r"object has no attribute 'no_such_name'$"):
        _ = owner.no_such_name


@pytest.mark.parametrize("package", ["openai", "gradient"])
@pytest.mark.filterwarnings("default")
def test_every_name_of_the_other_clients(package: str) -> None:
    """Attributes and options are either here, too, or say what to write."""
    other: Any = pytest.importorskip(package)
    keys = {"api_key": "k"} if package == "openai" else {"model_access_key": "k", "access_token": "t"}
    kind = other.AsyncOpenAI if package == "openai" else other.AsyncGradient
    theirs, ours = kind(**keys), make(api_key="k")
    for path, table in TABLES.items():
        if path == "with_streaming_response" or (package == "openai" and "agents" in path):
            continue
        owner = at(theirs, path)
        names: set[str] = {*dir(owner), *vars(owner)}
        public = {name for name in names if not name.startswith("_")}
        known = {name for name in public if inspect.getattr_static(at(ours, path), name, None) is not None}
        assert set() == public - known - set(table), path
    options = set(inspect.signature(kind.__init__).parameters) | set(inspect.signature(kind.copy).parameters)
    mine = set(inspect.signature(make.__init__).parameters) | set(inspect.signature(make.copy).parameters)
    assert {"_extra_kwargs", "_enforce_credentials"} >= options - mine - set(hints.OPTIONS)


@pytest.mark.parametrize("name", hints.OPTIONS)
def test_options_of_other_clients(name: str) -> None:
    """Refused with a sentence in the constructor, in a copy, and as an attribute."""
    sentence = hints.OPTIONS[name]
    for call in (make, make().with_options, make_sync, make_sync().with_options):
        with pytest.raises(TypeError) as caught:
            call(**{name: "x"})
        assert f"{name} is not supported: {sentence}" == str(caught.value)
        assert call(**{name: None})
    for client in (make(), make_sync()):
        with pytest.raises(AttributeError, match=f"^{name} is not supported: "):
            setattr(client, name, "x")


async def test_with_in_place_of_async_with(start: Start) -> None:
    server, client = await start()
    completions: Any = client.chat.completions
    streaming: Any = client.with_streaming_response.chat.completions
    managed: list[tuple[Any, str]] = [
        (client, "AsyncGradient"),
        (completions.stream(**CALL), "StreamManager"),
        (completions.fan_out(n=2, **CALL), "FanOut"),
        (completions.map([CALL]), "MapResults"),
        (streaming.create(**CALL), "ResponseContext"),
    ]
    for each, name in managed:
        with (
            pytest.raises(
                TypeError, match=f"^write 'async with' in place of 'with': {name} is asynchronous$"
            ),
            each,
        ):
            raise AssertionError
    assert [] == server.requests
    async with completions.stream(**CALL) as stream:
        with pytest.raises(TypeError, match=r"ChatCompletionStream is asynchronous$"), stream:
            raise AssertionError
        assert (await stream.completion()).choices


async def test_for_in_place_of_async_for(start: Start) -> None:
    """Not of `text` and `raw`: libraries that look for `__iter__` first take them as they are."""
    server, client = await start()
    completions: Any = client.chat.completions
    loops: list[tuple[Any, str]] = [
        (completions.fan_out(n=2, **CALL), "FanOut"),
        (completions.map([CALL]), "MapResults"),
        (completions.run(tools=[print_nothing], **CALL), "ToolRun"),
        (client.models.list(), "ModelsRequest"),
    ]
    for each, name in loops:
        with pytest.raises(TypeError, match=f"^write 'async for' in place of 'for': {name} is asynchronous$"):
            iter(each)
    assert [] == server.requests
    async with completions.stream(**CALL) as stream:
        with pytest.raises(TypeError, match=r"ChatCompletionStream is asynchronous$"):
            iter(stream)
        assert not isinstance(stream.text, Iterable)
        assert not isinstance(stream.raw, Iterable)
        assert (await stream.completion()).choices


def print_nothing() -> str:
    return ""


async def test_a_stream_that_was_not_entered(start: Start) -> None:
    """Iterated over, or used as if it were the stream; awaiting it gives the stream."""
    server, client = await start()
    manager: Any = client.chat.completions.stream(**CALL)
    says = r"write 'async with client.chat.completions.stream\(...\) as stream'"
    for iterate in (aiter, iter, next):
        with pytest.raises(TypeError, match=says):
            iterate(manager)
    for name in ("text", "events", "get_final_completion", "snapshot", "__anext__"):
        with pytest.raises(AttributeError, match=f"^'{name}' is an attribute of the stream: .*{says}"):
            getattr(manager, name)
        assert not hasattr(manager, name)
    with pytest.raises(AttributeError, match="'StreamManager' object has no attribute 'txet'"):
        _ = manager.txet
    assert [] == server.requests
    async with await manager as stream:
        assert (await stream.completion()).choices


async def test_properties_that_are_called(start: Start) -> None:
    _, client = await start()
    async with client.chat.completions.stream(**CALL) as stream:
        views: list[Any] = [stream.raw, stream.text, stream.choice(0).text]
        for view in views:
            with pytest.raises(
                TypeError, match=r"^leave the parentheses out: .*'async for text in stream.text'$"
            ):
                view()


async def test_a_streaming_response_that_is_awaited(start: Start) -> None:
    server, client = await start()
    streaming: Any = client.chat.completions.with_streaming_response
    with pytest.raises(TypeError, match=r"^write 'async with .* as response' in place of 'await'$"):
        await streaming.create(**CALL)
    assert [] == server.requests


# Without asyncio


def test_a_stream_of_gradient_that_was_not_entered() -> None:
    with started() as (server, client):
        completions: Any = client.chat.completions
        manager = completions.stream(**CALL)
        says = r"write 'with client.chat.completions.stream\(...\) as stream'"
        for iterate in (iter, next, aiter):
            with pytest.raises(TypeError, match=f"^nothing was sent yet; {says}"):
                iterate(manager)
        for name in ("text", "events", "get_final_completion", "snapshot", "close"):
            with pytest.raises(AttributeError, match=f"^'{name}' is an attribute of the stream: .*{says}"):
                getattr(manager, name)
        with pytest.raises(AttributeError, match="'StreamManager' object has no attribute 'txet'"):
            _ = manager.txet
        with pytest.raises(TypeError, match=r"^nothing was sent yet: use .*'with' for Gradient"):
            next(completions.fan_out(n=2, **CALL))
        assert [] == server.requests
        with manager as stream:
            assert stream.completion().choices


async def test_async_with_in_place_of_with() -> None:
    with started() as (server, client):
        completions: Any = client.chat.completions
        managed: list[tuple[Any, str]] = [
            (client, "Gradient"),
            (completions.stream(**CALL), "StreamManager"),
            (completions.fan_out(n=2, **CALL), "FanOut"),
            (completions.map([CALL]), "MapResults"),
        ]
        for each, name in managed:
            with pytest.raises(TypeError, match=f"^write 'with' in place of 'async with': {name} is not"):
                async with each:
                    raise AssertionError
        assert [] == server.requests


def test_methods_of_an_asynchronous_stream() -> None:
    with started() as (_, client), client.chat.completions.stream(**CALL) as stream:
        views: list[Any] = [stream.raw, stream.text, stream.choice(0).text]
        for view in views:
            with pytest.raises(
                TypeError, match=r"^leave the parentheses out: .*, as in 'for text in stream.text'$"
            ):
                view()
        plain: Any = stream
        with pytest.raises(AttributeError, match=r"^Stream has no 'aclose': write close\(\)$"):
            plain.aclose()
