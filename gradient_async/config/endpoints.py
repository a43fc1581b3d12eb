"""Where requests go and with which key: arguments, environment and defaults together."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from ..errors import ConfigurationError
from .secrets import Secret

__all__ = ["DEFAULT_INFERENCE_ENDPOINT", "Endpoints", "from_env", "resolve"]

DEFAULT_INFERENCE_ENDPOINT = "https://inference.do-ai.run"


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where requests go and with which key.

    Attributes:
        inference_url: Base of the URLs for models and their completions; ends before ``/chat/completions``.
        agent_url: The same for an agent; None if no agent is set.
        model_key: Key for inference, or None.
        agent_key: Key for the agent, or None.
    """

    inference_url: str
    agent_url: str | None = None
    model_key: Secret | None = None
    agent_key: Secret | None = None


_VARIABLES: dict[str, tuple[str, ...]] = {
    "model_access_key": (
        "GRADIENT_MODEL_ACCESS_KEY",
        "DIGITALOCEAN_INFERENCE_KEY",
        "MODEL_ACCESS_KEY",
        "GRADIENTAI_INFERENCE_KEY",
        "GRADIENTAI_API_KEY",
    ),
    "agent_access_key": ("GRADIENT_AGENT_ACCESS_KEY",),
    "access_token": ("DIGITALOCEAN_ACCESS_TOKEN", "DIGITALOCEAN_TOKEN"),
    "agent_endpoint": ("GRADIENT_AGENT_ENDPOINT",),
    "inference_endpoint": ("GRADIENT_INFERENCE_ENDPOINT",),
    "base_url": ("GRADIENT_BASE_URL",),
}


def from_env(environ: Mapping[str, str]) -> dict[str, str]:
    """Read the options that the environment sets.

    Args:
        environ: Usually ``os.environ``. An empty value counts as unset.

    Returns:
        Option name to value, only for those that are set.
    """
    found: dict[str, str] = {}
    for option, names in _VARIABLES.items():
        for name in names:
            if environ.get(name, "").strip():
                found[option] = environ[name].strip()
                break
    return found


def resolve(
    options: Mapping[str, str | None], environ: Mapping[str, str], *, allow_insecure_http: bool = False
) -> Endpoints:
    """Combine arguments, environment and defaults, in that order of precedence.

    Args:
        options: Constructor arguments: those of `from_env`, and ``api_key``. None and "" are unset.
        environ: Usually ``os.environ``.
        allow_insecure_http: Accept plain http to a host that is neither loopback nor private.

    Raises:
        ConfigurationError: If a URL or a key can't be used.
    """
    problem: str
    try:
        return _resolve(options, environ, allow_insecure_http=allow_insecure_http)
    except ConfigurationError as error:
        problem = error.message
    del options, environ  # a traceback that shows locals is not to show keys
    raise ConfigurationError(problem)


def _resolve(
    options: Mapping[str, str | None], environ: Mapping[str, str], *, allow_insecure_http: bool
) -> Endpoints:
    given = {name: value for name, value in options.items() if value}
    env = from_env(environ)

    def pick(name: str) -> str | None:
        return given.get(name) or env.get(name)

    # An endpoint given as an argument beats a base URL of the environment.
    base = given.get("base_url")
    model_base = base or (None if "inference_endpoint" in given else env.get("base_url"))
    agent_base = base or (None if "agent_endpoint" in given else env.get("base_url"))

    def url_of(option: str, value: str) -> str:
        return _check_url(option, value, allow_insecure_http=allow_insecure_http)

    endpoint = pick("inference_endpoint") or DEFAULT_INFERENCE_ENDPOINT
    agent_endpoint = pick("agent_endpoint")
    if model_base:
        inference_url = url_of("base_url", model_base)
    else:
        inference_url = url_of("inference_endpoint", endpoint) + "/v1"
    agent_url: str | None = None
    if agent_base:
        agent_url = url_of("base_url", agent_base)
    elif agent_endpoint:
        agent_url = url_of("agent_endpoint", agent_endpoint) + "/api/v1"
    # A personal access token opens serverless inference as well; a key made for it comes first.
    model_key = (
        given.get("model_access_key")
        or given.get("api_key")
        or env.get("model_access_key")
        or pick("access_token")
    )
    agent_key = pick("agent_access_key")
    return Endpoints(
        inference_url=inference_url,
        agent_url=agent_url,
        model_key=None if model_key is None else Secret(model_key, "model_access_key"),
        agent_key=None if agent_key is None else Secret(agent_key, "agent_access_key"),
    )


def _check_url(option: str, value: str, *, allow_insecure_http: bool) -> str:
    """Return the URL without a slash at its end, with the scheme that is meant where it has none."""
    text = value.strip()
    if "://" not in text:
        text = "https://" + text
    text = text.rstrip("/")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = parts = None
    problem: str | None = None
    if parts is None or not host:
        problem = "it has no host, or its port is not a number"
    elif parts.scheme not in {"http", "https"}:
        problem = f"its scheme is {parts.scheme!r}; only https and http are spoken"
    elif parts.username is not None or parts.password is not None:
        problem = "it holds a user name or password; give the key as an argument"
    elif parts.query or parts.fragment:
        problem = "it has a query or a fragment; give default_query instead"
    elif re.search(r"[\x00-\x20\x7f-\xa0\\]", text):
        problem = "it has white space or control characters"
    elif parts.scheme == "http" and not allow_insecure_http and not _is_private(host):
        problem = (
            f"plain http would show the key to everyone on the way to {host!r}; use https, "
            "or allow_insecure_http=True if you are sure"
        )
    if problem is not None:
        raise ConfigurationError(f"{option} can't be used: {problem}")
    return text


def _is_private(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.rstrip(".").lower()
        if re.fullmatch(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+))*", name):
            return False  # resolvers read it as an address, such as 134744072 for 8.8.8.8
        if not name.isascii():
            return False  # other full stops than the usual one separate labels as well
        return "." not in name or name.endswith((".localhost", ".internal", ".local"))
    return address.is_private or address.is_loopback or address.is_link_local
