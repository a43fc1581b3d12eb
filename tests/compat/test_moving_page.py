"""Every row of docs/moving.md is a test, also with the other package where it is installed."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
from moving import PAGE, Row, TableRow, run, table_rows, unsaid
from moving_all import ROWS as ALL
from moving_gradient import ROWS as GRADIENT
from moving_openai import ROWS as OPENAI
from moving_pydo import ROWS as PYDO

from gradient_async.config import VARIABLES
from gradient_async.testing import ThreadedServer, serve

SECTIONS = {
    "From `gradient`": (GRADIENT, ("gradient",)),
    "From `openai`": (OPENAI, ("openai",)),
    "From `pydo`": (PYDO, ("pydo",)),
    "What behaves differently": (ALL, ("gradient", "openai")),
}
TABLE = [row for row in table_rows(PAGE.read_text("utf-8")) if row.section in SECTIONS]
KINDS = {"stays", "changes", "is not there", "what happens"}


def needs(package: str) -> tuple[pytest.MarkDecorator, ...]:
    """Skip without the package; its warnings are its own."""
    missing = importlib.util.find_spec(package) is None
    return (
        pytest.mark.skipif(missing, reason=f"{package} is not installed"),
        pytest.mark.filterwarnings("default"),
    )


def cases() -> Iterator[Any]:
    for line in TABLE:
        rows, peers = SECTIONS[line.section]
        row = rows.get(line.key)
        if row is None:
            continue  # `test_every_row_has_a_program` says so
        for synchronous in (False, True):
            if not (row.sync if synchronous else row.asyncio):
                continue
            for package in ("gradient_async", *(row.peers or peers)):
                name = f"{line.section}-{line.key}-{package}-{'sync' if synchronous else 'async'}"
                marks = () if package == "gradient_async" else needs(package)
                yield pytest.param(row, package, synchronous, id=name.replace("`", ""), marks=marks)


def do_nothing(_request: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedServer]:
    for names in (*VARIABLES.values(), ("OPENAI_API_KEY", "OPENAI_BASE_URL")):
        for name in names:
            monkeypatch.delenv(name, raising=False)
    if importlib.util.find_spec("azure") is not None:
        # pydo sends its token over TLS only. The server on loopback has none.
        policy = "azure.core.pipeline.policies._authentication"
        monkeypatch.setattr(f"{policy}._enforce_https", do_nothing)
        monkeypatch.setattr(f"{policy}_async._enforce_https", do_nothing)
    with serve() as running:
        yield running


@pytest.mark.parametrize("section", SECTIONS)
def test_every_row_has_a_program(section: str) -> None:
    """And every program has a row."""
    rows, _ = SECTIONS[section]
    lines = [line for line in TABLE if line.section == section]
    assert [*rows] == [line.key for line in lines]
    assert {line.kind for line in lines} <= KINDS


@pytest.mark.parametrize("line", TABLE, ids=lambda line: f"{line.section}-{line.key}".replace("`", ""))
def test_the_code_of_a_row_is_that_of_its_program(line: TableRow) -> None:
    row = SECTIONS[line.section][0][line.key]
    *before, after = line.cells[1:]
    if line.kind == "is not there":  # the first cell names it
        before = [line.cells[0]]
    assert [] == unsaid(after, row.after, row.seen)
    assert [] == unsaid(" ".join(before), row.program_before, row.expected_before)


@pytest.mark.parametrize(("row", "package", "synchronous"), [*cases()])
def test_row(row: Row, package: str, synchronous: bool, server: ThreadedServer) -> None:
    """The program sees what the row says."""
    ours = package == "gradient_async"
    program, expected = (row.after, row.seen) if ours else (row.program_before, row.expected_before)
    try:
        assert expected == run(program, package, server, synchronous=synchronous)
    finally:
        if not ours:
            gc.collect()  # what another package leaves open warns here, where its warnings are allowed


def test_code_that_is_in_no_program_is_seen() -> None:
    assert ["b()"] == unsaid("`a()` and `b()`, `c(...)`", "a()\nc(1, 2)", None)
    assert [] == unsaid("raises `KeyError`", "x", "KeyError")
    assert [TableRow("S", "stays", ("a", "`b`"))] == table_rows(
        "## S\n\n| stays | as in |\n|---|---|\n| a | `b` |\n"
    )
