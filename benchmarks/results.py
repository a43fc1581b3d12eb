"""Results of a run: rows of figures, and what they were measured on; kept in a file, to write pages from."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["Results", "load", "save", "surroundings"]

_PACKAGES = ("aiohttp", "msgspec", "uvloop", "openai", "gradient", "aiohttp-sse-client")
_CPU = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)

Row = dict[str, Any]


class Results(msgspec.Struct, kw_only=True):
    """What was found.

    Attributes:
        surroundings: Versions and CPU.
        rows: Rows of figures, by benchmark.
    """

    surroundings: dict[str, str]
    rows: dict[str, list[Row]]


def surroundings() -> dict[str, str]:
    """Tell what the figures depend on: CPU, Python, packages; nothing that names a machine."""
    try:
        found = _CPU.search(Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:
        found = None
    told = {
        "CPU": f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores",
        "system": platform.system(),
        "Python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            told[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return told


def load(path: Path) -> Results:
    """Read results; none if there is no file."""
    if not path.exists():
        return Results(surroundings={}, rows={})
    return msgspec.json.decode(path.read_bytes(), type=Results)


def save(results: Results, path: Path) -> None:
    """Write results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
