"""The clients ``gradient`` and ``openai``, and `AsyncGradient` in the place of each, for tests that all four pass.

Tests in this folder that are named after a test of these packages check the facts which that test asserts. Where
`AsyncGradient` differs, ``docs/moving.md`` has a row, which the test names with `differs`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

__all__ = ["ALL", "DIFFERENCES", "GRADIENT", "KEYS", "OPENAI", "OURS", "Sdk", "create", "differs"]

T = TypeVar("T", bound=Callable[..., Any])

KEYS = {
    "gradient": {
        "access_token": "My Access Token",
        "model_access_key": "My Model Access Key",
        "agent_access_key": "My Agent Access Key",
    },
    "openai": {"api_key": "My API Key"},
}
_CLASSES = {"gradient": "AsyncGradient", "openai": "AsyncOpenAI"}


@dataclass(frozen=True)
class Sdk:
    """A package, and for which package the code that uses it was written.

    Attributes:
        package: Name of the package.
        style: ``gradient`` or ``openai``, which have other names for the keys.
    """

    package: str
    style: str

    @property
    def module(self) -> Any:
        """The package, imported."""
        return importlib.import_module(self.package)

    @property
    def key(self) -> str:
        """The key that a completion is requested with."""
        return KEYS[self.style]["model_access_key" if self.style == "gradient" else "api_key"]

    def client(self, url: str = "http://127.0.0.1:9", **options: Any) -> Any:
        """Make a client with all keys; the URL is a server's, to which the version is added."""
        # With `AsyncGradient`, the wait that a server asks for is the shortest wait; with the others it is the wait.
        if self.package == "gradient_async":
            options.setdefault("retry", self.module.Retry(max_backoff=0.001))
        kind = getattr(self.module, _CLASSES.get(self.package, "AsyncGradient"))
        return kind(**{"base_url": f"{url}/v1", **KEYS[self.style], **options})


def _parameter(package: str, style: str) -> Any:
    missing = importlib.util.find_spec(package) is None
    marks = [
        pytest.mark.skipif(missing, reason=f"{package} is not installed"),
        pytest.mark.filterwarnings("default"),
    ]
    own = package == "gradient_async"
    name = f"gradient_async as {style}" if own else package
    return pytest.param(Sdk(package, style), marks=[] if own else marks, id=name)


GRADIENT, OPENAI = (
    pytest.mark.parametrize("sdk", [_parameter(package, style) for package in ("gradient_async", style)])
    for style in KEYS
)
"""Run a test with `AsyncGradient` as for one of the packages, and with that package if it is installed."""

OURS = pytest.mark.parametrize("sdk", [_parameter("gradient_async", style) for style in KEYS])
"""Runs a test with `AsyncGradient`, written as for either package."""

ALL = pytest.mark.parametrize(
    "sdk", [_parameter(package, style) for style in KEYS for package in ("gradient_async", style)]
)
"""Runs a test with `AsyncGradient` as for either package, and with the packages that are installed."""


async def create(client: Any, **params: Any) -> Any:
    """Await the completion that the suites of both packages ask for."""
    return await client.chat.completions.create(
        messages=[{"role": "system", "content": "string"}], model="llama3-8b-instruct", **params
    )


DIFFERENCES: dict[str, list[str]] = {}
"""First cells of rows in ``docs/moving.md``, and the names of the tests that check them."""


def differs(*rows: str) -> Callable[[T], T]:
    """Mark a test that checks intended differences.

    Args:
        *rows: First cells of their rows in ``docs/moving.md``.
    """

    def mark(test: T) -> T:
        for row in rows:
            DIFFERENCES.setdefault(row, []).append(test.__name__)
        return test

    return mark
