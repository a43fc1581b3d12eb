"""The pytest plugin: the fixture `gradient_server`.

pytest imports this module before anything measures coverage, so it imports nothing of the package until a
fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._threaded import ThreadedServer


@pytest.fixture
def gradient_server_options() -> dict[str, Any]:
    """Keyword arguments of `serve` for `gradient_server`; override the fixture to change them."""
    return {}


@pytest.fixture
def gradient_server(gradient_server_options: dict[str, Any]) -> Iterator[ThreadedServer]:
    """A running server, for tests of any kind: its ``url``, its ``requests``, ``push(...)`` for replies."""
    from .server import serve  # noqa: PLC0415  # see the module's docstring

    with serve(**gradient_server_options) as server:
        yield server
