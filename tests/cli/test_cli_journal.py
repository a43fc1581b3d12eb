"""The file of results: its lines, and what survives."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gradient_async import GradientError, RateLimitError, StreamTruncatedError
from gradient_async.cli.journal import Journal, JournalError, encode_result
from gradient_async.decoding import decode_completion
from gradient_async.errors import ResponseInfo
from gradient_async.testing import completion
from gradient_async.types import Headers


def test_results_are_like_those_of_batches() -> None:
    found = decode_completion(json.dumps(completion("Hi", id="c1")).encode())
    found.request_id = "r1"
    row = json.loads(encode_result(3, "a", "d1", completion=found))
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
    row = json.loads(encode_result(3, None, "", error=error))
    assert row["response"] is None
    assert ("RateLimitError", "slow down", 429, "too_many", "r") == tuple(
        row["error"][name] for name in ("type", "message", "status_code", "code", "request_id")
    )
    partial = decode_completion(json.dumps(completion("Hel")).encode())
    row = json.loads(encode_result(3, None, "", error=StreamTruncatedError("cut", partial=partial)))
    assert "Hel" == row["error"]["partial"]["choices"][0]["message"]["content"]
    row = json.loads(encode_result(3, None, "", error=GradientError("plain")))
    assert {"type": "GradientError", "message": "plain"} == row["error"]
    row = json.loads(encode_result(4, "b", "", error="no"))
    assert ({"type": "BadLine", "message": "no"}, "b", 4) == (row["error"], row["custom_id"], row["line"])
    assert encode_result(1, None, "").endswith(b'"error":null}\n')


# The journal


def result(line: int, custom_id: str | None = None, *, failed: bool = False) -> bytes:
    if failed:
        return encode_result(line, custom_id, "d1", error=GradientError("failed"))
    found = decode_completion(json.dumps(completion("Hi")).encode())
    return encode_result(line, custom_id, "d1", completion=found)


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
    path.write_bytes(b'{"id":null,"custom_id":"' + b"x" * (3 << 20))
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
    path.write_bytes(encode_result(3, "b", "d3", error="no") + result(4, "b"))
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
        with pytest.raises(JournalError, match="is not a regular file, so a later run could not read it"):
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
    with pytest.raises(
        JournalError, match=r"notes\.txt:1 is not a result of this command; choose another file"
    ):
        Journal(path)
    assert "my notes\n" == path.read_text("utf-8")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"my notes", id="text"),
        pytest.param(b"a\nb", id="lines"),
        pytest.param(b'{"line": 1', id="cut, but not a result"),
        pytest.param(b'{"id":1,"name":"x"}', id="whole, but not a result"),
        pytest.param(b"\0\1", id="bytes"),
    ],
)
def test_a_file_of_something_else_keeps_its_last_line(tmp_path: Path, content: bytes) -> None:
    """A line without its line feed is removed only if it is the beginning of a result."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(JournalError, match="is not a result of this command"):
        Journal(path)
    assert content == path.read_bytes()


def test_zeros_that_a_power_cut_leaves_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(result(1) + b"\0" * 100)
    journal = Journal(path)
    assert {1: "d1"} == journal.done
    journal.close()
    assert result(1) == path.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_file_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    first = Journal(path)
    with pytest.raises(JournalError, match="another run is writing to"):
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


posix = pytest.mark.skipif(sys.platform == "win32", reason="neither links, modes nor locks there")


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_keeps_its_rights_once_errors_are_forgotten(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(result(1, failed=True) + result(2))
    path.chmod(mode)
    journal = Journal(path)
    assert 1 == journal.forget_errors()
    journal.close()
    assert result(2) == path.read_bytes()
    assert mode == path.stat().st_mode & 0o777


@posix
def test_a_new_file_is_its_users_own(tmp_path: Path) -> None:
    """It will hold what prompts were answered."""
    path = tmp_path / "out.jsonl"
    Journal(path).close()
    assert 0o600 == path.stat().st_mode & 0o777


@posix
@pytest.mark.parametrize("content", [b"", b"not for you", None], ids=["empty", "full", "missing"])
def test_no_link_is_followed(tmp_path: Path, content: bytes | None) -> None:
    """Whoever may write to the folder could have put it there."""
    path, target = tmp_path / "out.jsonl", tmp_path / "target"
    if content is not None:
        target.write_bytes(content)
    path.symlink_to(target)
    with pytest.raises(JournalError, match="is a symbolic link; name the file itself"):
        Journal(path)
    assert content == (target.read_bytes() if target.exists() else None)


@posix
def test_a_link_that_waits_for_the_copy_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither under the name that the copy once had, nor under a name that was guessed."""
    path, target = tmp_path / "out.jsonl", tmp_path / "target"
    target.write_bytes(b"precious")
    path.write_bytes(result(1, failed=True) + result(2))
    (tmp_path / "out.jsonl.tmp").symlink_to(target)
    journal = Journal(path)
    assert 1 == journal.forget_errors()
    journal.close()
    assert (result(2), b"precious") == (path.read_bytes(), target.read_bytes())

    path.write_bytes(result(1, failed=True) + result(2))

    def guess(_size: int) -> str:
        return "guessed"

    monkeypatch.setattr("secrets.token_hex", guess)
    (tmp_path / ".guessed.tmp").symlink_to(target)
    journal = Journal(path)
    with pytest.raises(FileExistsError):
        journal.forget_errors()
    journal.close()
    assert (result(1, failed=True) + result(2), b"precious") == (path.read_bytes(), target.read_bytes())


@posix
def test_a_copy_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(result(1, failed=True) + result(2))
    journal = Journal(path)

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        journal.forget_errors()
    monkeypatch.undo()
    journal.write(result(3))
    journal.close()
    assert [path] == list(tmp_path.iterdir())
    assert result(1, failed=True) + result(2) + result(3) == path.read_bytes()


@posix
def test_a_run_that_opened_the_file_before_it_was_replaced_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is free by then, but what it would write has no name any more."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(result(1, failed=True) + result(2))
    first = Journal(path)
    open_ = os.open

    def slow(*arguments: Any) -> int:
        file: int = open_(*arguments)
        monkeypatch.undo()
        first.forget_errors()
        return file

    monkeypatch.setattr(os, "open", slow)
    with pytest.raises(JournalError, match="another run is writing to"):
        Journal(path)
    first.write(result(4))
    first.close()
    assert result(2) + result(4) == path.read_bytes()


@pytest.mark.parametrize("depth", [65, 700, 100_000])
def test_lines_nested_deep_are_no_surprise(tmp_path: Path, depth: int) -> None:
    """A result may have been made by another program; a field that no reader needs may hold anything."""
    path = tmp_path / "out.jsonl"
    deep = b"[" * depth + b"]" * depth
    line = result(1).replace(b'"error":null', b'"more":' + deep + b',"error":null')
    path.write_bytes(line)
    known: dict[Any, str] = {}
    with contextlib.suppress(
        JournalError
    ):  # deeper than the decoder goes, which depends on the version of Python
        journal = Journal(path)
        known = journal.done
        journal.close()
    assert known in ([{1: "d1"}, {}] if depth > 100 else [{1: "d1"}])
    assert line == path.read_bytes()
