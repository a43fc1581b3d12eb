"""What the client's options may be."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from ..config import Endpoints
from ..errors import ConfigurationError
from ..hooks import Hook
from ..secrets import Secret
from ..types import NotGiven

__all__ = [
    "check_hooks",
    "check_mappings",
    "conceal",
    "count",
    "hide",
    "no_key",
    "query",
    "refuse_http_client",
    "set_up_log",
]

P = ParamSpec("P")
T = TypeVar("T")

_KEYS = frozenset({"model_access_key", "agent_access_key", "access_token", "api_key"})


def set_up_log(environ: Mapping[str, str]) -> None:
    """Show the log on stderr if ``GRADIENT_LOG`` says so: ``debug`` or ``info``."""
    level = environ.get("GRADIENT_LOG", "").strip().upper()
    if level in {"DEBUG", "INFO"}:
        import logging  # noqa: PLC0415  # not before it is needed: making a client is to be quick

        logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
        logging.getLogger("gradient_async").setLevel(level)


def conceal(function: Callable[P, T]) -> Callable[P, T]:
    """Let what takes keys as arguments fail without them: a traceback may show the arguments."""

    @functools.wraps(function)
    def concealed(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except ConfigurationError as error:
            problem = error.message
        kwargs.clear()
        raise ConfigurationError(problem)

    return concealed


def refuse_http_client(http_client: object) -> None:
    """Raise for an argument of other clients that can't work here."""
    if http_client is not None:
        raise TypeError("http_client is not supported: pass session=aiohttp.ClientSession(...)")


def check_hooks(hooks: Iterable[Any]) -> tuple[Hook, ...]:
    """Return hooks that are such."""
    checked = tuple(hooks)
    for hook in checked:
        if not isinstance(hook, Hook):
            raise ConfigurationError(
                f"hooks: {type(hook).__name__} is no Hook; derive it from gradient_async.Hook"
            )
    return checked


def check_mappings(options: Mapping[str, Any]) -> None:
    """Raise `TypeError` for what adds to a call and does not tell names and values; it may be left out."""
    for name in ("extra_headers", "extra_query", "extra_body"):
        value = options.get(name)
        if value and not isinstance(value, Mapping):
            raise TypeError(f"{name}: expected a dict, not {type(value).__name__}")


def hide(options: Mapping[str, str | None]) -> dict[str, str | Secret | None]:
    """Keep keys in a form that shows them to nobody."""
    return {
        name: Secret(value, name) if value and value.strip() and name in _KEYS else value
        for name, value in options.items()
    }


def count(name: str, value: Any, *, least: int) -> int:
    """Return a whole number that is not too small."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name}={value!r}: expected a whole number of at least {least}")
    return value


def query(values: Mapping[str, object]) -> dict[str, str]:
    """Return parameters of a URL's query as text; those that are not given are left out."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None and not isinstance(value, NotGiven)
    }


def no_key(endpoints: Endpoints, *, agent: bool) -> str:
    """Say that a key is missing, and where it would come from."""
    if agent:
        return "no agent access key: pass agent_access_key=... or set GRADIENT_AGENT_ACCESS_KEY"
    return (
        f"no model access key for {endpoints.inference_url}: pass model_access_key=... or set "
        "GRADIENT_MODEL_ACCESS_KEY; a server that needs none takes any"
    )
