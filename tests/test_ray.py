"""The stage of Ray Data, alone and in a small cluster; it needs the extra ``ray``, and `.ci/run` has an environment for it."""

from __future__ import annotations

import asyncio
import bisect
import importlib
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gradient_async import (
    AsyncGradient,
    BadRequestError,
    ConfigurationError,
    GradientError,
    JournalError,
    Pace,
)
from gradient_async.config import VARIABLES
from gradient_async.testing import Connection, Handler, Quota, Request, completion, reply_json, serve
from ray_rows import MAX_CONCURRENCY, asked, client, connect, dataset, table

pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
pytestmark = pytest.mark.filterwarnings("default")  # Ray warns of its own dependencies, and leaves files open

stages: Any = importlib.import_module("gradient_async.ray")
paces: Any = importlib.import_module("gradient_async.ray.pace")
inside: Any = importlib.import_module("gradient_async.ray.stage")

ANSWER = completion("Yes.")
NO = {"id": "bad_request", "message": "no"}
COLUMNS = [
    ("text", "string"), ("finish_reason", "string"), ("model", "string"), ("prompt_tokens", "int64"),
    ("completion_tokens", "int64"), ("attempts", "int32"), ("resumed", "bool"), ("error_type", "string"),
    ("error", "string"), ("status_code", "int32"), ("request_id", "string"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key in the environment."""
    for names in VARIABLES.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster with two CPUs. The paths of its sockets must be short."""
    joined = connect(
        num_cpus=2,
        object_store_memory=75 * 2**20,
        include_dashboard=False,
        _temp_dir=str(tmp_path_factory.mktemp("r")),
    )
    yield joined
    joined.shutdown()


def echo(wait: Callable[[], float] = lambda: 0.0) -> Handler:
    """Answer with the prompt, after some seconds."""

    async def answer(request: Request, connection: Connection) -> None:
        await asyncio.sleep(wait())
        prompt = json.loads(request.body)["messages"][-1]["content"]
        await reply_json(completion(prompt))(request, connection)

    return answer


async def ask(rows: Any, *tables: Any, **options: Any) -> Any:
    """Run the stage in this process; return its table, or several if several are given."""
    stage = stages.Complete(**{"request": "messages", "model": "m", **options})
    try:
        done = await asyncio.gather(stage(rows), *(stage(more) for more in tables))
    finally:
        if stage._map is not None:
            await stage._map._end()
    return done if tables else done[0]


# The call of `complete`


class Data:
    """Stands for a dataset, and keeps what it is asked for."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.arguments: dict[str, Any] = {}

    def schema(self, *, fetch_if_missing: bool) -> Any:
        assert not fetch_if_missing  # this would run the stages before
        return self if self.names else None

    def map_batches(self, stage: type, **arguments: Any) -> Any:
        assert stage is stages.Complete
        self.arguments = arguments
        return self


def test_complete_calls_map_batches(ray: Any) -> None:
    """The arguments are those that a user would give, and can be pickled."""
    data = Data("id", "messages")
    made = stages.complete(data, request="messages", client={"api_key": "k"}, model="m", workers=3)
    assert made is data
    kwargs = data.arguments.pop("fn_constructor_kwargs")
    assert 3 == data.arguments.pop("compute").min_size
    assert data.arguments == {
        "batch_size": 256,
        "batch_format": "pyarrow",
        "num_cpus": 0.25,
        "udf_modifying_row_count": False,
        "max_concurrency": 2,
        "max_restarts": 3,
        "max_task_retries": -1,
    }
    assert "k" not in repr(kwargs)
    stages.Complete(**pickle.loads(pickle.dumps(kwargs)))


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ConfigurationError, {"client": None}),
        (ConfigurationError, {"client": {}}),
        (ConfigurationError, {"client": {"api_key": "two\nlines"}}),
        (ConfigurationError, {"client": {"api_key": "k", "base_url": "gopher://x"}}),
        (TypeError, {"client": {"api_key": "k", "speed": 3}}),
        (TypeError, {"client": "k"}),
        (TypeError, {"client": {"api_key": "k", "session": object()}}),
        (TypeError, {"request": 3}),
        (TypeError, {"request": [threading.Lock()].append}),
        (TypeError, {"temprature": 0.2}),
        (TypeError, {"pace": 600}),
        (TypeError, {"key": 3}),
        (TypeError, {"prefix": None}),
        (TypeError, {"journal": 3}),
        (ConfigurationError, {"journal": __file__}),
        (ConfigurationError, {"on_error": "ignore"}),
        (ConfigurationError, {"max_concurrency": 0}),
        (ConfigurationError, {"workers": 0}),
        (ConfigurationError, {"batch_size": 0}),
        (ConfigurationError, {"request": "prompt"}),
        (ConfigurationError, {"key": "name"}),
        (ConfigurationError, {"prefix": "my_"}),
    ],
)
def test_mistakes_are_told_at_the_call(error: type[Exception], options: dict[str, Any]) -> None:
    """No worker is started for them."""
    data = Data("id", "messages", "my_text")
    arguments = {"request": "messages", "client": {"api_key": "k"}, "model": "m", **options}
    with pytest.raises(error):
        stages.complete(data, **arguments)
    assert {} == data.arguments


def test_names_of_columns(ray: Any) -> None:
    """They are checked at the call where they are known; a prefix makes room."""
    options: dict[str, Any] = {"request": "messages", "client": {"api_key": "k"}, "model": "m"}
    with pytest.raises(ConfigurationError, match="a column 'text' already: pass prefix="):
        stages.complete(Data("messages", "text"), **options)
    with pytest.raises(ConfigurationError, match="'body'"):
        stages.complete(Data("messages", "body"), body=True, **options)
    stages.complete(Data("messages", "body"), **options)
    stages.complete(Data("messages", "text"), prefix="llm_", **options)
    stages.complete(Data(), **options)  # the first worker will see


async def test_the_first_worker_checks_names() -> None:
    """Where the columns were not known before."""
    with pytest.raises(ValueError, match="already"):
        await ask(table(1, text=["x"]), client={"api_key": "k"})


# Requests


async def test_requests_from_a_column() -> None:
    """Text is a message of the user; a list is sent as it is, without the nulls that Arrow adds."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        [
            {"role": "assistant", "tool_calls": [call], "content": None},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "b"}]},
        ],
    ]
    arrow: Any = importlib.import_module("pyarrow")
    with serve(reply_json(ANSWER), repeat=True) as server:
        await ask(table(1), client=client(server.url), temperature=0.5)
        await ask(arrow.table({"messages": messages}), client=client(server.url))
        bodies = [json.loads(request.body) for request in server.requests]
    assert {"model": "m", "temperature": 0.5, "messages": [{"role": "user", "content": "row 0"}]} == bodies[0]
    assert sorted(map(repr, messages)) == sorted(repr(body["messages"]) for body in bodies[1:])


