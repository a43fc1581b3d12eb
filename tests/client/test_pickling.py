"""A client is pickled and deep-copied as its settings, at any moment; its connections stay behind."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import aiohttp
import pytest
from client_calls import CALL, MESSAGES, Start, create_completion

from gradient_async import AsyncGradient, Hook, Limits, Retry, Timeout, omit
from gradient_async.testing import Server, serve

Copy = Callable[[AsyncGradient], AsyncGradient]
SETTINGS: dict[str, Any] = {
    "model_access_key": "model-key",
    "agent_access_key": "agent-key",
    "access_token": "a token",
    "timeout": Timeout(idle=3),
    "max_retries": 7,
    "retry": Retry(budget=1),
    "max_connections": 5,
    "limits": Limits(choices=3),
    "strict": True,
    "validate": False,
    "on_bad_event": "skip",
    "default_headers": {"X-A": "1", "X-Api-Key": "hidden", "User-Agent": omit},
    "default_query": {"a": [1, 2]},
    "trust_env": True,
}


def pickled(client: Any) -> Any:
    return pickle.loads(pickle.dumps(client))  # noqa: S301  # our own


def pickled_by(protocol: int) -> Copy:
    return lambda client: pickle.loads(pickle.dumps(client, protocol))  # noqa: S301  # our own


PROTOCOLS = {f"protocol {number}": pickled_by(number) for number in range(pickle.HIGHEST_PROTOCOL + 1)}
COPIES = pytest.mark.parametrize(
    "make_copy", [*PROTOCOLS.values(), copy.deepcopy], ids=[*PROTOCOLS, "deepcopy"]
)


class Tenant(AsyncGradient):
    """A subclass that has attributes of its own."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        self.notes = [name]


def settings_of(client: AsyncGradient) -> dict[str, Any]:
    settings = client._core.settings
    fields = {name: getattr(settings, name) for name in settings.__struct_fields__}
    return fields | {"connections": {**vars(client._core.connections), "manager": None}}


@COPIES
async def test_every_setting(make_copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the environment too, as they were when the client was made."""
    monkeypatch.setenv("GRADIENT_AGENT_ENDPOINT", "https://agent.test")
    client = AsyncGradient(base_url="https://x.test/v2", **SETTINGS)
    client.inference_endpoint = "https://y.test"
    monkeypatch.setenv("GRADIENT_AGENT_ENDPOINT", "https://elsewhere.test")
    copied = make_copy(client)
    assert settings_of(client) == settings_of(copied)
    assert "hidden" not in repr(copied.default_headers)
    copied.default_headers["X-A"] = copied.default_query["a"] = "2"
    copied.api_key = "other"
    assert ("1", [1, 2], "model-key") == (
        client.default_headers["X-A"],
        client.default_query["a"],
        client.api_key,
    )


@COPIES
async def test_at_any_moment(start: Start, make_copy: Copy) -> None:
    """Before and after calls, with a stream open, of a copy, of a closed client: it works, with its own connections."""
    server, client = await start()

    async def works(copied: AsyncGradient) -> None:
        before = server.connections
        async with copied:
            assert (await create_completion(copied)).choices
        assert (True, before + 1) == (copied.is_closed(), server.connections)

    await works(make_copy(client))
    await create_completion(client)
    await works(make_copy(client))
    async with client.chat.completions.stream(**CALL) as stream:
        await anext(stream)
        await works(make_copy(client))
        await works(make_copy(client.with_options(timeout=5)))
        assert (await stream.completion()).choices
    await client.close()
    await works(make_copy(client))


@COPIES
async def test_what_a_subclass_adds(make_copy: Copy) -> None:
    client = Tenant("somebody", model_access_key="k")
    client.chat.completions.create = None  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]  # as a mock
    copied = make_copy(client)
    assert isinstance(copied, Tenant)
    assert (["somebody"], False) == (copied.notes, copied.notes is client.notes)
    assert copied.chat.completions.create is not None
    client.notes.append(client)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # it may contain itself
    copied = make_copy(client)
    assert isinstance(copied, Tenant)
    notes: list[Any] = copied.notes
    assert copied is notes[1]


@COPIES
async def test_a_resource_alone(start: Start, make_copy: Callable[[Any], Any]) -> None:
    """It is copied with the settings of its client; in a copy of the client, it is the client's."""
    server, client = await start()
    await create_completion(client)
    completions = make_copy(client.chat.completions)
    assert (await completions.create(**CALL)).choices
    assert 2 == server.connections
    await completions._core.connections.close()
    client_copy, models = make_copy((client, client.models))
    client_copy.api_key = "other"
    await models.list()
    assert "Bearer other" == server.requests[-1].headers["authorization"]
    await client_copy.close()


def test_a_deep_copy_shares_hooks() -> None:
    """They may hold what can't be copied, and have to be told of the calls of the copy."""

    class Locked(Hook):
        lock = threading.Lock()

    hook = Locked()
    hook.mine = threading.Lock()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as in an `__init__`
    client = AsyncGradient(hooks=[hook])
    assert (hook,) == copy.deepcopy(client).hooks


async def test_a_shallow_copy_shares_the_connections(start: Start) -> None:
    server, client = await start()
    copied = copy.copy(client)
    await create_completion(client)
    await create_completion(copied)
    await copied.close()
    assert (1, False) == (server.connections, client.is_closed())


@COPIES
async def test_a_session_of_the_callers_own(make_copy: Copy) -> None:
    async with aiohttp.ClientSession() as session:
        client = AsyncGradient(session=session)
        for each in (client, client.with_options(timeout=5)):
            with pytest.raises(TypeError, match=r"session=.* can't be pickled or deep-copied.*with_options"):
                make_copy(each)


def count_in_a_process(client: AsyncGradient) -> int:
    async def count() -> int:
        async with client:
            completion = await client.chat.completions.create(model="m", messages=MESSAGES)
        return len(completion.choices)

    return asyncio.run(count())


async def test_in_another_process() -> None:
    """As an argument of a worker, after a call."""

    async def use(server: Server) -> None:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k")
        await create_completion(client)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            loop = asyncio.get_running_loop()
            assert 1 == await loop.run_in_executor(pool, count_in_a_process, client)
        assert ["Bearer k"] * 2 == [request.headers["authorization"] for request in server.requests]
        await client.close()

    async with serve() as server:
        await use(server)
