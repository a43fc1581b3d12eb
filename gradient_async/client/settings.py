"""The settings of one client, which are checked when they are made and never changed in place."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal, TypeVar, cast

import msgspec

from ..config import (
    DEFAULT_MAX_RETRIES,
    DEFAULT_TIMEOUT,
    VARIABLES,
    EndpointOptions,
    Endpoints,
    Limits,
    Retry,
    Timeout,
    replace_options,
    resolve,
)
from ..errors import ConfigurationError
from ..hooks import Hook
from ..secrets import check_headers
from ..session.pace import Pace
from ..types import is_given

T = TypeVar("T")


def check_count(name: str, value: Any, *, min_: int) -> int:
    """Return a whole number that is at least ``min_``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < min_:
        raise ConfigurationError(f"{name}={value!r}: expected a whole number of at least {min_}")
    return value


def check_choice(name: str, value: Any, *choices: str) -> Any:
    """Return a value that is one of the choices."""
    if value not in choices:
        expected = " or ".join(f'"{choice}"' for choice in choices)
        raise ConfigurationError(f"{name}={value!r}: expected {expected}")
    return value


def check_kind(name: str, value: Any, kind: type[T]) -> T:
    """Return a value that is of a class."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected gradient_async.{kind.__name__}(...), not {type(value).__name__}")
    return value


def check_function(name: str, value: Any) -> None:
    """Check that a value can be called, or is None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name}: expected a function, not {type(value).__name__}")


def check_hooks(hooks: Iterable[Any]) -> tuple[Hook, ...]:
    """Return hooks that are instances of `Hook`."""
    if not hasattr(hooks, "__iter__"):
        raise TypeError(f"hooks: expected a list of hooks, not one {type(hooks).__name__}")
    checked = tuple(hooks)
    for hook in checked:
        if isinstance(hook, type):
            raise ConfigurationError(
                f"hooks: {hook.__name__} is a class; pass an instance, {hook.__name__}()"
            )
        if not isinstance(hook, Hook):
            raise ConfigurationError(
                f"hooks: {type(hook).__name__} is not a Hook; derive it from gradient_async.Hook"
            )
    return checked


def check_query(query: Any) -> dict[str, Any]:
    """Return the parameters of a query after checking that all of them can be sent."""
    if not isinstance(query, Mapping):
        raise TypeError(f"default_query: expected a dict, not {type(query).__name__}")
    checked = dict(cast("Mapping[Any, Any]", query))
    for _ in query_pairs(checked):
        pass
    return checked


def query_pairs(query: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """Yield the parameters of a query as they are sent: one pair for each item of a list, and none for None.

    Raises:
        TypeError: If a value is neither a scalar nor a list of scalars.
        ConfigurationError: If a text cannot be encoded.
    """
    for name, value in query.items():
        if not isinstance(name, str):
            raise TypeError(f"parameter of the query: expected a str, not {type(name).__name__}")
        if value is None or not is_given(value):
            continue
        if not isinstance(value, (list, tuple)):
            yield _query_text(name, name), _query_text(name, value)
            continue
        for index, item in enumerate(cast("Sequence[Any]", value)):
            if is_given(item):
                yield _query_text(name, name), _query_text(f"{name}[{index}]", item)


def _query_text(path: str, value: Any) -> str:
    # `str` of an Enum member may return its name, so the methods of str, int and float are called instead.
    if isinstance(value, str):
        text = str.__str__(value)
        if not _SURROGATES.search(text):
            return text
        raise ConfigurationError(
            f"parameter {path!r} of the query has half a surrogate pair, which cannot be encoded"
        )
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return int.__repr__(value) if isinstance(value, int) else float.__repr__(value)
    raise TypeError(
        f"parameter {path!r} of the query: expected text, a number, a bool, or a list of these, not {type(value).__name__}"
    )


_SURROGATES = re.compile("[\ud800-\udfff]")
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "timeout": Timeout.of,
    "max_retries": lambda value: check_count("max_retries", value, min_=0),
    "retry": lambda value: check_kind("retry", value, Retry),
    "limits": lambda value: check_kind("limits", value, Limits),
    "on_bad_event": lambda value: check_choice("on_bad_event", value, "raise", "skip"),
    "default_headers": check_headers,
    "default_query": check_query,
    "hooks": check_hooks,
    "pace": lambda value: check_kind("pace", value, Pace),
}
# `timeout=None` turns the time limits off. `max_retries=None` is refused: it may mean 0 or no limit.
NONE_IS_A_VALUE = frozenset({"timeout", "max_retries"})