async def test_requests_from_a_function() -> None:
    """It gets a row and returns parameters, which win over those of all rows."""

    def request(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "messages": [{"role": "user", "content": row["messages"], "name": None}],
            "temperature": row["id"],
            "extra_body": {"top_k": 5},
        }

    with serve(reply_json(ANSWER), repeat=True) as server:
        await ask(table(2), request=request, client=client(server.url), temperature=0.5, seed=1)
        bodies = sorted((json.loads(request.body) for request in server.requests), key=lambda body: body["seed"])
    assert {0, 1} == {body["temperature"] for body in bodies}
    assert all(5 == body["top_k"] and "name" not in body["messages"][0] for body in bodies)


async def test_a_row_that_is_no_request_is_an_error_row() -> None:
    """Refused by the function, without messages, with parameters that are wrong."""

    def request(row: dict[str, Any]) -> Any:
        if row["id"] == 0:
            raise KeyError("half a pair \ud800")
        return [None, 3, {"messages": "x"}, {"messages": [], "topp": 1}, {"messages": row["text_of"]}][row["id"]]

    arrow: Any = importlib.import_module("pyarrow")
    with serve(handler=echo()) as server:
        rows = table(5, text_of=[[{"role": "user", "content": "fine"}]] * 5)
        done = await ask(rows, request=request, client=client(server.url))
        column = await ask(arrow.table({"messages": [None, "x"]}), client=client(server.url))
    assert [None, None, None, None, "fine"] == done["text"].to_pylist()
    assert ["KeyError", *["InvalidRequestError"] * 3, None] == done["error_type"].to_pylist()
    assert "half a pair ?" in done["error"][0].as_py()
    assert "returned int" in done["error"][1].as_py()
    assert [0, 0, 0, 0, 1] == done["attempts"].to_pylist()
    assert ["InvalidRequestError", None] == column["error_type"].to_pylist()


