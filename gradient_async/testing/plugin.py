"""The pytest plugin: the fixture `gradient_server`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .server import ThreadedServer, serve


@pytest.fixture
def gradient_server_options() -> dict[str, Any]:
    """Keyword arguments of `serve` for `gradient_server`; override the fixture to change them."""
    return {}


@pytest.fixture
def gradient_server(gradient_server_options: dict[str, Any]) -> Iterator[ThreadedServer]:
    """A running server, for tests of any kind: its ``url``, its ``requests``, ``push(...)`` for replies."""
    with serve(**gradient_server_options) as server:
        yield server
