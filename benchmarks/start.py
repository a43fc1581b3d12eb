"""What a program pays before its first request: CPU to import a client and make one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from .contest import Found, tabulate

__all__ = ["contend", "run"]

_TIMED = "import time; t = time.process_time(); {}; print(time.process_time() - t)"
PROGRAMS = {
    "ours": "from gradient_async import AsyncGradient; AsyncGradient(model_access_key='any')",
    "asyncio, msgspec": "import asyncio, msgspec",
    "aiohttp": "import aiohttp",
    "openai": "from openai import AsyncOpenAI; AsyncOpenAI(api_key='any')",
    "gradient": "from gradient import AsyncGradient; "
    "AsyncGradient(model_access_key='any', access_token='any', agent_endpoint='http://localhost')",
}


def _cost(program: str) -> float | None:
    done = subprocess.run(
        [sys.executable, "-c", _TIMED.format(program)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "ModuleNotFoundError" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


def contend(programs: tuple[str, ...], rounds: int) -> Found:
    """Run programs in turns, each in a fresh process; what is not installed is left out.

    Args:
        programs: Their names.
        rounds: How many rounds.
    """
    found: Found = {}
    for turn in range(rounds):
        first = turn % len(programs)
        for name in (*programs[first:], *programs[:first]):
            cost = _cost(PROGRAMS[name])
            if cost is not None:
                found.setdefault(name, []).append({"cpu_ms": cost * 1e3})
    return {name: found[name] for name in programs if name in found}


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure every program in turns; return a row each."""
    return tabulate(contend(tuple(PROGRAMS), rounds), "cpu_ms", case={}, to=("ours",), digits=1)
