"""Commands run in a test read nothing from the terminal of who runs the tests, and keep nothing in their home."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def at_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where ``chat`` keeps the last conversation; the standard input is empty."""
    for name in ("GRADIENT_MODEL", "GRADIENT_BASE_URL", "NO_COLOR", "FORCE_COLOR", "VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    state = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return state / "gradient-async"