# Workers


async def test_batches_share_the_limit_of_a_worker() -> None:
    """`max_concurrency` holds for all batches at once, and all of them go on when one waits."""
    running = most = 0

    async def answer(request: Request, connection: Connection) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        await reply_json(ANSWER)(request, connection)

    with serve(handler=answer) as server:
        done = await ask(table(20), table(20), client=client(server.url), max_concurrency=5)
    assert [20, 20] == [each.num_rows for each in done]
    assert most == 5


async def test_a_client_is_sent_as_its_settings() -> None:
    """The stage has a copy, and closes it."""
    with serve(reply_json(ANSWER), repeat=True) as server:
        async with AsyncGradient(**client(server.url)) as mine:
            done = await ask(table(1), client=mine)
            assert ["Yes."] == done["text"].to_pylist()
            await mine.chat.completions.create(model="m", messages=[{"role": "user", "content": "still open"}])


async def test_dropping_the_stage_closes_it() -> None:
    """In the loop's thread, in another, and when the loop is gone."""
    with serve(reply_json(ANSWER), repeat=True) as server:
        for drop in (lambda held: held.clear(), lambda held: asyncio.to_thread(held.clear)):
            held = [stages.Complete(request="messages", model="m", client=client(server.url))]
            await held[0](table(1))
            reader = held[0]._map._reader
            if (dropped := drop(held)) is not None:
                await dropped
            await asyncio.wait((reader,), timeout=10)
            assert reader.cancelled()
        held = [stages.Complete(request="messages", model="m", client=client(server.url))]

        async def end_with_the_loop() -> None:
            await held[0](table(1))
            await held[0]._map._end()

        await asyncio.to_thread(asyncio.run, end_with_the_loop())
        held.clear()


# Results


async def test_columns_have_the_same_types_in_every_block() -> None:
    """Whether rows succeeded, failed, or there are none; the columns of the input come first."""
    with serve(reply_json(ANSWER, headers={"x-request-id": "r1"}), reply_json(NO, 400)) as server:
        options = client(server.url) | {"max_retries": 0}
        good = await ask(table(1), client=options)
        bad = await ask(table(1), client=options)
        none = await ask(table(0), client=options)
    for done in (good, bad, none):
        assert [("id", "int64"), ("messages", "string"), *COLUMNS] == [(f.name, str(f.type)) for f in done.schema]
    (row,) = good.to_pylist()
    assert {"text": "Yes.", "finish_reason": "stop", "attempts": 1, "resumed": False, "request_id": "r1"}.items() <= row.items()
    assert ANSWER["model"] == row["model"]
    assert ANSWER["usage"]["prompt_tokens"] == row["prompt_tokens"]
    assert ANSWER["usage"]["completion_tokens"] == row["completion_tokens"]
    assert row["error"] is row["error_type"] is row["status_code"] is None
    (row,) = bad.to_pylist()
    assert {"text": None, "error_type": "BadRequestError", "status_code": 400, "attempts": 1}.items() <= row.items()
    assert "no" in row["error"]


