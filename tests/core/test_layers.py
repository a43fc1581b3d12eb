"""Each module imports only from below: the rows of the design, held to by a test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "gradient_async"

ROWS = {
    "_version": 0,
    "types": 0,
    "errors": 1,
    "config": 2,
    "sse": 2,
    "decoding": 3,
    "assembly": 3,
    "call": 4,
    "hooks": 3,
    "inflate": 3,
    "redaction": 3,
    "retry": 3,
    "ratelimit": 3,
    "pacing": 3,
    "events": 4,
    "session": 5,
    "testing": 4,
    "stream": 6,
    "fanout": 7,
    "otel": 7,
    "client": 8,
    "cli": 9,
    "__main__": 10,
    "__init__": 10,
}
"""The row of each module or package; one that is not here has to be given a row first."""

PURE = 3  # up to this row there is no clock, no I/O, no dice and no environment
IMPURE = {
    "aiohttp", "asyncio", "http", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "selectors",
    "shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time", "urllib.request", "uuid",
}  # fmt: skip

MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> tuple[str, ...]:
    """Return a module's name below the package, such as ``("decoding", "chunks")``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts


def nodes_of(tree: ast.AST, *, on_loading: bool) -> Iterator[ast.AST]:
    """Walk a module; if only what runs while it loads is meant, past functions and `TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not (on_loading and (later or typing)):
            yield node
            yield from nodes_of(node, on_loading=on_loading)


def imports_of(path: Path, *, on_loading: bool = False) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give every import, those for type checkers included: what from our own package, or another's name."""
    package = path.relative_to(ROOT.parent).parent.parts
    for node in nodes_of(ast.parse(path.read_text(encoding="utf-8")), on_loading=on_loading):
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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(name_of(path)))
def test_imports_from_below(path: Path) -> None:
    """A module of another row is named only from a higher one; within a row, nothing is."""
    room = name_of(path)[0]
    assert room in ROWS, f"{room} has no row"
    for name, _ in imports_of(path):
        other = target_of(name)[0] if name else room
        assert other == room or ROWS[other] < ROWS[room], f"{room} imports {other}"


@pytest.mark.parametrize("room", sorted({name_of(path)[0] for path in MODULES}))
def test_no_cycle_inside_a_package(room: str) -> None:
    """The modules of a package load one after the other; in the core, they can be read so, too.

    Above the core a part may name the whole that it belongs to, for type checkers alone.
    """
    above = ROWS.get(room, PURE) > PURE
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for path in (path for path in MODULES if name_of(path)[0] == room):
        targets = {target_of(name) for name, _ in imports_of(path, on_loading=above) if name}
        graph[name_of(path)] = {target for target in targets if target[0] == room}
    order = list(TopologicalSorter(graph).static_order())
    assert graph.keys() <= set(order)


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if ROWS.get(name_of(path)[0], PURE) <= PURE],
    ids=lambda path: ".".join(name_of(path)),
)
def test_the_core_is_pure(path: Path) -> None:
    """Bytes in, events and completions out: no loop, no socket, no clock, no dice, no environment."""
    outside = {name for _, name in imports_of(path) if name}
    assert set() == {name for name in outside for impure in IMPURE if f"{name}.".startswith(f"{impure}.")}


def test_aiohttp_is_named_in_one_place() -> None:
    """Only the session knows aiohttp."""
    rooms = {
        name_of(path)[0]
        for path in MODULES
        for _, name in imports_of(path)
        if f"{name}.".startswith("aiohttp.")
    }
    assert rooms <= {"session"}


def test_every_import_is_seen() -> None:
    """The test sees relative and absolute imports, of modules and of names in them."""
    seen = {target_of(name) for name, _ in imports_of(ROOT / "decoding" / "chunks.py") if name}
    assert {("config",), ("errors",), ("sse",), ("types",), ("decoding", "repairs")} <= seen
    assert "msgspec" in {name for _, name in imports_of(ROOT / "sse.py")}
    assert ("__init__",) == target_of(("no_such_name",))
