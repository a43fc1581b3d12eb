"""The tables of docs/moving.md, and the programs behind their rows.

Each row has a program as it is written for the other package (``before``), and one as it is written here
(``after``). They may use ``await`` at their top level, and leave what they saw in ``seen``. A program is run a
second time without asyncio: ``await`` and ``async`` are taken out, and the names of classes and methods lose
their "Async".

The code in the cells of a row has to be code of its programs, or something that they saw.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp

import gradient_async
from gradient_async import testing
from gradient_async.testing import ThreadedServer

__all__ = ["PAGE", "PEERS", "Peer", "Row", "TableRow", "run", "table_rows", "unsaid"]

PAGE = Path(__file__).parents[2] / "docs" / "moving.md"
_WITHOUT_ASYNCIO = {
    "await ": "",
    "async with": "with",
    "async for": "for",
    "AsyncGradient": "Gradient",
    "AsyncOpenAI": "OpenAI",
    "AsyncStream": "Stream",
    "AsyncMock": "Mock",
    "inference.aio": "inference",
    "aclose": "close",
    "anext": "next",
    "aiter": "iter",
}


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING = _Missing()


@dataclass(frozen=True)
class Row:
    """The programs behind one row.

    Attributes:
        after: The program as it is written here.
        seen: What it leaves in ``seen``.
        before: The program as it is written for the other package; ``after`` itself if left out.
        seen_before: What ``before`` leaves in ``seen``; the same as ``after`` if left out.
        asyncio: Whether to run with asyncio.
        sync: Whether to run without asyncio.
        peers: The packages to run ``before`` with; all of the section if left out.
    """

    after: str
    seen: Any
    before: str | None = None
    seen_before: Any = _MISSING
    asyncio: bool = True
    sync: bool = True
    peers: tuple[str, ...] = ()

    @property
    def program_before(self) -> str:
        return self.after if self.before is None else self.before

    @property
    def expected_before(self) -> Any:
        return self.seen if self.seen_before is _MISSING else self.seen_before


@dataclass(frozen=True)
class Peer:
    """A package, and how its clients are made.

    Attributes:
        module: Name of the package.
        asynchronous: Module and name of its asynchronous client.
        synchronous: Module and name of its synchronous client.
        options: Arguments that lead a client to a server.
    """

    module: str
    asynchronous: tuple[str, str]
    synchronous: tuple[str, str]
    options: Callable[[str], dict[str, Any]]


PEERS = {
    "gradient_async": Peer(
        "gradient_async",
        ("gradient_async", "AsyncGradient"),
        ("gradient_async", "Gradient"),
        lambda url: {
            "inference_endpoint": url,
            "agent_endpoint": url,
            "model_access_key": "model-key",
            "agent_access_key": "agent-key",
        },
    ),
    "gradient": Peer(
        "gradient",
        ("gradient", "AsyncGradient"),
        ("gradient", "Gradient"),
        lambda url: {
            "base_url": f"{url}/v1",
            "model_access_key": "model-key",
            "agent_access_key": "agent-key",
        },
    ),
    "openai": Peer(
        "openai",
        ("openai", "AsyncOpenAI"),
        ("openai", "OpenAI"),
        lambda url: {"base_url": f"{url}/v1", "api_key": "model-key"},
    ),
    "pydo": Peer(
        "pydo",
        ("pydo.inference.aio", "Client"),
        ("pydo.inference", "Client"),
        lambda url: {"inference_endpoint": url, "agent_endpoint": url, "token": "model-key"},
    ),
}


@dataclass(frozen=True)
class TableRow:
    """A row of the page.

    Attributes:
        section: Heading of its section.
        kind: Heading of the first column.
        cells: The cells.
    """

    section: str
    kind: str
    cells: tuple[str, ...]

    @property
    def key(self) -> str:
        return self.cells[0]


def table_rows(page: str) -> list[TableRow]:
    """Read the rows of all tables of a page."""
    found: list[TableRow] = []
    section = kind = ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if not line.startswith("|"):
            kind = ""
            continue
        cells = tuple(cell.strip().replace(r"\|", "|") for cell in line.strip("|").split(" | "))
        if not kind:
            kind = cells[0]
        elif not set(line) <= set("|-"):
            found.append(TableRow(section, kind, cells))
    return found


def unsaid(cells: str, program: str, seen: Any) -> list[str]:
    """Return the code in cells that a program neither has nor saw; ``...`` stands for anything."""
    text = " ".join(f"{re.sub('#.*', '', program)} {seen!r}".split())
    spans: list[str] = re.findall(r"`([^`]+)`", cells)
    return [
        span
        for span in spans
        if not re.search(re.escape(" ".join(span.split())).replace(r"\.\.\.", ".*?"), text)
    ]


def run(program: str, name: str, server: ThreadedServer, *, synchronous: bool) -> Any:
    """Run a program with a package; return what it saw."""
    peer = PEERS[name]
    home, attribute = peer.synchronous if synchronous else peer.asynchronous
    kind = getattr(importlib.import_module(home), attribute)
    made: list[Any] = []

    def make(**options: Any) -> Any:
        client = kind(**{**peer.options(server.url), **options})
        made.append(client)
        return client

    def bare(**options: Any) -> Any:
        made.append(kind(**options))
        return made[-1]

    messages = [{"role": "user", "content": "Count to three."}]
    names: dict[str, Any] = {
        "__name__": "__row__",
        "server": server,
        "make": make,
        "bare": bare,
        "package": importlib.import_module(peer.module),
        "messages": messages,
        "ask": {"model": "m", "messages": messages},
        "os": os,
        "json": json,
        "asyncio": asyncio,
        "aiohttp": aiohttp,
        "mock": mock,
        "gradient_async": gradient_async,
        **{each: getattr(testing, each) for each in testing.__all__},
    }
    if synchronous:
        for old, new in _WITHOUT_ASYNCIO.items():
            program = program.replace(old, new)
    program = program.replace("{package}", peer.module)
    code = compile(program, "<row>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def main() -> None:
        names["client"] = make()
        try:
            if code.co_flags & inspect.CO_COROUTINE:
                await eval(code, names)  # noqa: S307  # a program of ours
            else:
                exec(code, names)  # noqa: S102  # a program of ours
        finally:
            for client in made:
                closing = client.close()
                if inspect.isawaitable(closing):
                    await closing

    if synchronous:
        names["client"] = make()
        try:
            exec(code, names)  # noqa: S102  # a program of ours
        finally:
            for client in made:
                client.close()
    else:
        asyncio.run(main())
    return names["seen"]
