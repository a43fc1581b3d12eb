"""Files of requests and of results: what lines say, and what survives."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gradient_async import GradientError, RateLimitError, StreamTruncatedError
from gradient_async.cli.batch import BadLine, Line, read_lines, record
from gradient_async.cli.journal import Journal, JournalError
from gradient_async.cli.progress import Counts, PlainProgress, make_progress
from gradient_async.cli.rich_progress import RichProgress
from gradient_async.decoding import decode_completion
from gradient_async.errors import ResponseInfo
from gradient_async.testing import completion
from gradient_async.types import Headers

MESSAGES = [{"role": "user", "content": "Hello"}]
BODY = {"model": "m", "messages": MESSAGES}


def lines(*rows: Any) -> list[bytes]:
    return [row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows]


def read(*rows: Any) -> list[Line | BadLine]:
    return list(read_lines(lines(*rows), "default"))


# Requests


@pytest.mark.parametrize(
    ("row", "custom_id", "params"),
    [
        pytest.param(BODY, None, BODY, id="parameters"),
        pytest.param({"messages": MESSAGES}, None, {**BODY, "model": "default"}, id="no model"),
        pytest.param({"body": BODY}, None, BODY, id="body"),
        pytest.param({"custom_id": "a", "body": BODY}, "a", BODY, id="custom_id"),
        pytest.param({"custom_id": "a", **BODY}, "a", BODY, id="custom_id beside parameters"),
        pytest.param(
            {"custom_id": "a", "method": "post", "url": "/v1/chat/completions", "body": BODY},
            "a",
            BODY,
            id="batch",
        ),
        pytest.param(
            {**BODY, "stream": True, "seed": 3, "top_k": 5},
            None,
            {**BODY, "stream": True, "seed": 3, "extra_body": {"top_k": 5}},
            id="unknown parameters go along",
        ),
        pytest.param(b"\xef\xbb\xbf" + json.dumps(BODY).encode(), None, BODY, id="bom, no newline"),
    ],
)
def test_lines_that_are_requests(row: Any, custom_id: str | None, params: dict[str, Any]) -> None:
    (found,) = read(row)
    assert Line(1, custom_id, params, found.digest) == found
    assert found.key == (custom_id or 1)


@pytest.mark.parametrize(
    ("row", "says", "custom_id"),
    [
        pytest.param(b"{\n", "not JSON", None, id="cut"),
        pytest.param(b'{"a": "\xff"}\n', "not JSON", None, id="not utf-8"),
        pytest.param(b"[" * 100_000 + b"\n", "not JSON", None, id="deep"),
        pytest.param([1], "not an object", None, id="list"),
        pytest.param({"prompt": "x", "custom_id": "a"}, 'neither "body" nor "messages"', "a", id="neither"),
        pytest.param({"body": "x", "custom_id": "a"}, "body is no object", "a", id="body"),
        pytest.param({"body": BODY, "custom_id": 5}, "custom_id is no string: 5", None, id="custom_id"),
        pytest.param({"body": BODY, "method": "GET"}, "method 'GET': only POST", None, id="method"),
        pytest.param(
            {"body": BODY, "url": "/v1/embeddings"}, "only /chat/completions is called", None, id="url"
        ),
    ],
)
def test_lines_that_are_none(row: Any, says: str, custom_id: str | None) -> None:
    """They are told with their number, and the next is read."""
    (fine, bad, last) = read(BODY, row, BODY)
    assert isinstance(bad, BadLine)
    assert says in bad.problem
    assert (2, 2, custom_id) == (bad.number, bad.key, bad.custom_id)
    assert [1, 3] == [fine.number, last.number]


def test_what_a_line_says_is_shown_as_far_as_it_fits() -> None:
    """A line may be of any length; a message is for people."""
    long = "x" * 100_000
    rows = read(
        {"custom_id": [long], "body": BODY},
        {"url": long, "body": BODY},
        {"method": long, "body": BODY},
        *[{"custom_id": long, "body": BODY}] * 2,
    )
    problems = [row.problem for row in rows if isinstance(row, BadLine)]
    assert 4 == len(problems)
    assert all(80 < len(problem) < 200 and "xxx..." in problem for problem in problems)


def test_a_line_that_changed_can_be_told() -> None:
    """Its place, its end and the lines before it are not part of it."""
    first, second, third = read({"custom_id": "a", "body": BODY}, {"custom_id": "b", "body": BODY}, b"{no")
    assert first.digest != second.digest
    again, last = read(b"\n", json.dumps({"custom_id": "a", "body": BODY}).encode() + b"  \r\n", b"{no\n")
    assert (first.digest, third.digest) == (again.digest, last.digest)


def test_empty_lines_are_passed_over_and_counted() -> None:
    assert [2, 4] == [line.number for line in read(b"\n", BODY, b"  \r\n", BODY)]


def test_a_custom_id_is_given_once() -> None:
    first, second = read({"custom_id": "a", "body": BODY}, {"custom_id": "a", "body": BODY})
    assert isinstance(first, Line)
    assert isinstance(second, BadLine)
    assert "custom_id 'a' was that of line 1" in second.problem


# Results


def test_results_are_like_those_of_batches() -> None:
    found = decode_completion(json.dumps(completion("Hi", id="c1")).encode())
    found.request_id = "r1"
    row = json.loads(record(Line(3, "a", {}, "d1"), completion=found))
    assert "d1" == row["digest"]
    assert row["response"]["body"]["choices"][0]["message"]["content"] == "Hi"
    assert (200, "r1") == (row["response"]["status_code"], row["response"]["request_id"])
    assert ("c1", "a", 3, None) == (row["id"], row["custom_id"], row["line"], row["error"])


def test_errors_say_what_is_known() -> None:
    error = RateLimitError(
        "slow down",
        response=ResponseInfo(status_code=429, headers=Headers()),
        code="too_many",
        request_id="r",
    )
    row = json.loads(record(Line(3, None, {}), error=error))
    assert row["response"] is None
    assert ("RateLimitError", "slow down", 429, "too_many", "r") == tuple(
        row["error"][name] for name in ("type", "message", "status_code", "code", "request_id")
    )
    partial = decode_completion(json.dumps(completion("Hel")).encode())
    row = json.loads(record(Line(3, None, {}), error=StreamTruncatedError("cut", partial=partial)))
    assert "Hel" == row["error"]["partial"]["choices"][0]["message"]["content"]
    row = json.loads(record(Line(3, None, {}), error=GradientError("plain")))
    assert {"type": "GradientError", "message": "plain"} == row["error"]
    row = json.loads(record(BadLine(4, "no", "b")))
    assert ({"type": "BadLine", "message": "no"}, "b", 4) == (row["error"], row["custom_id"], row["line"])
    assert record(Line(1, None, {})).endswith(b'"error":null}\n')


# The journal


def result(line: int, custom_id: str | None = None, *, failed: bool = False) -> bytes:
    row = Line(line, custom_id, {}, "d1")
    if failed:
        return record(row, error=GradientError("failed"))
    return record(row, completion=decode_completion(json.dumps(completion("Hi")).encode()))


def test_what_was_written_is_known_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    journal = Journal(path)
    assert ({}, 0) == (journal.done, journal.errors)
    for line in (result(1), result(2, "b", failed=True), result(3, "c")):
        journal.write(line)
    journal.close()
    again = Journal(path)
    assert (dict.fromkeys([1, "b", "c"], "d1"), 1) == (again.done, again.errors)
    again.close()
    assert b"".join([result(1), result(2, "b", failed=True), result(3, "c")]) == path.read_bytes()


@pytest.mark.parametrize("cut", range(1, len(result(2, "b")) + 1))
def test_a_line_cut_anywhere_is_done_again_or_completed(tmp_path: Path, cut: int) -> None:
    """As after a kill in mid-write: what is not whole goes, what lacks nothing but its newline stays."""
    path = tmp_path / "out.jsonl"
    whole, torn = result(1), result(2, "b")
    path.write_bytes(whole + torn[:cut])
    journal = Journal(path)
    kept = cut >= len(torn) - 1
    assert set(journal.done) == ({1, "b"} if kept else {1})
    assert path.read_bytes() == whole + (torn if kept else b"")
    journal.close()


def test_a_long_line_cut_off_alone(tmp_path: Path) -> None:
    """Longer than what is read at once, and with nothing before it."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"line": 1, "custom_id": "' + b"x" * (3 << 20))
    journal = Journal(path)
    assert {} == journal.done
    journal.close()
    assert b"" == path.read_bytes()