async def test_prefix_and_body() -> None:
    """The reply as JSON, with what the library has no names for; and no usage is null."""
    with serve(reply_json({**ANSWER, "odd": [1], "usage": None}), reply_json(NO, 400)) as server:
        options = client(server.url)
        done = await ask(table(1, text=["mine"]), client=options, prefix="llm_", body=True)
        failed = await ask(table(1), client=options, body=True)
    (row,) = done.to_pylist()
    assert [1] == json.loads(row["llm_body"])["odd"]
    assert "mine" == row["text"] and "Yes." == row["llm_text"] and row["llm_prompt_tokens"] is None
    assert [None] == failed["body"].to_pylist()


async def test_rows_stay_in_order() -> None:
    """However their replies come."""
    dice = random.Random(1)
    with serve(handler=echo(lambda: dice.random() / 20)) as server:
        done = await ask(table(200), table(100), client=client(server.url))
    for each in done:
        assert each["messages"].to_pylist() == each["text"].to_pylist()


async def test_an_error_can_end_the_job() -> None:
    """The first that is a row's."""

    def refuse(row: dict[str, Any]) -> Any:
        raise LookupError("mine")

    with serve(reply_json(NO, 400), repeat=True) as server:
        with pytest.raises(BadRequestError):
            await ask(table(3), client=client(server.url), on_error="raise")
        with pytest.raises(LookupError, match="mine"):
            await ask(table(3), request=refuse, client=client(server.url), on_error="raise")


# Journal


async def test_a_journal_goes_on(tmp_path: Path) -> None:
    """By another job, and by another worker of the same."""
    folder = tmp_path / "made" / "here"
    with serve(handler=echo()) as server:
        options: dict[str, Any] = {"client": client(server.url), "journal": folder, "body": True}
        first = await ask(table(20), job="one", **options)
        again = await ask(table(30), job="one", **options)
        other = await ask(table(30), job="two", **options)
        changed = await ask(table(30), job="two", seed=1, **options)
        assert 20 + 10 + 0 + 30 == len(server.requests)
    assert [False] * 20 == first["resumed"].to_pylist()
    assert [True] * 20 + [False] * 10 == again["resumed"].to_pylist()
    assert [True] * 30 == other["resumed"].to_pylist()
    assert [False] * 30 == changed["resumed"].to_pylist()
    for done in (again, other):
        assert done["messages"].to_pylist() == done["text"].to_pylist()
    for name in ("text", "finish_reason", "prompt_tokens", "attempts", "request_id", "body"):
        assert first[name].to_pylist() == again[name].to_pylist()[:20]
    names = sorted(path.name.partition("-")[0] for path in folder.iterdir())
    assert ["one", "one", "two", "two"] == names


async def test_workers_read_what_others_write(tmp_path: Path) -> None:
    """Before each batch."""
    with serve(handler=echo()) as server:
        options: dict[str, Any] = {"request": "messages", "model": "m", "client": client(server.url)}
        here, there = (stages.Complete(journal=tmp_path, job="one", **options) for _ in "ab")
        try:
            await here(table(2))
            assert [True, True, False] == (await there(table(3)))["resumed"].to_pylist()
            assert [True, True, True, False] == (await here(table(4)))["resumed"].to_pylist()
        finally:
            for stage in (here, there):
                await stage._map._end()


async def test_errors_are_kept_within_a_job(tmp_path: Path) -> None:
    """A replay has to be the same, with the same class of error; the next job asks again."""
    with serve(reply_json(NO, 400), reply_json(NO, 500), handler=echo()) as server:
        options: dict[str, Any] = {
            "client": client(server.url) | {"max_retries": 0},
            "journal": tmp_path,
            "max_concurrency": 1,
        }
        rows = table(4).set_column(1, "messages", [["a", "b", "c", None]])
        first = await ask(rows, job="one", **options)
        again = await ask(rows, job="one", **options)
        other = await ask(rows, job="two", **options)
    for name, _ in COLUMNS:
        if name != "resumed":
            assert first[name].to_pylist() == again[name].to_pylist(), name
    assert ["BadRequestError", "InternalServerError", None, "InvalidRequestError"] == first["error_type"].to_pylist()
    assert [True, True, True, False] == again["resumed"].to_pylist()
    assert ["a", "b", "c", None] == other["text"].to_pylist()
    assert [False, False, True, False] == other["resumed"].to_pylist()


