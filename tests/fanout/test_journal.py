"""The journal: what survives, what is superseded, and who may write."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from result_lines import answer, ask, line_of, refusal, row_of

from gradient_async import ChatCompletion, GradientError, Journal, JournalError
from gradient_async.fanout.journal import JournalRun
from gradient_async.fanout.result_file import InputLine, Row

posix = pytest.mark.skipif(sys.platform == "win32", reason="neither links, modes nor locks there")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def texts(journal: Journal, *rows: Row) -> list[Any]:
    """Return the answers of rows, or their errors, or None."""
    run = JournalRun(journal, owned=False)
    found = [run.take(row) for row in rows]
    return [one.choices[0].message.content if isinstance(one, ChatCompletion) else one for one in found]


A, B, C = row_of(0, "a", "one"), row_of(1, "b", "two"), row_of(2, None, "three")
LINE_A, LINE_B, LINE_C = line_of(0, "a", "one"), line_of(1, "b", "two"), line_of(2, None, "three")
FAILED_A = line_of(0, "a", "one", error=refusal(500))


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


# What survives


def test_what_was_written_is_known_again(path: Path) -> None:
    with Journal(path) as journal:
        assert ([None] * 3, 0) == (texts(journal, A, B, C), journal.errors)
        journal.write(A, completion=answer("one"))
        journal.write(B, error=refusal(404))
        journal.write(C, completion=answer("three"))
        assert "one" == texts(journal, A)[0]
    with Journal(str(path)) as journal:
        assert 1 == journal.errors
        one, error, three = texts(journal, A, B, C)
        assert ("one", "three") == (one, three)
        assert str(refusal(404)) == str(error)
    assert [LINE_A, line_of(1, "b", "two", error=refusal(404)), LINE_C] == lines_of(path)


@pytest.mark.parametrize("cut", range(1, len(LINE_B) + 1))
def test_a_line_cut_anywhere_is_done_again_or_completed(path: Path, cut: int) -> None:
    """As after a kill in mid-write: what is not whole goes, what lacks nothing but its newline stays."""
    path.write_bytes(LINE_A + LINE_B[:cut])
    kept = cut >= len(LINE_B) - 1
    with Journal(path) as journal:
        assert LINE_A + (LINE_B if kept else b"") == path.read_bytes()
        assert ["one", "two" if kept else None] == texts(journal, A, B)
        journal.write(C, completion=answer("three"))
    assert ([LINE_A, LINE_B, LINE_C] if kept else [LINE_A, LINE_C]) == lines_of(path)


def test_a_long_line_cut_off_alone(path: Path) -> None:
    """Longer than what is read at once, and with nothing before it."""
    path.write_bytes(b'{"id":null,"custom_id":"' + b"x" * (3 << 20))
    Journal(path).close()
    assert b"" == path.read_bytes()


def test_zeros_that_a_power_cut_leaves_are_removed(path: Path) -> None:
    path.write_bytes(LINE_A + b"\0" * 100)
    Journal(path).close()
    assert LINE_A == path.read_bytes()


class Disk:
    """A disk with room for some bytes, in place of `os.write`."""

    def __init__(self, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, file: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(file, data[: self.room])
        self.room -= written
        return written


def test_a_line_that_finds_no_room_is_not_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor half of it: what was written before can be read, and written on once there is room."""
    with Journal(path) as journal:
        journal.write(A, completion=answer("one"))
        disk = Disk(40, monkeypatch)
        with pytest.raises(JournalError, match=r"out\.jsonl: No space left on device; make room") as caught:
            journal.write(B, completion=answer("two"))
        assert isinstance(caught.value, GradientError)
        assert str(path) == caught.value.path
        assert LINE_A == path.read_bytes()
        assert [None] == texts(journal, B)
        disk.room = 1 << 20
        journal.write(C, completion=answer("three"))
    assert [LINE_A, LINE_C] == lines_of(path)


def test_half_a_line_that_cannot_be_removed_is_removed_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(path) as journal:
        disk = Disk(40, monkeypatch)
        with monkeypatch.context() as patched:

            def refuse(*_: Any) -> None:
                raise OSError(errno.EIO, "Input/output error")

            patched.setattr(os, "ftruncate", refuse)
            with pytest.raises(JournalError, match="No space left"):
                journal.write(A, completion=answer("one"))
            assert 40 == path.stat().st_size
            with pytest.raises(JournalError, match="Input/output error; when that is mended"):
                journal.write(A, completion=answer("one"))
        disk.room = 1 << 20
        journal.write(B, completion=answer("two"))
    assert [LINE_B] == lines_of(path)