class Environment(dict[str, str]):
    """The variables of the environment that a client may read, as they were when it was made. Its repr hides the keys.

    A client, its copies and its pickles keep them, so that a change of one key or URL never changes another, wherever the
    client is used.
    """

    def __init__(self) -> None:
        super().__init__(
            (name, os.environ[name]) for names in VARIABLES.values() for name in names if name in os.environ
        )

    def __repr__(self) -> str:
        return f"<Environment {sorted(self)}>"


class Settings(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The checked options of one client.

    Settings are frozen, so that a `RequestTemplate` detects other settings by their identity. Only the dictionaries
    may be changed in place: ``client.default_headers["X-Team"] = "search"``.

    Attributes:
        endpoint_options: The endpoints and keys that the caller passed; a copy of the client adds to them.
        environment: The variables of the environment when the client was made.
        endpoints: The endpoints and keys in use: the caller's, else those of the environment.
    """

    endpoint_options: EndpointOptions
    environment: Environment
    endpoints: Endpoints
    allow_insecure_http: bool
    timeout: Timeout = DEFAULT_TIMEOUT
    max_retries: int = DEFAULT_MAX_RETRIES
    retry: Retry = Retry()
    limits: Limits = Limits()
    strict: bool = False
    validate: bool = True
    on_bad_event: Literal["raise", "skip"] = "raise"
    keep_body: bool = False
    default_headers: dict[str, Any] = {}
    default_query: dict[str, object] = {}
    hooks: tuple[Hook, ...] = ()
    pace: Pace | None = None

    def changed(self, **options: Any) -> Settings:
        """Check options and return settings with them; None or `NOT_GIVEN` leaves an option as it is."""
        changes: dict[str, Any] = {}
        for name, value in options.items():
            if not is_given(value) or (value is None and name not in NONE_IS_A_VALUE):
                continue
            changes[name] = _CHECKS[name](value) if name in _CHECKS else value
        return msgspec.structs.replace(self, **changes)

    def with_default(self, name: str) -> Settings:
        """Return settings in which one option has its default."""
        defaults = Settings(
            endpoint_options={},
            environment=self.environment,
            endpoints=self.endpoints,
            allow_insecure_http=self.allow_insecure_http,
        )
        return msgspec.structs.replace(self, **{name: getattr(defaults, name)})

    def with_endpoints(self, options: EndpointOptions) -> Settings:
        """Return settings with some endpoints and keys replaced. None stands for the value that the environment had."""
        options = replace_options(self.endpoint_options, options)
        endpoints = resolve(options, self.environment, allow_insecure_http=self.allow_insecure_http)
        return msgspec.structs.replace(self, endpoint_options=options, endpoints=endpoints)

    def __deepcopy__(self, memo: dict[int, Any]) -> Settings:
        # Hooks are shared: the program does not see what a copy of a hook observes, and a hook may hold objects that
        # can't be copied.
        headers, query = dict(self.default_headers), deepcopy(self.default_query, memo)
        return msgspec.structs.replace(self, default_headers=headers, default_query=query)

    def __repr__(self) -> str:
        # The repr has no headers: a traceback may show the repr, and a header that was added in place may hold a key.
        return f"<Settings {self.endpoints.inference_url}>"

    @property
    def agent_url(self) -> str:
        """The base of the agent's URLs.

        Raises:
            ConfigurationError: If no agent is set.
        """
        url = self.endpoints.agent_url
        if url is None:
            raise ConfigurationError(
                "no agent endpoint: pass agent_endpoint=... or set GRADIENT_AGENT_ENDPOINT"
            )
        return url