async def test_a_key_tells_equal_rows_apart(tmp_path: Path) -> None:
    """Without one, equal rows share an answer once it is in the journal."""
    rows = table(3).set_column(1, "messages", [["same"] * 3])
    with serve(handler=echo()) as server:
        options: dict[str, Any] = {"client": client(server.url)}
        await ask(rows, journal=tmp_path / "shared", **options)
        await ask(rows, journal=tmp_path / "shared", **options)
        assert 3 == len(server.requests)
        for _ in "twice":
            await ask(rows.slice(0, 1), journal=tmp_path / "known", key="id", **options)
        done = await ask(rows, journal=tmp_path / "known", key="id", **options)
        assert 3 + 3 == len(server.requests)
    assert [True, False, False] == done["resumed"].to_pylist()


async def test_a_foreign_file_in_the_folder_is_refused(tmp_path: Path) -> None:
    """And one that can't be read; a line that another worker has not ended is left alone."""
    (tmp_path / "mine.jsonl").write_text('{"mine": 1}\n', "utf-8")
    with serve(handler=echo()) as server:
        options: dict[str, Any] = {"client": client(server.url), "journal": tmp_path}
        with pytest.raises(JournalError, match=r"mine\.jsonl:1"):
            await ask(table(1), **options)
        (tmp_path / "mine.jsonl").write_text('{"id":', "utf-8")
        await ask(table(1), **options)
        (tmp_path / "mine.jsonl").unlink()
        (tmp_path / "mine.jsonl").symlink_to(tmp_path / "nowhere")
        with pytest.raises(JournalError, match="No such file"):
            await ask(table(1), **options)
    assert not list(tmp_path.glob("*.superseded"))


async def test_a_full_disk_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error that names the file, at once and later."""
    stage = stages.Complete(request="messages", model="m", client={"api_key": "k"}, journal=tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise JournalError("no space", path="x")

    with serve(handler=echo()) as server:
        stage._client = AsyncGradient(**client(server.url))
        monkeypatch.setattr("gradient_async.fanout.journal.Journal.write", full)
        for _ in "twice":
            with pytest.raises(JournalError, match="no space"):
                await stage(table(3))


# SharedPace


def window(requests: list[Request], seconds: float) -> int:
    """Return the largest number of requests in any stretch of so many seconds."""
    times = sorted(request.received_at for request in requests)
    return max(bisect.bisect_left(times, at + seconds) - index for index, at in enumerate(times))


async def test_the_keeper_begins_without_a_burst() -> None:
    """A new one does not know what was sent before: slower, never faster."""
    keeper = paces.PaceKeeper((600, None))
    began = time.monotonic()
    turns = 0
    while time.monotonic() < began + 1:
        lease = await keeper.lease(paces.Ask(turns=64, tokens=0, first=0, used_turns=0, used_tokens=0))
        turns += lease.turns
        assert 1 == lease.turns and float("inf") == lease.tokens
    assert 5 <= turns <= 11


async def test_the_keeper_gives_small_leases() -> None:
    """A tenth of a second's worth, as much as is asked for at most, and enough for the next request."""
    keeper = paces.PaceKeeper((60_000, 600_000))
    lease = await keeper.lease(paces.Ask(turns=500, tokens=1e6, first=10, used_turns=0, used_tokens=0))
    assert (100, 1000) == lease[:2]
    lease = await keeper.lease(paces.Ask(turns=5, tokens=50, first=10, used_turns=-20, used_tokens=0))
    assert (5, 50) == lease[:2]
    lease = await keeper.lease(paces.Ask(turns=1, tokens=1100, first=1100, used_turns=0, used_tokens=-900))
    assert (1, 1100) == lease[:2]
    await keeper.set_rates((60_000, 600_000))
    await keeper.set_rates((None, None))
    lease = await keeper.lease(paces.Ask(turns=1, tokens=1, first=1, used_turns=0, used_tokens=0))
    assert (float("inf"), float("inf")) == lease[:2]