def test_half_a_line_is_not_copied(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is still there when superseded results are removed."""
    path.write_bytes(FAILED_A + LINE_A)
    with Journal(path) as journal:
        with monkeypatch.context() as patched:
            Disk(40, patched)

            def refuse(*_: Any) -> None:
                raise OSError(errno.EIO, "Input/output error")

            patched.setattr(os, "ftruncate", refuse)
            with pytest.raises(JournalError, match="No space left"):
                journal.write(B, completion=answer("two"))
        run = journal.begin()
        assert run.take(A)
        run.end(complete=True)
        assert 0 == journal.tidy()
        assert LINE_A == path.read_bytes()
        journal.write(B, completion=answer("two"))
    assert LINE_A + LINE_B == path.read_bytes()


@posix
def test_a_full_disk(path: Path) -> None:
    """A real one."""
    with Journal(path) as journal:
        full = os.open("/dev/full", os.O_WRONLY)
        file, journal._file = journal._file, full
        with pytest.raises(JournalError, match="No space left on device; make room, and run the same again"):
            journal.write(A, completion=answer("one"))
        os.close(full)
        journal._file = file


def test_a_closed_journal_takes_nothing(path: Path) -> None:
    journal = Journal(path)
    journal.write(A, completion=answer("one"))
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="the journal has been closed; open it again"):
        journal.write(B, completion=answer("two"))
    with pytest.raises(JournalError, match="the journal has been closed; open it again"):
        journal.take(A)
    assert LINE_A == path.read_bytes()


def test_a_journal_that_is_dropped_is_free(path: Path) -> None:
    """And says that it should have been closed."""
    journals = [Journal(path)]
    with pytest.warns(ResourceWarning, match=r"out\.jsonl was never closed"):
        journals.clear()
    Journal(path).close()


def test_what_does_not_reach_the_disk_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(path)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(JournalError, match="Input/output error"):
        journal.close()
    monkeypatch.undo()
    Journal(path).close()


def test_threads_may_share_a_journal(path: Path) -> None:
    with Journal(path) as journal:

        def work(first: int) -> None:
            for number in range(first, first + 200):
                row = row_of(number, number, str(number))
                journal.write(row, completion=answer(str(number)))
                assert [str(number)] == texts(journal, row)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 1000, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Journal(path) as journal:
        rows = [row_of(number, number, str(number)) for number in range(1000)]
        assert [str(number) for number in range(1000)] == texts(journal, *rows)
    assert 1000 == len(lines_of(path))


# What is superseded


def test_errors_give_way_to_later_results(path: Path) -> None:
    """Once the run is over."""
    path.write_bytes(FAILED_A + LINE_B)
    with Journal(path) as journal:
        run = journal.begin()
        assert run.take(A) is None
        journal.write(A, error=refusal(503))
        run.end(complete=True)
        assert 2 == len(lines_of(path)) - 1
        run = journal.begin()
        assert run.take(A) is None
        journal.write(A, completion=answer("one"))
        run.end(complete=True)
    assert [LINE_B, LINE_A] == lines_of(path)
    assert [path] == [*path.parent.iterdir()]


def test_a_run_that_was_left_removes_nothing(path: Path) -> None:
    path.write_bytes(FAILED_A)
    with Journal(path) as journal:
        run = journal.begin()
        run.take(A)
        journal.write(A, completion=answer("one"))
        run.end(complete=False)
    assert [FAILED_A, LINE_A] == lines_of(path)
    with Journal(path) as journal:
        run = journal.begin()
        assert run.take(A)
        run.end(complete=True)
    assert [LINE_A] == lines_of(path)


def test_equal_rows_keep_their_errors(path: Path) -> None:
    """An error is replaced by the result of its own row, not of an equal one of the same run."""
    path.write_bytes(FAILED_A * 2)
    with Journal(path) as journal:
        run = journal.begin()
        for _ in range(2):
            assert run.take(A) is None
        for _ in range(2):
            journal.write(A, error=refusal(500))
        assert run.take(A) is None
        journal.write(A, completion=answer("one"))
        run.end(complete=True)
    assert [FAILED_A, FAILED_A, LINE_A] == lines_of(path)


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after a kill"])
def test_a_changed_row_replaces_the_result_of_its_key(path: Path, again: bool) -> None:
    """The answer of before is kept beside: it was paid for. Rows that are not in the run keep their results."""
    changed = row_of(0, "a", "new")
    path.write_bytes(LINE_A + LINE_B + LINE_C + (line_of(0, "a", "new") if again else b""))
    with Journal(path) as journal:
        run = journal.begin()
        if not again:
            assert run.take(changed) is None
            journal.write(changed, completion=answer("new"))
        else:
            assert run.take(changed)
        run.end(complete=True)
        assert 2 == journal.tidy()
        assert ["new", "two", "three"] == texts(journal, changed, B, C)
    assert [LINE_B, LINE_C, line_of(0, "a", "new")] == lines_of(path)
    assert [LINE_A] == lines_of(path.with_name("out.jsonl.superseded"))


def test_two_rows_may_have_one_key(path: Path) -> None:
    other = row_of(1, "a", "two")
    path.write_bytes(LINE_A + line_of(1, "a", "two"))
    with Journal(path) as journal:
        run = journal.begin()
        assert run.take(A)
        assert run.take(other)
        run.end(complete=True)
    assert [LINE_A, line_of(1, "a", "two")] == lines_of(path)


def test_rows_without_a_key_replace_nothing(path: Path) -> None:
    """A row that changed is another row, and several lists of rows may use one journal."""
    path.write_bytes(LINE_C)
    with Journal(path) as journal:
        run = journal.begin()
        new = row_of(2, None, "new")
        assert run.take(new) is None
        journal.write(new, completion=answer("new"))
        run.end(complete=True)
        assert 1 == journal.tidy()
    assert [LINE_C, line_of(2, None, "new")] == lines_of(path)


def test_lines_of_a_file_go_by_their_number(path: Path) -> None:
    """Results move with their lines."""
    params = [{"messages": [{"role": "user", "content": text}]} for text in ("one", "two", "new")]
    one, two = (ask(0, InputLine(number, None, ""), params[number - 1])[0] for number in (1, 2))
    with Journal(path) as journal:
        journal.write(one, completion=answer("one"))
        journal.write(two, completion=answer("two"))
    new, moved = (
        ask(0, InputLine(1, None, ""), params[2])[0],
        two._replace(line=3, source=InputLine(3, None, "")),
    )
    with Journal(path) as journal:
        run = journal.begin()
        assert run.take(new) is None
        journal.write(new, completion=answer("new"))
        assert run.take(moved)
        run.end(complete=True)
    assert [b'"line":3,' in line for line in lines_of(path)] == [True, False]
    with Journal(path) as journal:
        assert [None, "two", "new"] == texts(journal, one, moved, new)


def test_a_bad_line_goes_by_its_number(path: Path) -> None:
    """What it calls itself may be the name of another, whose result this is not."""
    bad = ask(0, InputLine(3, "b", ""), {})[0]._replace(bad=True)
    good = ask(0, InputLine(4, "b", ""), {"x": 1})[0]
    with Journal(path) as journal:
        journal.write(bad, error="no")
        journal.write(good, completion=answer("two"))
    with Journal(path) as journal:
        run = journal.begin()
        assert run.take(good)
        run.end(complete=True)
        assert 1 == journal.tidy()
        assert "no" == str(run.take(bad))


def test_without_room_for_a_copy_the_file_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is right as it is: a later result counts."""
    path.write_bytes(FAILED_A)
    journal = Journal(path)
    run = journal.begin()
    run.take(A)
    journal.write(A, completion=answer("one"))
    run.end(complete=True)
    with monkeypatch.context() as patched:

        def full(_file: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(os, "fsync", full)
        assert 0 == journal.tidy()
    assert [FAILED_A, LINE_A] == lines_of(path)
    assert [path] == [*path.parent.iterdir()]
    journal.close()
    assert [LINE_A] == lines_of(path)


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_tidied_file_keeps_its_rights_and_its_lock(path: Path, mode: int) -> None:
    path.write_bytes(FAILED_A + LINE_A)
    path.chmod(mode)
    with Journal(path) as journal:
        journal.tidy()
        assert LINE_A == path.read_bytes()
        assert mode == path.stat().st_mode & 0o777
        with pytest.raises(JournalError, match="another run is writing"):
            Journal(path)
        journal.write(B, completion=answer("two"))
        assert ["one", "two"] == texts(journal, A, B)
    assert LINE_A + LINE_B == path.read_bytes()


# Who may write


@posix
def test_a_file_has_one_writer(path: Path) -> None:
    first = Journal(path)
    with pytest.raises(JournalError, match="another run is writing to"):
        Journal(path)
    first.close()
    Journal(path).close()


@posix
def test_a_file_system_without_locks_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(JournalError, match=r"out\.jsonl: No locks available"):
        Journal(path)


@posix
def test_a_new_file_is_its_users_own(path: Path) -> None:
    """It will hold what prompts were answered."""
    Journal(path).close()
    assert 0o600 == path.stat().st_mode & 0o777


@posix
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A device may give bytes without end, and a pipe keeps nothing."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (Path("/dev/null"), Path("/dev/zero"), pipe):
        with pytest.raises(JournalError, match="is not a regular file, so a later run could not read it"):
            Journal(path)


def test_what_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path, tmp_path / "none" / "out.jsonl"):
        with pytest.raises(JournalError, match="name a file in a folder that exists") as caught:
            Journal(path)
        assert str(path) == caught.value.path
        assert str(path) in str(caught.value)

    def refuse(*_: Any) -> int:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(JournalError, match="Permission denied; choose a file that you may write to"):
        Journal(tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"my notes\n", id="notes"),
        pytest.param(b"my notes", id="text"),
        pytest.param(b"a\nb", id="lines"),
        pytest.param(b'{"line": 1', id="cut, but not a result"),
        pytest.param(b'{"id":1,"name":"x"}', id="whole, but not a result"),
        pytest.param(b"\0\1", id="bytes"),
    ],
)
def test_a_file_of_something_else_is_left_alone(path: Path, content: bytes) -> None:
    """A line without its line feed is removed only if it is the beginning of a result."""
    path.write_bytes(content)
    os.utime(path, (1, 1))
    with pytest.raises(JournalError, match=r"out\.jsonl:1 is not a result of map; choose another file"):
        Journal(path)
    assert content == path.read_bytes()
    assert 1 == path.stat().st_mtime


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
def test_a_link_that_waits_for_the_copy_is_not_followed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that waits for superseded results."""
    target = path.with_name("target")
    target.write_bytes(b"precious")
    path.write_bytes(FAILED_A + LINE_A)

    monkeypatch.setattr("os.urandom", bytes)  # zeros
    guessed = path.with_name(f".{'00' * 8}.tmp")
    guessed.symlink_to(target)
    with Journal(path):
        pass
    assert (FAILED_A + LINE_A, b"precious") == (path.read_bytes(), target.read_bytes())
    assert guessed.is_symlink()
    guessed.unlink()
    path.with_name("out.jsonl.superseded").symlink_to(target)
    with Journal(path) as journal:
        run = journal.begin()
        journal.write(row_of(0, "a", "new"), completion=answer("new"))
        run.end(complete=True)
    assert (FAILED_A + LINE_A + line_of(0, "a", "new"), b"precious") == (
        path.read_bytes(),
        target.read_bytes(),
    )


@posix
def test_a_run_that_opened_the_file_before_it_was_replaced_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is free by then, but what it would write has no name any more."""
    path.write_bytes(FAILED_A + LINE_A)
    first = Journal(path)
    open_ = os.open

    def slow(*arguments: Any) -> int:
        file: int = open_(*arguments)
        monkeypatch.undo()
        first.tidy()
        return file

    monkeypatch.setattr(os, "open", slow)
    with pytest.raises(JournalError, match="another run is writing to"):
        Journal(path)
    first.write(B, completion=answer("two"))
    first.close()
    assert LINE_A + LINE_B == path.read_bytes()


@pytest.mark.parametrize("depth", [65, 700, 100_000])
def test_lines_nested_deep_are_no_surprise(path: Path, depth: int) -> None:
    """A result may have been made by another program; a field that no reader needs may hold anything."""
    deep = b"[" * depth + b"]" * depth
    line = LINE_A.replace(b'"error":null', b'"more":' + deep + b',"error":null')
    path.write_bytes(line)
    known: list[Any] = [None]
    # It may be deeper than the decoder goes, which depends on the version of Python.
    with contextlib.suppress(JournalError), Journal(path) as journal:
        known = texts(journal, A)
    assert known in ([["one"], [None]] if depth > 100 else [["one"]])
    assert line == path.read_bytes()
