"""What a program pays before its first request: CPU to import a client and make one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["run"]

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


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure every program in turns, the quickest of each counts; return a row each."""
    costs: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, program in PROGRAMS.items():
            cost = _cost(program)
            if cost is not None:
                costs.setdefault(name, []).append(cost)
    ours = min(costs["ours"])
    return [
        {
            "program": name,
            "cpu_ms": round(min(each) * 1e3, 1),
            "ours_to_it": round(ours / min(each), 2),
        }
        for name, each in costs.items()
    ]