async def test_the_keeper_tells_waits_until_they_are_over() -> None:
    """The longest that was told for each account."""
    keeper = paces.PaceKeeper((None, None))
    everything = paces.Ask(turns=1, tokens=1, first=1, used_turns=0, used_tokens=0)
    await keeper.hold("a", 0.4)
    await keeper.hold("a", 0.2)
    await keeper.hold("b", 0.05)
    waits = (await keeper.lease(everything)).waits
    assert 0.3 < waits["a"] <= 0.4 and 0 < waits["b"] <= 0.05
    await asyncio.sleep(0.1)
    assert {"a"} == set((await keeper.lease(everything)).waits)


def test_a_lease_returns_what_is_left() -> None:
    """Except what no rate limits."""
    rate = paces.LeasedRate()
    assert rate.delay(0.0, 2.0) > 0 and 2.0 == rate.missing
    rate.renew(5.0, until=1.0)
    assert 0.0 == rate.delay(0.5) == rate.missing
    rate.spend(0.5)
    rate.correct(0.5)
    assert rate.delay(0.5, 5.0) > 0
    assert rate.delay(1.0) > 0
    assert -3.5 == rate.settle()
    assert 0.0 == rate.settle()
    rate.renew(float("inf"), until=3.0)
    assert 0.0 == rate.delay(2.0, 1e9)
    assert 0.0 == rate.settle()


def test_a_shared_pace_pickles_as_its_options() -> None:
    """And is made with the words of `Pace`."""
    pace = stages.SharedPace("mine", requests_per_minute=600, tokens_per_minute=9, adaptive=True, across_jobs=True)
    assert isinstance(pace, Pace)
    assert repr(pace) == repr(pickle.loads(pickle.dumps(pace)))
    assert "SharedPace(name='mine', across_jobs=True, requests_per_minute=600" in repr(pace)
    with pytest.raises(ConfigurationError, match="name"):
        stages.SharedPace("", requests_per_minute=600)
    with pytest.raises(ConfigurationError, match="requests_per_minute"):
        stages.SharedPace("mine", requests_per_minute=0)


async def send(url: str, pace: Any, count: int, **options: Any) -> list[Any]:
    """Send requests through a client with a pace; return the results."""
    async with AsyncGradient(**client(url), **options) as mine:
        prompts = ({"model": "m", "messages": [{"role": "user", "content": f"row {i}"}]} for i in range(count))
        return [result async for result in mine.chat.completions.map(prompts, pace=pace)]


async def test_processes_share_a_rate(ray: Any) -> None:
    """Here two objects of one name stand for two processes. Every attempt takes a turn."""
    dice = random.Random(1)

    async def answer(request: Request, connection: Connection) -> None:
        reply = reply_json(NO, 500) if dice.random() < 0.2 else reply_json(ANSWER)
        await reply(request, connection)

    with serve(handler=answer) as server:
        both = [stages.SharedPace("rate", requests_per_minute=3000) for _ in "ab"]
        began = time.monotonic()
        done = await asyncio.gather(*(send(server.url, pace, 100, max_retries=5) for pace in both))
        took = time.monotonic() - began
        sent = len(server.requests)
        assert all(result.error is None for results in done for result in results)
        assert sent > 200
        assert window(server.requests, 1.0) <= 50 + 50 + 2 * 5
        assert took >= (sent - 50) / 50 - 0.5


