"""The stage of Ray Data: what it sends, what it adds to tables, and its journal.

These tests and others of Ray need the extra ``ray``; `.ci/run` has an environment for them.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import pickle
import random
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from ray_rows import ANSWER, NO, client, echo, table

from gradient_async import AsyncGradient, BadRequestError, ConfigurationError, JournalError
from gradient_async.config import VARIABLES
from gradient_async.testing import Connection, Request, reply_json, serve

pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
pytestmark = pytest.mark.filterwarnings("default")  # Ray warns of its own dependencies, and leaves files open

stages: Any = importlib.import_module("gradient_async.ray")
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
    made = stages.complete(
        data, request="messages", client={"api_key": "k"}, model="m", workers=3, journal="here"
    )
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
    assert Path("here").absolute() == kwargs["journal"]
    assert "'k'" not in repr(kwargs)
    stages.Complete(**pickle.loads(pickle.dumps(kwargs)))  # noqa: S301  # our own


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
    mine = AsyncGradient(api_key="k", pace=stages.SharedPace("of the client"))
    stages.complete(Data(), **{**options, "client": mine})
    assert ray.get_actor("of the client", namespace="gradient")


def test_ray_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    spec = importlib.util.spec_from_file_location("gradient_async.ray.again", stages.pace.__file__)
    assert spec is not None and spec.loader is not None
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gradient-async\[ray\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


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
        [{"role": "user", "content": [{"type": "text", "text": "c"}]}] * 3,
    ]
    arrow: Any = importlib.import_module("pyarrow")
    with serve(reply_json(ANSWER), repeat=True) as server:
        await ask(table(1), client=client(server.url), temperature=0.5)
        await ask(arrow.table({"messages": messages}), client=client(server.url))
        bodies = [json.loads(request.body) for request in server.requests]
    assert {"model": "m", "temperature": 0.5, "messages": [{"role": "user", "content": "row 0"}]} == bodies[0]
    sent = sorted((body["messages"] for body in bodies[1:]), key=len)
    assert messages == sent


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
        bodies = [json.loads(request.body) for request in server.requests]
    assert {0, 1} == {body["temperature"] for body in bodies}
    assert all(5 == body["top_k"] and "name" not in body["messages"][0] for body in bodies)


async def test_a_row_that_is_no_request_is_an_error_row() -> None:
    """Refused by the function, without messages, with parameters that are wrong."""

    def request(row: dict[str, Any]) -> Any:
        if row["id"] == 0:
            raise LookupError("half a pair \ud800")
        answers: list[Any] = [
            None,
            3,
            {"messages": ["x"]},
            {"messages": "x", "topp": 1},
            {"messages": row["text_of"]},
        ]
        return answers[row["id"]]

    arrow: Any = importlib.import_module("pyarrow")
    with serve(handler=echo()) as server:
        rows = table(5, text_of=[[{"role": "user", "content": "fine"}]] * 5)
        done = await ask(rows, request=request, client=client(server.url))
        column = await ask(arrow.table({"messages": [None, "x"]}), client=client(server.url))
    assert [None, None, None, None, "fine"] == done["text"].to_pylist()
    assert ["LookupError", *["InvalidRequestError"] * 3, None] == done["error_type"].to_pylist()
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


async def test_a_batch_can_be_cancelled() -> None:
    """As Ray does when another batch fails; its results come to nobody."""
    with serve(handler=echo(lambda: 0.1)) as server:
        stage = stages.Complete(request="messages", model="m", client=client(server.url))
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await stage(table(3))
            gone = stage._map._results
            for future in gone.values():
                future.cancel()
            assert 2 == (await stage(table(2))).num_rows
            assert {} == gone
        finally:
            await stage._map._end()


async def test_a_client_is_sent_as_its_settings() -> None:
    """The stage has a copy, and closes it."""
    with serve(reply_json(ANSWER), repeat=True) as server:
        async with AsyncGradient(**client(server.url)) as mine:
            done = await ask(table(1), client=mine)
            assert ["Yes."] == done["text"].to_pylist()
            await mine.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "still open"}]
            )


async def test_dropping_the_stage_closes_it() -> None:
    """In the loop's thread, in another, and when the loop is gone."""
    with serve(reply_json(ANSWER), repeat=True) as server:
        for in_thread in (False, True):
            held = [stages.Complete(request="messages", model="m", client=client(server.url))]
            await held[0](table(1))
            reader = held[0]._map._reader
            if in_thread:
                await asyncio.to_thread(held.clear)
            else:
                held.clear()
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
        none = await ask(table(1).slice(1), client=options)
    for done in (good, bad, none):
        assert [("id", "int64"), ("messages", "string"), *COLUMNS] == [
            (f.name, str(f.type)) for f in done.schema
        ]
    (row,) = good.to_pylist()
    assert {
        "text": "Yes.",
        "finish_reason": "stop",
        "attempts": 1,
        "resumed": False,
        "request_id": "r1",
    }.items() <= row.items()
    assert ANSWER["model"] == row["model"]
    assert ANSWER["usage"]["prompt_tokens"] == row["prompt_tokens"]
    assert ANSWER["usage"]["completion_tokens"] == row["completion_tokens"]
    assert row["error"] is row["error_type"] is row["status_code"] is None
    (row,) = bad.to_pylist()
    assert {
        "text": None,
        "error_type": "BadRequestError",
        "status_code": 400,
        "attempts": 1,
    }.items() <= row.items()
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
    assert ["BadRequestError", "InternalServerError", None, "InvalidRequestError"] == first[
        "error_type"
    ].to_pylist()
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
        assert 1 == len(server.requests)


async def test_a_full_disk_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the journal's error, once all that was answered is handed over."""

    def full(*_: Any, **__: Any) -> None:
        raise JournalError("no space", path="x")

    monkeypatch.setattr("gradient_async.fanout.journal.Journal.write", full)
    with serve(handler=echo()) as server:
        options: dict[str, Any] = {"request": "messages", "model": "m", "client": client(server.url)}
        stage = stages.Complete(journal=tmp_path, max_concurrency=2, **options)
        for _ in "twice":
            with pytest.raises(JournalError, match="no space"):
                await stage(table(30))
        assert len(server.requests) <= 2
