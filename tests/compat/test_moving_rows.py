"""Every intended difference from the suites of the peers is in ``docs/moving.md``, and every row there is checked."""

from __future__ import annotations

import re
from pathlib import Path

import sdk_clients
import test_openai_events
import test_sdk_chat
import test_sdk_clients
import test_sdk_event_stream
import test_sdk_retries

PAGE = Path(__file__).resolve().parents[2] / "docs" / "moving.md"
HEADING = "## What the suites of both packages assert"
MODULES = [test_openai_events, test_sdk_chat, test_sdk_clients, test_sdk_event_stream, test_sdk_retries]


def rows() -> list[list[str]]:
    """Return the cells of the table's rows, without its head."""
    section = PAGE.read_text("utf-8").partition(f"{HEADING}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [re.split(r" \| ", line) for line in lines[1:]]


def test_each_row_has_a_test_and_each_difference_a_row() -> None:
    assert sorted(sdk_clients.DIFFERENCES) == sorted(row[0] for row in rows())
    tests = {name for module in MODULES for name in vars(module)}
    assert {name for names in sdk_clients.DIFFERENCES.values() for name in names} <= tests


def test_each_row_says_what_happens_and_why() -> None:
    assert {3} == {len(row) for row in rows()}
    assert all(cell.strip() for row in rows() for cell in row)
