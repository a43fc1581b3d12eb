"""Sentences that say what to write in place of names that other clients have and `AsyncGradient` has not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..types import is_given

# Options of the constructors of other clients.
OPTIONS: dict[str, str] = {
    "http_client": "pass session=aiohttp.ClientSession(...)",
    "organization": 'pass default_headers={"OpenAI-Organization": ...}',
    "project": 'pass default_headers={"OpenAI-Project": ...}',
    "azure_endpoint": "pass base_url=...",
    "azure_deployment": "pass base_url=...",
    "azure_ad_token": "pass access_token=...",
    "api_version": 'pass default_query={"api-version": ...}',
    "admin_api_key": "pass api_key=..., the key for inference",
    "workload_identity": "pass api_key=...",
    "provider": "pass base_url=... and api_key=...",
    "websocket_base_url": "there are no websockets here; leave it out",
    "webhook_secret": "there are no webhooks here; leave it out",
    "kbass_endpoint": "there are no knowledge bases here; leave it out",
    "_strict_response_validation": "pass strict=True",
}
# Options that the connections of a client depend on.
_MAKE_ANOTHER = "it can't be changed after the client was made; make another AsyncGradient({}=...)"
FIXED: dict[str, str] = {
    name: _MAKE_ANOTHER.format(name)
    for name in ("session", "max_connections", "trust_env", "allow_insecure_http")
}


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are given; options of other clients may be None, which is their default.

    Raises:
        TypeError: If an option of another client is given; the message says what to write.
    """
    given: dict[str, Any] = {}
    for name, value in options.items():
        if not is_given(value) or (value is None and name in OPTIONS):
            continue
        if name in OPTIONS:
            del value, options, given  # a traceback may show the locals of this frame
            raise TypeError(f"{name} is not supported: {OPTIONS[name]}")
        given[name] = value
    return given


def check_assignment(name: str) -> None:
    """Refuse to set an attribute that would have no effect, although it has one in other clients, or as an option.

    Raises:
        AttributeError: The message says what to write.
    """
    if name in OPTIONS:
        raise AttributeError(
            f"{name} is not supported: {OPTIONS[name].replace('pass ', 'make a client with ')}"
        )
    if name in FIXED:
        raise AttributeError(f"{name}: {FIXED[name]}")
