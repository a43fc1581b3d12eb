"""The files that chunks, calls and errors pass through are counted; see `docs/performance.md`."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks import walks
from benchmarks.calls import COUNTED
from benchmarks.server import running_server

# Each walk passes at least through this file.
THROUGH = {
    "one chunk of an open stream": "decoding/chunks.py",
    "one awaited create()": "decoding/requests.py",
    "one 404": "errors.py",
    "one error event": "errors.py",
    "one chunk of a fan-out": "decoding/chunks.py",
}

# So many files may be entered. A smaller number is a success, and goes into this table.
ENTERED = {
    "one chunk of an open stream": 6,
    "one awaited create()": 16,
    "one 404": 22,
    "one error event": 19,
    "one chunk of a fan-out": 10,
}


@pytest.fixture(scope="module")
def found() -> dict[str, Counter[str]]:
    return walks.walk_all()


def test_every_walk_is_counted(found: dict[str, Counter[str]]) -> None:
    """Calls of the library's own functions, by file."""
    assert list(walks.WALKS) == list(found)
    for name, files in found.items():
        assert f"{COUNTED[0]}/{THROUGH[name]}" in files
        assert all(file.startswith(COUNTED) for file in files)
        assert files.total() >= len(files)


@pytest.mark.usefixtures("needs_internals")  # without them other files are entered
def test_no_walk_enters_more_files(found: dict[str, Counter[str]]) -> None:
    assert ENTERED == {name: len(files) for name, files in found.items()}


def test_aims_stand_beside_what_is_counted(found: dict[str, Counter[str]]) -> None:
    rows = {(row.column, row.contender): row.value.median for row in walks.tabulate(found)}
    assert [6, 15, 14, 14, 8] == [rows["aim", name] for name in found]
    assert all(rows["files", name] == len(files) for name, files in found.items())
    assert rows["calls", "one chunk of an open stream"] < rows["calls", "one awaited create()"]


async def test_a_walk_is_the_same_each_time() -> None:
    """What is made once exists before, so that bounds can be set."""
    with running_server() as url:
        first, second = [await walks.walk("one awaited create()", url) for _ in range(2)]
    assert first == second
