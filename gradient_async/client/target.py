"""Headers, key and query of a call: most are the same for each call of a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .._version import __version__
from ..config import Endpoints
from ..errors import ConfigurationError
from ..secrets import Secret, check_headers, secrets_in
from ..types import NotGiven
from .options import no_key, query

__all__ = ["Target", "make_target"]


class Target(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What of a call does not depend on its parameters.

    Attributes:
        headers: Headers but for the key.
        query: Parameters of the query.
        key: Goes into ``Authorization``; None leaves that header out.
        secrets: Keys to take out of what servers say.
        endpoints: Where the key came from.
        default_headers: What the client's own headers were.
    """

    headers: Mapping[str, str]
    query: Mapping[str, str]
    key: Secret | None
    secrets: tuple[Secret, ...]
    endpoints: Endpoints
    default_headers: Mapping[str, Any]

    def suits(self, endpoints: Endpoints, default_headers: Mapping[str, Any]) -> bool:
        """Whether nothing that it was made of has changed since."""
        return endpoints is self.endpoints and default_headers == self.default_headers


def make_target(
    endpoints: Endpoints,
    *,
    agent: bool,
    stream: bool,
    has_body: bool,
    default_headers: Mapping[str, Any],
    default_query: Mapping[str, object],
    options: Mapping[str, Any],
) -> Target:
    """Put together what a client and the options of one call say.

    Raises:
        ConfigurationError: If there is no key, or a header can't be sent.
    """
    headers = {
        "Accept": "text/event-stream" if stream else "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": f"gradient_async/{__version__}",
    }
    if has_body:
        headers["Content-Type"] = "application/json"
    extra = check_headers(options.get("extra_headers") or {})
    key = endpoints.agent_key if agent else endpoints.model_key
    given = {name.lower() for name in (*extra, *default_headers)}
    if "authorization" in given:
        key = None
    elif key is None:
        raise ConfigurationError(no_key(endpoints, agent=agent))
    for more in (default_headers, extra):
        for name, value in more.items():
            for known in [known for known in headers if known.lower() == name.lower()]:
                del headers[known]
            if not isinstance(value, NotGiven):
                headers[name] = value
    return Target(
        headers=headers,
        query=query(
            {
                **({"agent": True} if agent else {}),
                **default_query,
                **(options.get("extra_query") or {}),
            }
        ),
        key=key,
        secrets=tuple(secret for secret in (endpoints.model_key, endpoints.agent_key) if secret is not None)
        + secrets_in(headers),
        endpoints=endpoints,
        default_headers=dict(default_headers),
    )
