"""The pages for readers of the code name what there is: rooms, files, states, pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import ROOT

from gradient_async.stream.reader import State

DOCS = ROOT / "docs"
PAGE = (DOCS / "architecture.md").read_text("utf-8")
PAGES = [DOCS / "architecture.md", DOCS / "contributing.md", *sorted((DOCS / "decisions").glob("*.md"))]
PICTURES = DOCS / "pictures"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """A path is one of the package, or of the repository."""
    named = set(re.findall(r"`((?:\w+/)*\w+\.py|(?:\w+/)+)`", page.read_text("utf-8")))
    missing = [
        path for path in named if not any((top / path).exists() for top in (ROOT / "gradient_async", ROOT))
    ]
    assert [] == missing


def test_states_are_those_of_the_reader() -> None:
    assert [state.name for state in State] == re.findall(r"^\| `([A-Z]+)` \|", PAGE, re.MULTILINE)
    drawn = (PICTURES / "states.svg").read_text("utf-8")
    assert {state.name for state in State} == set(re.findall(r'class="name"[^>]*>([A-Z]+)<', drawn))


def test_rooms_are_drawn() -> None:
    rooms = re.findall(r"^\| \d \| `([\w./]+)` \|", PAGE, re.MULTILINE)
    drawn = (PICTURES / "rooms.svg").read_text("utf-8")
    assert set(rooms) == set(re.findall(r'class="name"[^>]*>([\w./]+)<', drawn))


@pytest.mark.parametrize("room", ["decoding", "assembly", "session"])
def test_files_of_the_larger_rooms_are_listed(room: str) -> None:
    files = {path.name for path in (ROOT / "gradient_async" / room).glob("*.py")} - {"__init__.py"}
    assert files == set(re.findall(rf"^\| `{room}/(\w+\.py)` \|", PAGE, re.MULTILINE))