async def test_tokens_share_a_rate(ray: Any) -> None:
    """Estimates are corrected by usage, as in `Pace`."""
    reply = reply_json({**ANSWER, "usage": {"prompt_tokens": 50, "completion_tokens": 50, "total_tokens": 100}})
    with serve(reply, repeat=True) as server:
        pace = stages.SharedPace("tokens", tokens_per_minute=60_000)
        began = time.monotonic()
        await send(server.url, pace, 30)
        assert time.monotonic() - began > 1.0
        assert window(server.requests, 1.0) <= 25


async def test_all_wait_when_one_is_told_to(ray: Any) -> None:
    """A refusal that names its wait stops the others within the time of a lease."""
    refusal = reply_json({"id": "too_many_requests", "message": "slow"}, 429, {"retry-after": "2"})
    with serve(refusal, handler=echo(lambda: 0.01)) as server:
        one, two = (stages.SharedPace("wait") for _ in "ab")
        await send(server.url, two, 1, max_retries=0)
        await asyncio.gather(send(server.url, one, 10), send(server.url, two, 3000))
        times = sorted(request.received_at for request in server.requests)
    refused = times[0]
    quiet = [at for at in times if refused + 0.75 < at < refused + 1.9]
    assert [] == quiet


async def test_a_dead_keeper_is_made_anew(ray: Any) -> None:
    """Its rate holds on, and no request is lost."""
    with serve(handler=echo()) as server:
        pace = stages.SharedPace("killed", requests_per_minute=3000)
        sending = asyncio.create_task(send(server.url, pace, 150))
        while len(server.requests) < 50:
            await asyncio.sleep(0.01)
        old = ray.get_actor("killed", namespace="gradient")
        await asyncio.to_thread(ray.kill, old)
        assert 150 == len([result for result in await sending if result.error is None])
        assert old._actor_id != ray.get_actor("killed", namespace="gradient")._actor_id
        assert window(server.requests, 1.0) <= 50 + 50 + 5


async def test_a_keeper_can_outlive_its_job(ray: Any) -> None:
    """Where it is detached; otherwise it ends with its pace."""
    kept, own = stages.SharedPace("kept", across_jobs=True), stages.SharedPace("own")
    assert kept.open() is kept.open()
    own.open()
    del kept, own
    await asyncio.sleep(0)
    for _ in range(100):
        try:
            ray.get_actor("own", namespace="gradient")
        except ValueError:
            break
        await asyncio.sleep(0.1)
    else:
        pytest.fail("the actor did not end")
    await asyncio.to_thread(ray.kill, ray.get_actor("kept", namespace="gradient"))


async def test_the_last_program_sets_the_rates(ray: Any) -> None:
    """So a changed rate of an actor that stays is not lost."""
    slow = stages.SharedPace("changed", requests_per_minute=1)
    slow.open()
    with serve(handler=echo()) as server:
        async with asyncio.timeout(30):
            await send(server.url, stages.SharedPace("changed", requests_per_minute=6000), 20)


# In a cluster


def worker_pids(ray: Any) -> list[int]:
    """Return the processes of the stage's workers that are alive."""
    state: Any = importlib.import_module("ray._private.state")
    found = state.actors().values()
    return [
        each["Pid"] for each in found if each["State"] == "ALIVE" and "MapWorker" in each["ActorClassName"]
    ]


