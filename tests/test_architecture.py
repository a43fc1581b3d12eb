"""The rows of `docs/architecture.md`: who may import whom."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import aiohttp
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


INTERNALS = ROOT / "session" / "aiohttp_internals.py"


def private_names(tree: ast.AST, *, of_self: bool) -> set[str]:
    """Return the underscore names of a tree that are read or set as attributes, imported, or given as texts.

    Args:
        tree: What to look through.
        of_self: Whether to look for attributes of ``self`` and ``cls``, and for what a class defines, instead.
    """
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                names |= {name} if of_self else set()
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.AnnAssign(target=ast.Name(id=name))
                | ast.Assign(targets=[ast.Name(id=name)])
            ):
                names |= {name} if of_self else set()
            case ast.Attribute(attr=name) | ast.alias(name=name) if not of_self:
                names.add(name)
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"),
                args=[owner, ast.Constant(value=str(name)), *_],
            ):
                by_self = isinstance(owner, ast.Name) and owner.id in {"self", "cls"}
                names |= {name} if by_self == of_self else set()
            case ast.Subscript(value=ast.Call(func=ast.Name(id="vars")), slice=ast.Constant(value=str(name))):
                names.add(name)
            case _:
                pass
    return {name for name in names if name.startswith("_") and not name.endswith("__")}


@cache
def names_of_aiohttp() -> set[str]:
    """Return every underscore name that aiohttp defines or sets on one of its objects."""
    sources = [path.read_text("utf-8") for path in Path(aiohttp.__file__).parent.glob("*.py")]
    return set[str]().union(*(private_names(ast.parse(source), of_self=True) for source in sources))


def used_of_aiohttp(source: str) -> set[str]:
    """Return the underscore names of aiohttp that a module uses of other objects, or in classes made of aiohttp's."""
    tree = ast.parse(source)
    used = private_names(tree, of_self=False)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).startswith(("aiohttp", "connector"))
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = {name.id for base in node.bases for name in ast.walk(base) if isinstance(name, ast.Name)}
            used |= private_names(node, of_self=True) if bases & imported else set()
    return used & names_of_aiohttp()


def test_what_is_private_of_aiohttp_is_used_in_one_file() -> None:
    """Behind one switch: whatever else the package uses of aiohttp may be relied on in other versions too."""
    modules = [path for path in MODULES if ROWS[name_of(path)[0]] > PURE]
    used = {path: used_of_aiohttp(path.read_text("utf-8")) for path in modules}
    assert {} == {path.name: names for path, names in used.items() if names and path != INTERNALS}
    assert {"_factory", "_loop", "_pause_transport_reading", "_request"} <= used[INTERNALS]


def test_every_use_of_what_is_private_is_seen() -> None:
    """As an attribute, as a text, as an import, and in a class made of one of aiohttp's."""
    for source in (
        "connector._factory",
        'getattr(session, "_loop", None)',
        'vars(session)["_loop"]',
        "from aiohttp.client import _merge_ssl_params",
        "import aiohttp\nclass Mine(aiohttp.TCPConnector):\n def __init__(self):\n  self._conns = {}",
        "from aiohttp import connector\nclass Mine(connector.TCPConnector):\n async def _get(self): ...",
        "from .connector import Connector\nclass Mine(Connector):\n def _get(self): ...",
        "from aiohttp import Payload\nclass Mine(Payload):\n _size = 1",
    ):
        assert 1 == len(used_of_aiohttp(source)), source
    assert set() == used_of_aiohttp("class Mine(list[int]):\n def __init__(self):\n  self._conns = {}")


def test_no_private_name_is_excused() -> None:
    assert {INTERNALS} == {path for path in ROOT.rglob("*.py") if "SLF001" in path.read_text("utf-8")}


def test_every_import_is_seen() -> None:
    """The tests see relative and absolute imports, of modules and of names in them."""
    assert {("config",), ("errors",), ("sse",), ("types",), ("decoding", "normalize")} <= GRAPH[
        "decoding", "chunks"
    ]
    assert "msgspec" in {name for _, name in imports_of(ROOT / "sse.py")}
    assert ("__init__",) == target_of(("no_such_name",))
