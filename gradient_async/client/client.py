"""`AsyncGradient`, the client: it checks the options, and holds the resources."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, cast

import msgspec

from ..config import DEFAULT_MAX_RETRIES, Limits, Retry, Timeout, resolve, url_text
from ..errors import ConfigurationError
from ..hooks import Hook
from ..secrets import Secret, unwrap
from ..session.pace import Pace
from ..stream import AsyncOnly
from ..types import NOT_GIVEN, is_given
from .completions import Agents, Chat, Completions
from .core import Connections, Core
from .hints import CLIENT, Hinted, check_assignment, given_options
from .models import Models
from .raw import RawClient, StreamingClient
from .settings import NONE_IS_A_VALUE, Environment, Settings, check_count

if TYPE_CHECKING:
    from aiohttp import ClientSession

P = ParamSpec("P")
T = TypeVar("T")

_KEYS = frozenset({"model_access_key", "agent_access_key", "access_token", "api_key"})


def set_up_log(environ: Mapping[str, str]) -> None:
    """Log to stderr if ``GRADIENT_LOG`` is ``debug`` or ``info``."""
    level = environ.get("GRADIENT_LOG", "").strip().upper()
    if level in {"DEBUG", "INFO"}:
        logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
        logging.getLogger("gradient_async").setLevel(level)


set_up_log(os.environ)


def conceal(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function so that its errors have no traceback of its frames, whose local variables hold keys."""

    @functools.wraps(function)
    def concealed(*args: P.args, **kwargs: P.kwargs) -> T:
        problem: ConfigurationError | TypeError | AttributeError
        try:
            return function(*args, **(given_options(kwargs) if kwargs else kwargs))
        except (ConfigurationError, TypeError, AttributeError) as error:
            problem = type(error)(str(error))
        del args, kwargs
        raise problem

    return concealed


def _hide(options: Mapping[str, Any]) -> dict[str, str | Secret | None]:
    """Replace keys among the options by secrets, URLs by text, and missing values by None."""
    hidden: dict[str, str | Secret | None] = {}
    for name, value in options.items():
        if name in _KEYS:
            value = unwrap(value)  # noqa: PLW2901  # no second local that holds a key
        if value is None or not is_given(value) or (isinstance(value, str) and not value):
            hidden[name] = None
        else:
            hidden[name] = Secret(value, name) if name in _KEYS else url_text(name, value)
    return hidden


