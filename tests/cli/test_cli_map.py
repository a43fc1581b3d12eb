"""`gradient-async map`: from file to file, stopped at any moment and started again."""

from __future__ import annotations

import asyncio
import collections
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from terminal import Terminal

from gradient_async import Journal
from gradient_async.cli import _parser, main
from gradient_async.cli.map import parse_pace, run_map
from gradient_async.fanout.map import MapResults
from gradient_async.testing import (
    Connection,
    Handler,
    Request,
    ThreadedServer,
    completion,
    reply_json,
    reply_writes,
    serve,
)

HOLD_TEXT = "hold"
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter there")


def body(text: str, **params: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **params}


class Echo:
    """Answers with the prompt, but for "hold", which waits, and "bad", which is refused.

    Attributes:
        pause: Seconds that each answer takes.
        refuse: Whether "bad" is refused.
    """

    def __init__(self) -> None:
        self.pause = 0.0
        self.refuse = True

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer."""
        text = request.json["messages"][-1]["content"]
        if text == HOLD_TEXT:
            await connection.wait_closed()
            return
        await connection.sleep(self.pause)
        reply: Handler = reply_json(completion(text))
        if text == "bad" and self.refuse:
            reply = reply_json({"error": {"message": "no"}}, 400)
        if text == "drop":
            reply = reply_writes([])
            connection.reset()
        await reply(request, connection)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def server(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedServer]:
    with serve(handler=echo) as running:
        monkeypatch.setenv("GRADIENT_INFERENCE_ENDPOINT", running.url)
        monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "k-0123456789")
        monkeypatch.delenv("GRADIENT_BASE_URL", raising=False)
        yield running


class Files:
    """A file of requests and one of results."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "in.jsonl"
        self.output = folder / "out.jsonl"

    def ask(self, *rows: Any) -> None:
        """Write the requests."""
        texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        self.source.write_text("".join(text + "\n" for text in texts), "utf-8")

    @property
    def lines(self) -> int:
        """How many results there are so far."""
        return self.output.read_bytes().count(b"\n") if self.output.exists() else 0

    @property
    def results(self) -> list[dict[str, Any]]:
        """The results so far, which have to be whole lines."""
        return [json.loads(line) for line in self.output.read_text("utf-8").splitlines()]

    @property
    def answers(self) -> dict[int, str | None]:
        """What was answered, by the number of the line; None for errors."""
        found = {row["line"]: row["response"] for row in self.results}
        assert len(found) == len(self.results)
        return {
            line: row and row["body"]["choices"][0]["message"]["content"]
            for line, row in sorted(found.items())
        }

    def run(self, *options: str) -> int:
        """Run it here."""
        return main(["map", str(self.source), str(self.output), *options])

    def begin(self, *options: str) -> subprocess.Popen[str]:
        """Run it in a process of its own."""
        command = [
            sys.executable,
            "-m",
            "gradient_async",
            "map",
            str(self.source),
            str(self.output),
            *options,
        ]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# One run


def test_a_result_has_the_reply_with_all_fields_of_the_server(files: Files, server: ThreadedServer) -> None:
    """Also those for which the library has no names; a streamed result has the fields of its completion."""
    sent = completion("a", citations=["x"], provider=None)
    server.push(*[reply_json(sent)] * 2)
    files.ask(body("one"))
    assert 0 == files.run()
    assert sent == files.results[0]["response"]["body"]
    files.output.unlink()
    assert 0 == files.run("--stream")
    assert "citations" not in files.results[0]["response"]["body"]


def test_one_line_a_result(files: Files, server: ThreadedServer, capsys: pytest.CaptureFixture[str]) -> None:
    files.ask(
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body("one", model="m1")},
        body("two", temperature=0.5, top_k=7),
        "",
        {"custom_id": "c", "body": body("three")},
    )
    assert 0 == files.run("--model", "m2")
    assert {1: "one", 2: "two", 4: "three"} == files.answers
    rows = {row["line"]: row for row in files.results}
    assert ["a", None, "c"] == [rows[line]["custom_id"] for line in (1, 2, 4)]
    assert 200 == rows[1]["response"]["status_code"]
    asked = {request.json["messages"][0]["content"]: request.json for request in server.requests}
    assert ("m1", "m2") == (asked["one"]["model"], asked["two"]["model"])
    assert (0.5, 7) == (asked["two"]["temperature"], asked["two"]["top_k"])
    assert "3 done, 0 failed, 0 invalid, 0 done earlier" in capsys.readouterr().err


