"""The client: settings in, calls out."""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from ..config import Limits, Retry, Timeout, resolve
from ..errors import ConfigurationError
from ..hooks import Hook
from ..secrets import Secret, check_headers
from ..session.call import Call, Lease
from ..types import NOT_GIVEN, NotGiven
from .options import check_hooks, conceal, count, hide, refuse_http_client, set_up_log
from .shared import Shared
from .target import Target, make_target

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from ..session.reply import Reply
    from .models import Models
    from .raw import RawClient, StreamingClient
    from .resources import Agents, Chat

__all__ = ["AsyncGradient"]

set_up_log(os.environ)


class AsyncGradient:
    """Client of DigitalOcean Gradient's chat completions.

    May be made at import time, outside any event loop, and used in several: connections are opened on
    first use, per running loop, and close with their loop at the latest. Options that are not given come
    from the environment, then have a default; the guide lists the variables.

    Args:
        model_access_key: Key for inference: ``GRADIENT_MODEL_ACCESS_KEY``.
        agent_access_key: Key for an agent: ``GRADIENT_AGENT_ACCESS_KEY``.
        access_token: Personal access token, which opens inference too: ``DIGITALOCEAN_ACCESS_TOKEN``.
        api_key: The same as ``model_access_key``, as other clients call it.
        inference_endpoint: Where models are: ``GRADIENT_INFERENCE_ENDPOINT``.
        agent_endpoint: Where the agent is: ``GRADIENT_AGENT_ENDPOINT``.
        base_url: Replaces endpoint and version together, for any compatible server: ``GRADIENT_BASE_URL``.
        timeout: A `Timeout`, seconds, or None for no limits.
        max_retries: How many attempts may follow the first.
        retry: When and how long to try again.
        max_connections: Connections at a time in one loop; more calls wait for one to be free.
        limits: Most that a server may send.
        strict: Insist on a finish_reason for every choice, and on UTF-8.
        validate: Check parameters against their documented limits before sending.
        on_bad_event: ``"raise"``, or ``"skip"`` events of a stream that are no chunks.
        default_headers: Headers of every request.
        default_query: Query parameters of every request.
        session: Your own ``aiohttp.ClientSession``, which is never closed.
        trust_env: Use the proxies of the environment, and passwords for them.
        allow_insecure_http: Send the key over plain http to a host that is not private.
        hooks: Who is told what happens to calls; see `Hook`.
        http_client: Not supported: pass ``session``.

    Raises:
        ConfigurationError: If an option can't be used. A missing key is an error of the first call.
    """

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
        max_retries: int = 2,
        retry: Retry | None = None,
        max_connections: int = 1000,
        limits: Limits | None = None,
        strict: bool = False,
        validate: bool = True,
        on_bad_event: Literal["raise", "skip"] = "raise",
        default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        session: ClientSession | None = None,
        trust_env: bool = False,
        allow_insecure_http: bool = False,
        hooks: Iterable[Hook] = (),
        http_client: None = None,
    ) -> None:
        refuse_http_client(http_client)
        options: dict[str, str | None] = {
            "model_access_key": model_access_key,
            "agent_access_key": agent_access_key,
            "access_token": access_token,
            "api_key": api_key,
            "inference_endpoint": inference_endpoint,
            "agent_endpoint": agent_endpoint,
            "base_url": None if base_url is None else str(base_url),
        }
        self._options = hide(options)
        self._allow_insecure_http = allow_insecure_http
        self._endpoints = resolve(options, os.environ, allow_insecure_http=allow_insecure_http)
        self.timeout = Timeout() if isinstance(timeout, NotGiven) else Timeout.of(timeout)
        self.max_retries = count("max_retries", max_retries, least=0)
        self.retry = retry or Retry()
        self.limits = limits or Limits()
        self.strict = strict
        self.validate = validate
        if on_bad_event not in {"raise", "skip"}:
            raise ConfigurationError(f'on_bad_event={on_bad_event!r}: expected "raise" or "skip"')
        self.on_bad_event: Literal["raise", "skip"] = on_bad_event
        self.default_headers = check_headers(default_headers or {})
        self.default_query = dict(default_query or {})
        self.hooks = check_hooks(hooks)
        self._shared = Shared(
            session,
            count("max_connections", max_connections, least=1),
            trust_env=trust_env,
            limits=self.limits,
        )
        self._owner = True
        self._targets: dict[tuple[bool, bool, bool], Target] = {}

    # Resources

    # Made anew each time: a resource kept here would keep its client, and its connections, alive. Loaded on
    # first use: what makes requests and reads replies takes longer to import than a client to make.
    @property
    def chat(self) -> Chat:
        """Completions of models."""
        from .resources import Chat  # noqa: PLC0415  # see above

        return Chat(self)

    @property
    def agents(self) -> Agents:
        """Completions of the agent at ``agent_endpoint``."""
        from .resources import Agents  # noqa: PLC0415  # see above

        return Agents(self)

    @property
    def models(self) -> Models:
        """The models that the key may use."""
        from .models import Models  # noqa: PLC0415  # see above

        return Models(self)

    @property
    def with_raw_response(self) -> RawClient:
        """The same resources, whose calls return status, headers and body; ``await .parse()`` as usual."""
        from .raw import RawClient  # noqa: PLC0415  # few need it

        return RawClient(self)

    @property
    def with_streaming_response(self) -> StreamingClient:
        """The same for ``async with``, the body not read yet."""
        from .raw import StreamingClient  # noqa: PLC0415  # few need it

        return StreamingClient(self)

    # Settings

    @property
    def model_access_key(self) -> str | None:
        """The key for inference, in the clear."""
        key = self._endpoints.model_key
        return None if key is None else key.reveal()

    @property
    def agent_access_key(self) -> str | None:
        """The key for the agent, in the clear."""
        key = self._endpoints.agent_key
        return None if key is None else key.reveal()

    @property
    def base_url(self) -> str:
        """What the paths of inference are appended to."""
        return self._endpoints.inference_url

    @property
    def inference_endpoint(self) -> str:
        """Where models are, without the version."""
        return self._endpoints.inference_url.removesuffix("/v1")

    @property
    def agent_endpoint(self) -> str:
        """Where the agent is, without the version.

        Raises:
            ConfigurationError: If none is set.
        """
        return self._agent_url().removesuffix("/api/v1")

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
        default_headers: Mapping[str, str] | None = None,
        set_default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        set_default_query: Mapping[str, object] | None = None,
        hooks: Iterable[Hook] | None = None,
        http_client: None = None,
    ) -> AsyncGradient:
        """Return a copy with some options changed, which shares the connections.

        Closing the copy closes nothing. ``default_headers`` and ``default_query`` are added to those
        there are, ``set_default_headers`` and ``set_default_query`` replace them; the other options are
        those of the constructor.

        Raises:
            ConfigurationError: If an option can't be used.
        """
        refuse_http_client(http_client)
        changed = {
            "model_access_key": model_access_key,
            "agent_access_key": agent_access_key,
            "access_token": access_token,
            "api_key": api_key,
            "inference_endpoint": inference_endpoint,
            "agent_endpoint": agent_endpoint,
            "base_url": base_url,
        }
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy._owner = False
        copy._targets = {}
        if any(value is not None for value in changed.values()):
            copy._options = self._options | hide({k: v for k, v in changed.items() if v is not None})
            copy._endpoints = resolve(
                {
                    name: value.reveal() if isinstance(value, Secret) else value
                    for name, value in copy._options.items()
                },
                os.environ,
                allow_insecure_http=self._allow_insecure_http,
            )
        if not isinstance(timeout, NotGiven):
            copy.timeout = Timeout.of(timeout)
        if not isinstance(max_retries, NotGiven):
            copy.max_retries = count("max_retries", max_retries, least=0)
        copy.retry = retry or self.retry
        copy.limits = limits or self.limits
        copy.strict = self.strict if strict is None else strict
        copy.validate = self.validate if validate is None else validate
        copy.on_bad_event = on_bad_event or self.on_bad_event
        headers = self.default_headers if set_default_headers is None else set_default_headers
        copy.default_headers = check_headers({**headers, **(default_headers or {})})
        query = self.default_query if set_default_query is None else set_default_query
        copy.default_query = {**query, **(default_query or {})}
        copy.hooks = self.hooks if hooks is None else check_hooks(hooks)
        return copy

    copy = with_options

    # Calls

    def _agent_url(self) -> str:
        url = self._endpoints.agent_url
        if url is None:
            raise ConfigurationError(
                "no agent endpoint: pass agent_endpoint=... or set GRADIENT_AGENT_ENDPOINT"
            )
        return url

    def _prepare(
        self,
        method: str,
        path: str,
        *,
        agent: bool = False,
        body: bytes | None = None,
        stream: bool = False,
        options: Mapping[str, Any],
        params: Mapping[str, Any],
        lease: Lease | None = None,
    ) -> Call:
        timeout = options.get("timeout", NOT_GIVEN)
        target = self._target(agent=agent, stream=stream, has_body=body is not None, options=options)
        return Call(
            method=method,
            url=(self._agent_url() if agent else self._endpoints.inference_url) + path,
            query=target.query,
            headers=target.headers,
            key=target.key,
            body=body,
            stream=stream,
            timeout=self.timeout if isinstance(timeout, NotGiven) else Timeout.of(timeout),
            max_retries=self.max_retries,
            retry=self.retry,
            limits=self.limits,
            secrets=target.secrets,
            operation="models" if body is None else "agent" if agent else "chat",
            params=params,
            hooks=self.hooks,
            lease=lease,
        )

    def _target(self, *, agent: bool, stream: bool, has_body: bool, options: Mapping[str, Any]) -> Target:
        """Put together headers, key and query; or return those of a call before that had the same."""
        usual = not (self.default_query or options.get("extra_headers") or options.get("extra_query"))
        kind = (agent, stream, has_body)
        known = self._targets.get(kind) if usual else None
        if known is not None and known.suits(self._endpoints, self.default_headers):
            return known
        target = make_target(
            self._endpoints,
            agent=agent,
            stream=stream,
            has_body=has_body,
            default_headers=self.default_headers,
            default_query=self.default_query,
            options=options,
        )
        if usual:
            self._targets[kind] = target
        return target

    def _send(self, call: Call) -> Coroutine[Any, Any, Reply]:
        return self._shared.manager.send(call)

    # Life

    async def close(self) -> None:
        """Close the connections and every open stream; of a copy, nothing."""
        if self._owner:
            await self._shared.close()

    aclose = close

    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._shared.closed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        endpoints = getattr(self, "_endpoints", None)  # a traceback may show a client that could not be made
        return f"<AsyncGradient {'unfinished' if endpoints is None else endpoints.inference_url}>"