@pytest.mark.timeout(120)
def test_a_worker_dies(ray: Any, tmp_path: Path) -> None:
    """5,000 rows, two workers, one rate, a journal: each row once, few asked twice, and the rate holds."""
    with serve(handler=echo(lambda: 0.1)) as server:

        def kill() -> None:
            while len(server.requests) < 1500:
                time.sleep(0.05)
            os.kill(random.choice(worker_pids(ray)), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        answers = stages.complete(
            dataset(5000, 20),
            request="messages",
            model="m",
            client=client(server.url),
            pace=stages.SharedPace("all", requests_per_minute=60 * 400),
            journal=tmp_path / "journal",
            workers=2,
            max_concurrency=64,
        ).take_all()
        killer.join()
        sent = server.requests
        assert list(range(5000)) == sorted(row["id"] for row in answers)
        assert all(row["messages"] == row["text"] for row in answers)
        twice = [prompt for prompt, times in asked(sent).items() if times > 1]
        assert len(twice) <= 64
        assert 5000 + len(twice) == len(sent)
        assert any(row["resumed"] for row in answers)
        assert window(sent, 1.0) <= 400 + 400 + 3 * 40
        assert window(sent, 5.0) <= 5 * 400 + 400 + 3 * 40


@pytest.mark.timeout(120)
def test_a_worker_dies_without_a_journal(ray: Any) -> None:
    """Each row once; the rows that it held are asked again."""
    with serve(handler=echo(lambda: 0.05)) as server:

        def kill() -> None:
            while len(server.requests) < 100:
                time.sleep(0.05)
            os.kill(worker_pids(ray)[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        answers = stages.complete(
            dataset(400, 8), request="messages", model="m", client=client(server.url), batch_size=50, max_concurrency=8
        ).take_all()
        killer.join()
        assert list(range(400)) == sorted(row["id"] for row in answers)
        assert 400 < len(server.requests) <= 400 + 2 * 50


@pytest.mark.timeout(120)
def test_the_driver_dies(ray: Any, tmp_path: Path) -> None:
    """The same program, run again, pays for what was in flight alone."""
    rows = 1200
    with serve(handler=echo(lambda: 0.1)) as server:
        address = ray.get_runtime_context().gcs_address
        script = Path(__file__).with_name("ray_rows.py")
        command = [sys.executable, str(script), address, server.url, str(tmp_path), str(rows)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with subprocess.Popen(command, env=environment) as driver:
            while len(server.requests) < rows / 2:
                assert driver.poll() is None
                time.sleep(0.05)
            driver.kill()
        subprocess.run(command, env=environment, check=True, timeout=100)
        again = len(server.requests) - rows
        assert 0 <= again <= 2 * MAX_CONCURRENCY
    parquet: Any = importlib.import_module("pyarrow.parquet")
    written = parquet.read_table(tmp_path / "out").to_pylist()
    assert list(range(rows)) == sorted(row["id"] for row in written)
    assert Counter(row["resumed"] for row in written)[True] >= rows / 2 - 2 * MAX_CONCURRENCY


@pytest.mark.timeout(120)
def test_a_row_that_kills_its_worker_ends_the_job(ray: Any, tmp_path: Path) -> None:
    """After as many restarts as are allowed."""

    def request(row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == 3:
            with (tmp_path / "deaths").open("a") as deaths:
                deaths.write("x")
            os._exit(1)
        return {"messages": [{"role": "user", "content": "x"}]}

    with serve(handler=echo()) as server, pytest.raises(Exception, match="(?i)actor"):
        stages.complete(
            dataset(5), request=request, model="m", client=client(server.url), max_restarts=1
        ).take_all()
    assert "xx" == (tmp_path / "deaths").read_text()


@pytest.mark.timeout(60)
def test_errors_of_the_stage_end_the_job(ray: Any) -> None:
    """As `GradientError`, and as `ValueError` for a name that is taken."""
    with serve(reply_json(NO, 400), repeat=True) as server:
        options: dict[str, Any] = {"request": "messages", "model": "m", "client": client(server.url)}
        with pytest.raises(GradientError):
            stages.complete(dataset(3), on_error="raise", **options).take_all()
        later = dataset(3).map_batches(lambda rows: {**rows, "text": rows["messages"]})
        with pytest.raises(ValueError, match="already"):
            stages.complete(later, **options).take_all()


def test_a_quota_is_shared(ray: Any) -> None:
    """Two workers at a server that refuses what is too much: no row is lost."""
    with serve(rate_limit=Quota(requests=30, per_second=30)) as server:
        answers = stages.complete(
            dataset(200, 4),
            request="messages",
            model="m",
            client=client(server.url),
            pace=stages.SharedPace("quota"),
            workers=2,
            batch_size=50,
        ).take_all()
        assert [None] == list({row["error"] for row in answers})
        assert len(server.requests) <= 1.3 * 200
