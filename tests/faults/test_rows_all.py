"""Every row of the tables in the documentation is a test of that name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def documented() -> set[str]:
    """The names in the first column of the tables of rows."""
    names: set[str] = set()
    for line in (ROOT / "docs" / "reliability.md").read_text("utf-8").splitlines():
        if line.startswith("| `"):
            names |= set(re.findall(r"`(\w+)`", line.split("|")[1]))
    return names


def names_of_tests() -> set[str]:
    """Names of test functions, without what every name begins with, and ids of parameters."""
    names: set[str] = set()
    for folder in ("faults", "session", "stream"):
        for path in (ROOT / "tests" / folder).glob("test_*.py"):
            if path == Path(__file__):
                continue
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    names.add(node.name.removeprefix("test_"))
                elif isinstance(node, ast.keyword) and node.arg in {"id", "ids"}:
                    names |= {
                        part.value
                        for part in ast.walk(node.value)
                        if isinstance(part, ast.Constant) and isinstance(part.value, str)
                    }
    return names


def test_every_row_is_a_test() -> None:
    rows = documented()
    assert len(rows) > 100
    assert set() == rows - names_of_tests(), "write a test of this name for each row"