def _replaced_or_added(
    name: str, current: Mapping[str, Any], set_: Mapping[str, Any] | None, more: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return a new dictionary: the one that replaces the current one, or the current one with additions.

    The caller may change the current dictionary in place later, so it is never returned itself.
    """
    if set_ is None:
        return {**current, **(more or {})}
    if more is not None:
        raise ConfigurationError(f"pass {name} or set_{name}, not both")
    return {**set_}


def _setting(name: str) -> Any:
    """Return a property of the client that reads and changes a setting of its core, where the resources read it."""

    def read(self: Attributes) -> Any:
        return getattr(self._core.settings, name)

    def change(self: Attributes, value: Any) -> None:
        settings = self._core.settings
        unset = not is_given(value) or (value is None and name not in NONE_IS_A_VALUE)
        changed = settings.with_default(name) if unset else settings.changed(**{name: value})
        self._core.settings = changed
        self._previous[name] = settings

    return property(read, change, _undo(name, (name,)))


def _undo(name: str, fields: tuple[str, ...]) -> Callable[[Attributes], None]:
    """Return a deleter of an attribute, which undoes its last assignment: so `patch.object` gives the value back."""

    def undo(self: Attributes) -> None:
        previous = self._previous.pop(name, None)
        if previous is None:
            raise AttributeError(f"{name} was not assigned, so there is nothing to delete")
        values = {field: getattr(previous, field) for field in fields}
        self._core.settings = msgspec.structs.replace(self._core.settings, **values)

    return undo


def resource(name: str) -> Any:
    """Return a property of a client for a resource, which code such as a test may replace by an object of its own.

    It is a property, because `create_autospec(AsyncGradient)` does not see attributes of an instance, or the type of a
    cached property.
    """

    def read(self: Any) -> Any:
        return self._resources[name]

    def change(self: Any, value: Any) -> None:
        self._resources[name] = value

    def restore(self: Any) -> None:
        self._resources[name] = self._make_resources()[name]

    return property(read, change, restore)


_RESOURCES: dict[str, Callable[[Core], Any]] = {
    "chat": lambda core: Chat(Completions(core)),
    "agents": Agents,
    "models": Models,
    "with_raw_response": RawClient,
    "with_streaming_response": StreamingClient,
}


def _endpoint(name: str, read: Callable[[Settings], str | Secret | None]) -> Any:
    """Return a property of the client for a URL or a key, which is shown in plain text."""

    def get(self: Attributes) -> str | None:
        value = read(self._core.settings)
        return value.reveal() if isinstance(value, Secret) else value

    def change(self: Attributes, value: Any) -> None:
        settings = self._core.settings
        self._core.settings = settings.with_endpoints(_hide({name: value}))
        self._previous[name] = settings

    return property(get, change, _undo(name, ("endpoint_options", "endpoints")))


class Attributes:
    """The settings of a client as its attributes; a change applies to later calls.

    Attributes:
        _core: The core, which has the settings.
        _previous: The settings before the last assignment of an attribute.
    """

    _core: Core
    _previous: dict[str, Settings]

    model_access_key: str | None = _endpoint(
        "model_access_key", lambda settings: settings.endpoints.model_key
    )
    api_key: str | None = _endpoint("api_key", lambda settings: settings.endpoints.model_key)
    agent_access_key: str | None = _endpoint(
        "agent_access_key", lambda settings: settings.endpoints.agent_key
    )
    access_token: str | None = _endpoint("access_token", lambda settings: settings.endpoints.access_token)
    base_url: str = _endpoint("base_url", lambda settings: settings.endpoints.inference_url)
    inference_endpoint: str = _endpoint(
        "inference_endpoint", lambda settings: settings.endpoints.inference_url.removesuffix("/v1")
    )
    agent_endpoint: str | None = _endpoint(
        "agent_endpoint",
        lambda settings: (
            settings.endpoints.agent_url and settings.endpoints.agent_url.removesuffix("/api/v1")
        ),
    )

    timeout: Timeout = _setting("timeout")
    max_retries: int = _setting("max_retries")
    retry: Retry = _setting("retry")
    limits: Limits = _setting("limits")
    strict: bool = _setting("strict")
    validate: bool = _setting("validate")
    on_bad_event: Literal["raise", "skip"] = _setting("on_bad_event")
    keep_body: bool = _setting("keep_body")
    default_headers: dict[str, Any] = _setting("default_headers")
    default_query: dict[str, object] = _setting("default_query")
    hooks: tuple[Hook, ...] = _setting("hooks")
    pace: Pace | None = _setting("pace")


# A copy or an unpickled client gets new values of these attributes.
INTERNAL = frozenset({"_core", "_is_copy", "_previous", "_resources"})


def core_of(client: Attributes) -> Core:
    """Return the core of a client, for the rooms that are built on the client."""
    return cast("Core", vars(client)["_core"])


class AsyncGradient(AsyncOnly, Attributes, Hinted):
    """Client of DigitalOcean Gradient's chat completions.

    You can make a client at import time, outside any event loop, and use it in several loops. Each loop has
    its own connections, which are opened on first use and closed with the loop at the latest. An option that
    is not given is read from its environment variable, if it has one, and otherwise has a default.

    A client can be pickled and deep-copied at any time, unless it has a ``session`` of yours. The result has the same
    settings, keys included, and connections of its own.

    The resources are ``chat`` with the completions of models, ``agents`` with those of the agent at
    ``agent_endpoint``, and ``models``. Under ``with_raw_response`` the same resources return status, headers and
    body, and ``await .parse()`` gives the result; under ``with_streaming_response`` they are for ``async with``, and
    return a response whose body has not been read. Each resource is the same object at each access.

    The settings ``timeout``, ``max_retries``, ``retry``, ``limits``, ``strict``, ``validate``,
    ``on_bad_event``, ``keep_body``, ``default_headers``, ``default_query``, ``hooks`` and ``pace`` are also attributes, and so
    are all keys and URLs, in plain text. ``model_access_key`` and ``api_key`` are the key for inference; ``base_url`` is the URL to
    which the paths of inference requests are appended; ``inference_endpoint`` and ``agent_endpoint`` are the URLs without the
    version, the latter None if no agent is set. A change of an attribute applies to later calls. A key
    or URL that is set takes effect as in `with_options`. None means the default, or the key or URL that the environment
    had when the client was made; for ``timeout`` it means no limits.

    Args:
        model_access_key: Key for inference; variable ``GRADIENT_MODEL_ACCESS_KEY``.
        agent_access_key: Key for an agent; variable ``GRADIENT_AGENT_ACCESS_KEY``.
        access_token: Personal access token, which also permits inference; variable
            ``DIGITALOCEAN_ACCESS_TOKEN``.
        api_key: The same as ``model_access_key``, under the name that other clients use.
        inference_endpoint: URL of the models' server; variable ``GRADIENT_INFERENCE_ENDPOINT``.
        agent_endpoint: URL of the agent; variable ``GRADIENT_AGENT_ENDPOINT``.
        base_url: URL of any compatible server, which replaces endpoint and version; variable
            ``GRADIENT_BASE_URL``.
        timeout: A `Timeout`, seconds, or None for no limits.
        max_retries: Maximum number of attempts after the first.
        retry: When to retry, and how long to wait before a retry.
        max_connections: Maximum number of connections in one loop; further calls wait for a free connection.
        limits: Limits on what a server may send.
        strict: Require a finish_reason for every choice, and valid UTF-8.
        validate: Check parameters against their documented limits before sending.
        on_bad_event: For an event of a stream that is not a chunk: ``"raise"`` an error, or ``"skip"`` the event.
        keep_body: Let each chunk of a stream keep its JSON in ``chunk.body``, with the fields for which this
            library has no names; decoding then takes longer. Awaited replies always have their ``body``.
        default_headers: Headers of every request.
        default_query: Query parameters of every request.
        session: Your own ``aiohttp.ClientSession``, which the client never closes.
        trust_env: Read proxies and their passwords from the environment.
        allow_insecure_http: Send the key over plain http to a host that is not private.
        hooks: Observers of calls; see `Hook`.
        pace: Rates that the calls of this client share with everything else that has the same `Pace`.
        http_client: Not supported; pass ``session``.

    Raises:
        ConfigurationError: If an option can't be used. If the key is missing, the first call raises.
    """

    _hints = CLIENT
    _is_copy: bool
    _resources: dict[str, Any]

    chat: Chat[Completions] = resource("chat")
    agents: Agents = resource("agents")
    models: Models = resource("models")
    with_raw_response: RawClient = resource("with_raw_response")
    with_streaming_response: StreamingClient = resource("with_streaming_response")

    @conceal
    def __init__(
        self,
        *,
        model_access_key: str | None = None,
        agent_access_key: str | None = None,
        access_token: str | None = None,
        api_key: str | None = None,
        inference_endpoint: str | None = None,
        agent_endpoint: str | None = None,
        base_url: str | None = None,
        timeout: Timeout | float | Any | None = NOT_GIVEN,
        max_retries: int = DEFAULT_MAX_RETRIES,
        retry: Retry | None = None,
        max_connections: int = 1000,
        limits: Limits | None = None,
        strict: bool = False,
        validate: bool = True,
        on_bad_event: Literal["raise", "skip"] = "raise",
        keep_body: bool = False,
        default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        session: ClientSession | None = None,
        trust_env: bool = False,
        allow_insecure_http: bool = False,
        hooks: Iterable[Hook] = (),
        pace: Pace | None = None,
        http_client: None = None,  # noqa: ARG002  # `given_options` refuses it
    ) -> None:
        endpoint_options = _hide(
            {
                "model_access_key": model_access_key,
                "agent_access_key": agent_access_key,
                "access_token": access_token,
                "api_key": api_key,
                "inference_endpoint": inference_endpoint,
                "agent_endpoint": agent_endpoint,
                "base_url": base_url,
            }
        )
        environment = Environment()
        settings = Settings(
            endpoint_options=endpoint_options,
            environment=environment,
            endpoints=resolve(endpoint_options, environment, allow_insecure_http=allow_insecure_http),
            allow_insecure_http=allow_insecure_http,
        ).changed(
            timeout=timeout,
            max_retries=max_retries,
            retry=retry,
            limits=limits,
            strict=strict,
            validate=validate,
            on_bad_event=on_bad_event,
            keep_body=keep_body,
            default_headers=default_headers,
            default_query=default_query,
            hooks=hooks,
            pace=pace,
        )
        check_count("max_connections", max_connections, min_=1)
        if session is not None and not hasattr(session, "closed"):
            raise TypeError(f"session: expected an aiohttp.ClientSession, not {type(session).__name__}")
        connections = Connections(session, max_connections, trust_env=trust_env, limits=settings.limits)
        self._use(Core(settings, connections), is_copy=False)

    def _use(self, core: Core, *, is_copy: bool) -> None:
        """Set the core, and make the resources that use it."""
        vars(self).update(_core=core, _is_copy=is_copy, _previous={})  # skips the checks of `__setattr__`
        # Each resource is made once, so that code that replaces one of its methods, such as a test with a mock, affects
        # all later calls.
        vars(self).update(_resources=self._make_resources())

    def _make_resources(self) -> dict[str, Any]:
        return {name: make(self._core) for name, make in _RESOURCES.items()}

    # Copies

    @conceal
    def with_options(
        self,
        *,
        model_access_key: str | None = None,
        agent_access_key: str | None = None,
        access_token: str | None = None,
        api_key: str | None = None,
        inference_endpoint: str | None = None,
        agent_endpoint: str | None = None,
        base_url: str | None = None,
        timeout: Timeout | float | Any | None = NOT_GIVEN,
        max_retries: int | Any = NOT_GIVEN,
        retry: Retry | None = None,
        limits: Limits | None = None,
        strict: bool | None = None,
        validate: bool | None = None,
        on_bad_event: Literal["raise", "skip"] | None = None,
        keep_body: bool | None = None,
        default_headers: Mapping[str, str] | None = None,
        set_default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        set_default_query: Mapping[str, object] | None = None,
        hooks: Iterable[Hook] | None = None,
        pace: Pace | None = None,
        http_client: None = None,  # noqa: ARG002  # `given_options` refuses it
    ) -> Self:
        """Return a copy of the client that has some options changed and shares the connections.

        Each key and URL that is given replaces the one that the client used before: ``api_key`` and ``access_token``
        replace its key for inference, an endpoint also its ``base_url``, and ``base_url`` its endpoints. Closing the
        copy closes nothing. ``default_headers`` and ``default_query`` are added to those of this client;
        ``set_default_headers`` and ``set_default_query`` replace them, and can't be passed together with the former.
        The other options are the same as in the constructor.

        Raises:
            ConfigurationError: If an option can't be used.
        """
        endpoint_options = {
            "model_access_key": model_access_key,
            "agent_access_key": agent_access_key,
            "access_token": access_token,
            "api_key": api_key,
            "inference_endpoint": inference_endpoint,
            "agent_endpoint": agent_endpoint,
            "base_url": base_url,
        }
        settings = self._core.settings
        changed_endpoints = {name: value for name, value in endpoint_options.items() if value is not None}
        if changed_endpoints:
            settings = settings.with_endpoints(_hide(changed_endpoints))
        settings = settings.changed(
            timeout=timeout,
            max_retries=max_retries,
            retry=retry,
            limits=limits,
            strict=strict,
            validate=validate,
            on_bad_event=on_bad_event,
            keep_body=keep_body,
            default_headers=_replaced_or_added(
                "default_headers", settings.default_headers, set_default_headers, default_headers
            ),
            default_query=_replaced_or_added(
                "default_query", settings.default_query, set_default_query, default_query
            ),
            hooks=hooks,
            pace=pace,
        )
        copy = object.__new__(type(self))
        vars(copy).update(vars(self))  # copies the attributes that a subclass may have
        copy._use(Core(settings, self._core.connections), is_copy=True)
        return copy

    copy = with_options

    def __copy__(self) -> Self:
        return self.with_options()

    # Pickling and deep copies take the settings, keys included, and leave the connections behind: see `Core.__reduce__`. A
    # copy by `with_options` becomes a client of its own, which closes its connections itself.

    def __getstate__(self) -> tuple[dict[str, Any], Core]:
        return {name: value for name, value in vars(self).items() if name not in INTERNAL}, self._core

    def __setstate__(self, state: tuple[dict[str, Any], Core]) -> None:
        own, core = state
        vars(self).update(own)
        self._use(core, is_copy=False)

    # Closing

    async def close(self) -> None:
        """Close the connections and every open stream; on a copy, do nothing.

        Event loops of other threads close their own connections and streams; this method waits for them, at most one
        second. A loop that is blocked or stopped closes its connections when it runs again.
        """
        if not self._is_copy:
            await self._core.connections.close()

    aclose = close

    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._core.connections.closed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    if not TYPE_CHECKING:  # with `__setattr__`, type checkers would accept every name

        @conceal
        def __setattr__(self, name: str, value: object) -> None:
            check_assignment(name)
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        # A traceback may show this repr while `__init__` runs and has not set `_core`.
        core = getattr(self, "_core", None)
        return f"<AsyncGradient {'unfinished' if core is None else core.settings.endpoints.inference_url}>"
