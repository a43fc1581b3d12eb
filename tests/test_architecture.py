"""The rows of `docs/architecture.md`: who may import whom."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
ROOT = PROJECT / "gradient_async"
TABLE = re.findall(
    r"^\| (\d) \| `(\w+)(?:\.py|/)` \|",
    (PROJECT / "docs" / "architecture.md").read_text("utf-8"),
    re.MULTILINE,
)
ORDER = [room for _, room in TABLE]
ROWS = {room: int(row) for row, room in TABLE}

PURE = 2  # the last row without clock, I/O, dice and environment
IMPURE = {
    "aiohttp", "asyncio", "http", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "selectors",
    "shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time", "urllib.request", "uuid",
}  # fmt: skip

MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> tuple[str, ...]:
    """Return a module's name below the package, such as ``("decoding", "chunks")``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts


def imports_of(path: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give every import, also in functions and for type checkers: what from our own package, or another's name."""
    package = path.relative_to(ROOT.parent).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = tuple(name.split("."))
            if parts[0] == ROOT.name:
                yield parts[1:] or ("__init__",), ""
            else:
                yield (), name


def target_of(name: tuple[str, ...]) -> tuple[str, ...]:
    """Return the module that an imported name is, or is taken from."""
    while name:
        path = ROOT.joinpath(*name)
        if path.with_suffix(".py").exists() or (path / "__init__.py").exists():
            return name
        name = name[:-1]
    return ("__init__",)


GRAPH = {
    name_of(path): {target_of(name) for name, _ in imports_of(path) if name} - {name_of(path)}
    for path in MODULES
}


def test_every_room_is_in_the_table_once() -> None:
    """In the order of the rows."""
    assert sorted(ORDER) == sorted({module[0] for module in GRAPH})
    assert list(ROWS.values()) == sorted(ROWS.values())


@pytest.mark.parametrize("module", GRAPH, ids=".".join)
def test_imports_come_from_rooms_above(module: tuple[str, ...]) -> None:
    """A room imports itself and the rooms that stand before it in the table."""
    above = ORDER[: ORDER.index(module[0]) + 1]
    assert {target[0] for target in GRAPH[module]} <= set(above)


def test_no_circle_of_files() -> None:
    """There is an order in which every file can be read after those that it imports."""
    # A room's `__init__` gathers names for other rooms; files of the room itself import each other.
    inside = [(module, target) for module in GRAPH for target in GRAPH[module] if module[0] == target[0]]
    assert [pair for pair in inside if len(pair[1]) == 1 and len(pair[0]) > 1] == []
    order = list(TopologicalSorter(GRAPH).static_order())
    assert set(order) == set(GRAPH)


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if ROWS[name_of(path)[0]] <= PURE],
    ids=lambda path: ".".join(name_of(path)),
)
def test_the_core_is_pure(path: Path) -> None:
    """Bytes in, events and completions out: no loop, no socket, no clock, no dice, no environment."""
    outside = {name for _, name in imports_of(path) if name}
    assert set() == {name for name in outside for impure in IMPURE if f"{name}.".startswith(f"{impure}.")}


def test_aiohttp_is_named_in_one_place() -> None:
    """Only the session knows aiohttp; the client takes one of its sessions."""
    named = {
        (name_of(path)[0], name)
        for path in MODULES
        for _, name in imports_of(path)
        if f"{name}.".startswith("aiohttp.")
    }
    assert {("client", "aiohttp.ClientSession")} == {found for found in named if found[0] != "session"}


def test_every_import_is_seen() -> None:
    """The tests see relative and absolute imports, of modules and of names in them."""
    assert {("config",), ("errors",), ("sse",), ("types",), ("decoding", "normalize")} <= GRAPH[
        "decoding", "chunks"
    ]
    assert "msgspec" in {name for _, name in imports_of(ROOT / "sse.py")}
    assert ("__init__",) == target_of(("no_such_name",))