def test_results_of_before_lines_were_digested_are_known(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(result(1).replace(b'"digest":"d1",', b""))
    journal = Journal(path)
    assert {1: ""} == journal.done
    journal.close()


def test_a_bad_line_goes_by_its_number(tmp_path: Path) -> None:
    """What it calls itself may be the name of another, whose result this is not."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(record(BadLine(3, "no", "b", "d3")) + result(4, "b"))
    journal = Journal(path)
    assert {3: "d3", "b": "d1"} == journal.done
    assert 1 == journal.forget_errors()
    assert {"b": "d1"} == journal.done
    journal.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A device may give bytes without end, and a pipe keeps nothing."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (Path("/dev/null"), Path("/dev/zero"), pipe):
        with pytest.raises(JournalError, match="is no file that a second run could read"):
            Journal(path)


def test_a_line_that_finds_no_room_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor half of it: what was written before can be read, and written on once there is room."""
    path = tmp_path / "out.jsonl"
    journal = Journal(path)
    journal.write(result(1))
    write = os.write
    room = [40]

    def full(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        journal.write(result(2))
    assert str(path) == caught.value.filename
    assert result(1) == path.read_bytes()
    monkeypatch.undo()
    journal.write(result(3))
    journal.close()
    assert result(1) + result(3) == path.read_bytes()


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n", "utf-8")
    with pytest.raises(JournalError, match=r"notes\.txt:1 is no result of this command; choose another file"):
        Journal(path)
    assert "my notes\n" == path.read_text("utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_file_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    first = Journal(path)
    with pytest.raises(JournalError, match="is being written by another run"):
        Journal(path)
    first.close()
    Journal(path).close()


def test_errors_can_be_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(result(1, failed=True) + result(2, "b") + result(3, "c", failed=True))
    journal = Journal(path)
    assert 2 == journal.forget_errors()
    assert (["b"], 0) == ([*journal.done], journal.errors)
    if sys.platform != "win32":
        with pytest.raises(JournalError):
            Journal(path)  # the new file is locked as well
    journal.write(result(1))
    journal.close()
    assert result(2, "b") + result(1) == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="neither links nor modes there")
def test_a_file_is_what_it_was_once_errors_are_forgotten(tmp_path: Path) -> None:
    """Nobody may read it who could not before, and a link leads where it led."""
    path, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    path.write_bytes(result(1, failed=True) + result(2))
    path.chmod(0o600)
    link.symlink_to(path)
    journal = Journal(link)
    assert 1 == journal.forget_errors()
    journal.close()
    assert link.is_symlink()
    assert result(2) == path.read_bytes()
    assert 0o600 == path.stat().st_mode & 0o777


# Progress


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_counts_tell_rates_and_what_is_left() -> None:
    clock = Clock()
    counts = Counts(clock)
    assert "" == counts.left(10)
    clock.now += 4
    counts.done, counts.failed, counts.tokens, counts.bad, counts.skipped = 7, 1, 100, 1, 1
    assert 10 == counts.over
    assert ", 20 s left" == counts.left(50)
    assert ", 0 s left" == counts.left(5)
    assert ", 1:23:20 left" == counts.left(10_010)
    assert "2.0 requests/s, 25 tokens/s, 1 errors" == str(counts)
    assert "7 done, 1 errors, 1 bad lines, 1 there already, 100 tokens, 4.0 s" == counts.summary()
    counts.changed = 1
    assert "1 there already (1 of them of lines that were others then), 100 tokens" in counts.summary()


def test_without_a_terminal_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    counts = Counts(clock)
    with PlainProgress(counts, 10, clock) as shown:
        shown.update()
        clock.now += 5
        shown.update()
        counts.done = 5
        shown.update()
        clock.now += 5
        shown.update()
    assert [
        "0 of 10: 0.0 requests/s, 0 tokens/s, 0 errors",
        "5 of 10: 0.5 requests/s, 0 tokens/s, 0 errors, 10 s left",
    ] == capsys.readouterr().err.splitlines()


def test_in_a_terminal_it_is_a_bar() -> None:
    out = io.StringIO()
    clock = Clock()
    counts = Counts(clock)
    with RichProgress(counts, 4, Console(file=out, force_terminal=True, width=120)) as shown:
        clock.now += 1
        counts.done = 3
        shown.update()
        shown.say("in.jsonl:7: [bold]not\x1b[31m JSON")
    assert "3/4" in out.getvalue()
    assert "3.0 requests/s" in out.getvalue()
    assert "0 errors, 0 s left" in out.getvalue()
    assert "[bold]not" in out.getvalue()
    assert "\x1b[31m JSON" not in out.getvalue()


def test_which_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_progress(Counts(), 1), PlainProgress)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(make_progress(Counts(), 1), RichProgress)
    monkeypatch.setitem(sys.modules, "gradient_async.cli.rich_progress", None)
    assert isinstance(make_progress(Counts(), 1), PlainProgress)
    monkeypatch.setattr(sys, "stderr", None)  # closed before the program began
    assert isinstance(make_progress(Counts(), 1), PlainProgress)