def test_errors_and_bad_lines_stop_nothing(
    files: Files, server: ThreadedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    files.ask(body("one"), "{not json", body("bad"), body("two", temperature=9), body("three"))
    assert 1 == files.run()
    assert {1: "one", 2: None, 3: None, 4: None, 5: "three"} == files.answers
    kinds = {row["line"]: row["error"]["type"] for row in files.results if row["error"]}
    assert {2: "BadLine", 3: "BadRequestError", 4: "InvalidRequestError"} == kinds
    reported = capsys.readouterr().err
    assert f"{files.source}:2: not valid JSON" in reported
    assert "2 done, 2 failed, 1 invalid" in reported
    assert 3 == len(server.requests)


def test_the_first_failure_of_each_kind_is_told(
    files: Files, server: ThreadedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its line, and in the words of the command line."""
    refused = reply_json({"error": {"message": "wrong key"}}, 401)
    server.push(refused, refused)
    files.ask(body("one"), body("two"), body("bad"), body("bad"))
    assert 1 == files.run("--max-concurrency", "1")
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith(str(files.source))]
    assert 2 == len(told)
    assert told[0].startswith(f"{files.source}:1: AuthenticationError: ")
    assert told[0].endswith("wrong key; check the key: GRADIENT_MODEL_ACCESS_KEY")
    assert told[1].startswith(f"{files.source}:3: BadRequestError: ")


def test_again_it_does_what_is_left(
    files: Files, server: ThreadedServer, echo: Echo, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is paid twice; errors are kept as well, until they are to be tried again."""
    files.ask(body("one"), body("bad"))
    assert 1 == files.run()
    files.ask(body("one"), body("bad"), {"custom_id": "c", "body": body("three")})
    assert 1 == files.run()
    assert 3 == len(server.requests)
    told = capsys.readouterr().err
    assert "1 done, 0 failed, 0 invalid, 2 done earlier" in told
    assert f"errors of earlier runs: 1; {files.output} has their messages\n" in told
    echo.refuse = False
    assert 0 == files.run("--retry-errors")
    assert {1: "one", 2: "bad", 3: "three"} == files.answers
    assert 4 == len(server.requests)
    assert "requests to retry: 1" in capsys.readouterr().err
    assert 0 == files.run()
    assert 4 == len(server.requests)


def test_a_bad_line_is_told_once(
    files: Files, server: ThreadedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it calls itself, a second run knows it again, and its name is free for another line."""
    files.ask(
        {"custom_id": "a", "method": "GET", "body": body("one")},
        {"custom_id": "b", "body": body("two")},
        {"custom_id": "b", "body": body("three")},
        {"custom_id": "a", "body": body("four")},
    )
    for reported in ("2 done, 0 failed, 2 invalid, 0 done", "0 done, 0 failed, 0 invalid, 4 done earlier,"):
        assert 1 == files.run()
        assert {1: None, 2: "two", 3: None, 4: "four"} == files.answers
        assert reported in capsys.readouterr().err
    assert 2 == len(server.requests)


def test_a_line_that_changed_is_asked_again(
    files: Files, server: ThreadedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its result is that of another request, and goes to a file of its own: it was paid for."""
    files.ask(*(body(str(number)) for number in range(15)), {"custom_id": "a", "body": body("a")})
    assert 0 == files.run()
    files.ask(*(body(f"new {number}") for number in range(15)), {"custom_id": "a", "body": body("a")})
    assert 0 == files.run()
    assert "15 done, 0 failed, 0 invalid, 1 done earlier" in capsys.readouterr().err
    assert {**{number + 1: f"new {number}" for number in range(15)}, 16: "a"} == files.answers
    old = (files.output.parent / "out.jsonl.superseded").read_text("utf-8").splitlines()
    assert {*map(str, range(15))} == {
        json.loads(line)["response"]["body"]["choices"][0]["message"]["content"] for line in old
    }
    assert 31 == len(server.requests)


def test_a_line_that_moved_is_known_again(files: Files, server: ThreadedServer) -> None:
    """With the number that it has now; a default of the command is a parameter."""
    files.ask(body("one"), body("two"), "{not json")
    assert 1 == files.run()
    files.ask(body("zero"), "", body("two"), "{not json", body("one"))
    assert 1 == files.run()
    assert {1: "zero", 3: "two", 4: None, 5: "one"} == files.answers
    assert 3 == len(server.requests)
    assert 1 == files.run("--model", "another")
    assert 6 == len(server.requests)
    assert {1: "zero", 3: "two", 4: None, 5: "one"} == files.answers


def test_results_of_earlier_versions_are_known(files: Files, server: ThreadedServer) -> None:
    """By ``custom_id`` or number, unless their line has changed; errors are tried again."""
    files.ask(
        body("one"),
        {"custom_id": "b", "body": body("two")},
        body("three"),
        body("four"),
        {"custom_id": "b", "method": "GET"},
        body("six"),
    )
    digest = [
        hashlib.blake2b(line, digest_size=8).hexdigest() for line in files.source.read_bytes().splitlines()
    ]

    def row(line: int, custom_id: str | None, digest: str | None, error: str | None = None) -> str:
        fields: dict[str, Any] = {"id": "c", "custom_id": custom_id, "line": line, "digest": digest}
        if digest is None:
            del fields["digest"]
        fields["response"] = {"status_code": 200, "request_id": None, "body": completion(f"old {line}")}
        fields["error"] = None
        if error is not None:
            fields["response"], fields["error"] = None, {"type": error, "message": "no"}
        return json.dumps(fields, separators=(",", ":")) + "\n"

    files.output.write_text(
        row(1, None, None)
        + row(2, "b", digest[1])
        + row(3, None, "0123456789abcdef")
        + row(4, None, digest[3], "RateLimitError")
        + row(5, "b", digest[4], "BadLine")
    )
    assert 1 == files.run()
    assert {1: "old 1", 2: "old 2", 3: "three", 4: "four", 5: None, 6: "six"} == files.answers
    assert 1 == files.run()
    assert {"three", "four", "six"} == {request.json["messages"][0]["content"] for request in server.requests}
    assert 3 == len(server.requests)


@posix
def test_no_room_for_results_is_told(
    files: Files, server: ThreadedServer, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With the name of the file; what was written before is whole, and the next run goes on there."""
    del server
    files.ask(*(body(str(number)) for number in range(100)))
    command = [sys.executable, "-m", "gradient_async", "map", str(files.source), str(files.output)]
    # The limit cuts bytecode short too, and Python does not notice: whatever imports it next dies.
    bytecode = tmp_path / "bytecode"
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(bytecode)}
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *command], check=False, env=environment
    )
    assert not bytecode.exists()
    assert 2 == done.returncode
    assert f"gradient-async: {files.output}: File too large" in capfd.readouterr().err
    before = len(files.results)
    assert 0 < before < 100
    assert 0 == files.run()
    assert {number + 1: str(number) for number in range(100)} == files.answers


@posix
def test_requests_may_come_from_a_pipe(files: Files, server: ThreadedServer, tmp_path: Path) -> None:
    """As those of a command: it is read to its end first."""
    del server
    files.ask(body("one"), body("two"))
    text = files.source.read_bytes()
    files.source = tmp_path / "pipe"
    os.mkfifo(files.source)
    writer = threading.Thread(target=files.source.write_bytes, args=(text,))
    writer.start()
    assert 0 == files.run()
    writer.join()
    assert {1: "one", 2: "two"} == files.answers


def test_results_of_other_lines_are_kept_and_told(
    files: Files, server: ThreadedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    del server
    files.ask({"custom_id": "a", "body": body("one")})
    files.run()
    files.ask({"custom_id": "b", "body": body("two")})
    assert 0 == files.run()
    assert "also has 1 results for lines that are not in" in capsys.readouterr().err
    assert ["a", "b"] == [row["custom_id"] for row in files.results]


@pytest.mark.parametrize(
    "options",
    [
        ["--stream"],
        [
            "--max-concurrency",
            "2",
            "--requests-per-minute",
            "6000",
            "--tokens-per-minute",
            "1e6",
            "--adaptive",
        ],
        ["--local"],
        ["--local", "--stream"],
    ],
)
def test_how_to_send(files: Files, server: ThreadedServer, options: list[str]) -> None:
    files.ask(*(body(f"Say {number}") for number in range(8)))
    assert 0 == files.run(*options)
    assert 8 == len(files.answers)
    local = "--local" in options
    assert (0 if local else 8) == len(server.requests)
    # A server that does not stream is understood too.
    assert all(bool(request.json.get("stream")) == ("--stream" in options) for request in server.requests)


def test_standard_input(files: Files, monkeypatch: pytest.MonkeyPatch, server: ThreadedServer) -> None:
    del server
    files.ask(body("one"), body("two"))
    with files.source.open("r", encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert 0 == main(["map", "-", str(files.output)])
    assert {1: "one", 2: "two"} == files.answers


def test_no_requests_is_no_error(files: Files, server: ThreadedServer) -> None:
    files.source.write_text("", "utf-8")
    assert 0 == files.run()
    assert [] == files.results
    assert not server.requests


# What can't be begun


def test_what_can_not_be_begun(
    files: Files, server: ThreadedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and a sentence that says what to do."""
    assert 2 == files.run()
    assert "in.jsonl: No such file" in capsys.readouterr().err
    files.ask(body("one"))
    assert 2 == main(["map", str(files.source), str(files.source)])
    assert "is the file of requests; name another file for the results" in capsys.readouterr().err
    assert 2 == main(["map", str(files.source), str(files.source.parent)])
    assert "Is a directory" in capsys.readouterr().err
    assert 2 == main(["map", str(files.source), "-"])
    assert "results can't go to standard output" in capsys.readouterr().err
    files.output.write_text("notes\n", "utf-8")
    assert 2 == files.run()
    assert "is not a result of map; choose another file" in capsys.readouterr().err
    files.output.unlink()
    monkeypatch.setenv("GRADIENT_INFERENCE_ENDPOINT", "https://inference.example")
    monkeypatch.delenv("GRADIENT_MODEL_ACCESS_KEY")
    assert 2 == files.run()
    assert (
        "no key: set GRADIENT_MODEL_ACCESS_KEY, or use --local to try the command" in capsys.readouterr().err
    )
    assert not server.requests


# Stopped, and started again


def when(so_far: Callable[[], bool], *signals: signal.Signals) -> threading.Thread:
    """Send ourselves signals, one after the other, once a run is so far."""

    def watch() -> None:
        deadline = time.monotonic() + 20
        while not so_far() and time.monotonic() < deadline:
            time.sleep(0.005)
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@posix
def test_an_interrupt_finishes_what_is_under_way(
    files: Files, server: ThreadedServer, echo: Echo, capsys: pytest.CaptureFixture[str]
) -> None:
    echo.pause = 0.3
    files.ask(*(body(str(number)) for number in range(40)))
    watch = when(lambda: len(server.requests) > 4, signal.SIGINT)
    assert 130 == files.run("--max-concurrency", "4")
    watch.join()
    reported = capsys.readouterr().err
    assert "finishing the requests in flight; press Ctrl-C again to stop at once" in reported
    done = files.answers
    assert 4 <= len(done) < 40
    assert len(done) == len(server.requests)  # what was sent was paid, and is there
    echo.pause = 0.0
    assert 0 == files.run()
    assert {number + 1: str(number) for number in range(40)} == files.answers
    assert 40 == len(server.requests)


@posix
def test_an_interrupt_sends_nothing_more(files: Files, server: ThreadedServer) -> None:
    """Also of what was read already and waits for its turn."""
    files.ask(*(body(str(number)) for number in range(40)))
    watch = when(lambda: files.lines > 0, signal.SIGINT)
    assert 130 == files.run("--requests-per-minute", "60")
    watch.join()
    assert 1 <= len(files.answers) == len(server.requests) <= 5


@posix
def test_a_second_interrupt_leaves_at_once(files: Files, server: ThreadedServer) -> None:
    files.ask(body("one"), body(HOLD_TEXT), body("two"))
    watch = when(lambda: files.lines == 2, signal.SIGINT, signal.SIGINT)
    assert 130 == files.run()
    watch.join()
    assert {1: "one", 3: "two"} == files.answers
    assert 3 == len(server.requests)


def test_an_interrupt_after_the_last_result_raises_nothing(
    files: Files, server: ThreadedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It only cancels, as it does before the run: raised at any place, it could end in the middle of the loop's own code."""
    del server
    notes: list[str] = []

    def note(text: str) -> None:
        signal.raise_signal(signal.SIGINT)
        notes.append(text)

    monkeypatch.setattr("gradient_async.cli.map.note", note)
    files.ask(body("one"))
    assert 130 == files.run()
    assert 1 == len(notes)
    assert {1: "one"} == files.answers


@posix
def test_a_signal_with_the_last_result_cancels_nothing(
    files: Files, server: ThreadedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop hears of it only after the run has ended."""
    del server
    leave = MapResults.__aexit__

    async def leave_late(results: MapResults, *error: Any) -> None:
        await leave(results, *error)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(MapResults, "__aexit__", leave_late)
    files.ask(body("one"))
    assert 0 == files.run()
    assert "1 done" in capsys.readouterr().err
    assert {1: "one"} == files.answers


@pytest.mark.parametrize(("text", "rate"), [("600/min", 600), ("10/s", 600), ("36000/h", 600), ("0.5", 0.5)])
def test_pace(text: str, rate: float) -> None:
    assert rate == pytest.approx(parse_pace(text))


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("--pace=0/s", "'0/s' is not a rate such as 600/min, 10/s or 36000/h"),
        *(
            (f"--pace={text}", f"{text!r} is not a rate")
            for text in ("-1", "nan", "inf", "10/day", "x/s", "")
        ),
        ("--max-concurrency=0", "'0' is not a whole number above 0"),
        ("--max-concurrency=many", "'many' is not a whole number above 0"),
        ("--tokens-per-minute=-1", "'-1' is not a rate"),
    ],
)
def test_bad_numbers(files: Files, option: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the flag; nothing is read, sent or written."""
    with pytest.raises(SystemExit, match="2"):
        files.run(option)
    assert f"argument {option.partition('=')[0]}" in (said := capsys.readouterr().err)
    assert problem in said
    assert not files.output.exists()


def test_a_pace_holds_requests_back(files: Files, server: ThreadedServer) -> None:
    files.ask(*(body(str(number)) for number in range(6)))
    assert 0 == files.run("--pace", "4/s")
    times = sorted(request.received_at for request in server.requests)
    assert times[-1] - times[0] > 0.2


class Answer(msgspec.Struct):
    """What ``--schema`` names below."""

    city: str


def test_a_type_is_asked_for_and_wrong_answers_are_errors(files: Files, server: ThreadedServer) -> None:
    """A line's own form counts for the line."""
    good, bad = reply_json(completion('{"city": "Paris"}')), reply_json(completion("Paris"))
    own = {"type": "json_object"}
    server.push(good, bad, bad)
    files.ask(body("one"), body("two"), body("three", response_format=own))
    assert 1 == files.run("--schema", f"{__name__}:Answer", "--max-concurrency", "1")
    assert {1: '{"city": "Paris"}', 2: None, 3: "Paris"} == files.answers
    assert ["OutputDecodeError"] == [row["error"]["type"] for row in files.results if row["error"]]
    forms = [request.json["response_format"] for request in server.requests]
    assert ("json_schema", "Answer") == (forms[0]["type"], forms[0]["json_schema"]["name"])
    assert forms[0] == forms[1]
    assert own == forms[2]


def test_a_schema_of_a_file_is_asked_for(files: Files, server: ThreadedServer, tmp_path: Path) -> None:
    """What answers it gets is not checked, as no type is named."""
    schema = tmp_path / "city.json"
    schema.write_text('{"type": "object"}')
    files.ask(body("one"))
    assert 0 == files.run("--schema", str(schema))
    expected = {"type": "json_schema", "json_schema": {"name": "city", "schema": {"type": "object"}}}
    assert expected == server.requests[0].json["response_format"]
    assert {1: "one"} == files.answers
    assert 0 == files.run("--schema", str(schema))
    assert 1 == len(server.requests)
    schema.write_text("{}")
    assert 0 == files.run("--schema", str(schema))
    assert 2 == len(server.requests)


@posix
@pytest.mark.parametrize("colour", [{}, {"NO_COLOR": "1"}])
@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_counts_are_on_terminals_of_any_width(files: Files, columns: int, colour: dict[str, str]) -> None:
    """They are what the user waits for; a bar is drawn if there is room for both."""
    files.ask(*(body(str(number)) for number in range(30)), "{not json")
    arguments = ["map", "--local", str(files.source), str(files.output)]
    with Terminal(*arguments, columns=columns, environment=colour) as terminal:
        assert 1 == terminal.end()
    words = "".join(terminal.shown.split())
    assert "31/31" in words
    assert "0failed,0sleft" in words
    assert "30done,0failed,1invalid,0doneearlier," in words
    assert ("━" in words) is (columns >= 80)
    assert not (colour and re.search(rb"\x1b\[[0-9;]*3[0-9]", terminal.raw))


@posix
def test_a_signal_to_terminate_leaves_at_once(files: Files, server: ThreadedServer) -> None:
    files.ask(body("one"), body(HOLD_TEXT))
    watch = when(lambda: files.lines == 1 and len(server.requests) == 2, signal.SIGTERM)
    assert 143 == files.run()
    watch.join()
    assert {1: "one"} == files.answers


def test_cancelled_by_its_loop_it_is_cancelled(files: Files, server: ThreadedServer) -> None:
    """Nobody has sent a signal: the cancellation is not its own."""
    del server
    files.ask(body("one"), body(HOLD_TEXT))

    async def run() -> None:
        arguments = _parser().parse_args(["map", str(files.source), str(files.output)])
        task = asyncio.create_task(run_map(arguments))
        async with asyncio.timeout(20):
            while not files.lines:  # noqa: ASYNC110  # a file tells nobody
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert {1: "one"} == files.answers


@posix
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_each_result_is_there_once(
    files: Files, server: ThreadedServer, echo: Echo, seed: int
) -> None:
    """Killed three times, and run to its end: no line is lost, none doubled, none torn, and hardly any paid twice."""
    dice = random.Random(seed)
    echo.pause = 0.002
    count, at_once = 3000, 8
    texts = [f"{number} " + "x" * dice.choice([1, 100, 20_000]) for number in range(count)]
    files.ask(
        *(
            {"custom_id": f"id-{number}", "body": body(text)} if number % 2 else body(text)
            for number, text in enumerate(texts)
        )
    )
    kills = 0
    for _ in range(3):
        before = len(server.requests)
        process = files.begin("--max-concurrency", str(at_once))
        while len(server.requests) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(dice.random() * 0.4)
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert 3 == kills
    echo.pause = 0.0
    assert 0 == files.run("--max-concurrency", str(at_once))
    assert {number + 1: text for number, text in enumerate(texts)} == files.answers
    rows = files.results
    assert count == len(rows)
    assert all(
        row["custom_id"] == (f"id-{row['line'] - 1}" if row["line"] % 2 == 0 else None) for row in rows
    )
    # Only what was under way when it was killed is asked for again.
    times = collections.Counter(request.json["messages"][0]["content"] for request in server.requests)
    assert sum(times.values()) - count <= kills * (at_once + 4 * at_once)
    assert max(times.values()) <= kills + 1


def test_two_runs_do_not_write_at_once(
    files: Files, server: ThreadedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    del server
    if sys.platform == "win32":
        return
    files.ask(body("one"))
    journal = Journal(files.output)
    assert 2 == files.run()
    assert "another run is writing to" in capsys.readouterr().err
    journal.close()
