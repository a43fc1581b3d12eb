"""The page about merging has the rule of the code, row by row, and its examples are true."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fragments import calls_of, chunk_of, fragment

from gradient_async.assembly import CompletionAssembler
from gradient_async.assembly.call import CallIndex
from gradient_async.assembly.rule import ARGUMENTS, FIND, NAMES, OPEN
from gradient_async.types import ChatCompletion, ChatCompletionMessage, ToolCallDelta

PAGE = Path(__file__).parents[2] / "docs" / "merging.md"
TABLES: dict[str, Sequence[Any]] = {
    "Find": FIND,
    "Open": OPEN,
    "Names": NAMES,
    "Arguments": ARGUMENTS,
}
EXAMPLE = re.compile(r"`([^`]+) → ([^`]+)`")


def rows_of(step: str) -> list[list[str]]:
    """Return the cells of the table of a step."""
    table = (
        PAGE.read_text("utf-8")
        .partition(f"**{step}.**")[2]
        .partition("|---|---|---|\n")[2]
        .partition("\n\n")[0]
    )
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


ROWS = [(step, number, row) for step in TABLES for number, row in enumerate(rows_of(step))]


def holding(step: str, state: CallIndex, entry: ToolCallDelta) -> set[int]:
    """Return the rows of a step that decide about a fragment."""
    if step == "Find":
        return {[bool(row.holds(state, entry)) for row in FIND].index(True)}
    found = next(row for row in FIND if row.holds(state, entry)).call(state, entry)
    if found is None:
        return set()
    if step == "Open":
        return {number for number, row in enumerate(OPEN) if row.holds(found, entry)}
    if step == "Names":
        return {[bool(row.holds(found, entry.function.name or "")) for row in NAMES].index(True)}
    return {[bool(row.holds(found, entry.function.arguments or "")) for row in ARGUMENTS].index(True)}


def test_every_field_has_a_rule() -> None:
    """Except constants, fields that hold others, and fields that the library sets."""
    table = PAGE.read_text("utf-8").partition("| field | rule |\n|---|---|\n")[2].partition("\n\n")[0]
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    fields = {*ChatCompletionMessage.__struct_fields__, *ChatCompletion.__struct_fields__}
    others = {"tool_calls", "choices", "object", "request_id", "rate_limits", "attempts"}
    missing = {name for name in fields - others if not name.startswith("_")} - named
    assert set() == missing, "add the fields to the last table of docs/merging.md"


@pytest.mark.parametrize("step", TABLES)
def test_the_rows_are_those_of_the_code(step: str) -> None:
    assert [(row.when, row.then) for row in TABLES[step]] == [(when, then) for when, then, _ in rows_of(step)]


@pytest.mark.parametrize(
    ("step", "number", "row"), ROWS, ids=[f"{step} {number}" for step, number, _ in ROWS]
)
def test_each_example_shows_its_row(step: str, number: int, row: list[str]) -> None:
    """The row decides about one of the fragments, and the calls are those behind the arrow."""
    fragments, calls = EXAMPLE.fullmatch(row[2]).groups()  # type: ignore[union-attr]
    assembler = CompletionAssembler()
    assembler.add(chunk_of())
    decided: set[int] = set()
    for text in fragments.split(" + "):
        decided |= holding(step, assembler.choices[0].calls.index, fragment(text))
        assembler.add(chunk_of(fragment(text)))
    assert number in decided
    assert calls.split(" + ") == calls_of(*fragments.split(" + "))


def test_each_example_of_the_page_is_true() -> None:
    """A fragment a chunk, and all in one chunk."""
    examples = EXAMPLE.findall(PAGE.read_text("utf-8"))
    assert len(ROWS) + 2 == len(examples)
    for fragments, calls in examples:
        for together in (False, True):
            assert calls.split(" + ") == calls_of(*fragments.split(" + "), together=together)
