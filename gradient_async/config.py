"""Settings: endpoints, time limits, retries, limits on what a server may send.

Pure: the environment is an argument.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

import msgspec

from .errors import ConfigurationError
from .secrets import Secret
from .types.nesting import MAX_VALUES

_MIB = 1024 * 1024


class Timeout(msgspec.Struct, frozen=True, kw_only=True):
    """Time limits in seconds; None is no limit.

    Attributes:
        connect: For making a connection: name lookup, TCP and TLS.
        first_token: For a stream, from the sent request to the first content; includes the wait for headers.
        idle: For a stream, between two pieces of content. The time that the consumer takes does not count.
        response: For an awaited call, from the sent request to the whole reply; applies to each attempt.
        total: For the whole call by the wall clock, with retries and waits; checked while the call waits.
    """

    connect: float | None = 5.0
    first_token: float | None = 180.0
    idle: float | None = 120.0
    response: float | None = 600.0
    total: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and 0 < value < float("inf")):
                raise ConfigurationError(
                    f"timeout: {name}={value!r} is not a positive number of seconds or None"
                )

    @classmethod
    def of(cls, value: Any) -> Timeout:
        """Convert a timeout from any of the forms that other clients accept.

        Args:
            value: A `Timeout`; seconds, which apply to every limit but ``connect`` (5 at most) and ``total`` (None);
                None, which turns all limits off; or an object with ``connect`` and ``read`` in seconds.

        Raises:
            ConfigurationError: If the value has none of these forms.
        """
        if isinstance(value, cls):
            return value
        if value is None:
            return cls(connect=None, first_token=None, idle=None, response=None)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return cls(connect=min(5.0, value), first_token=value, idle=value, response=value)
        connect: Any = getattr(value, "connect", value)
        read: Any = getattr(value, "read", value)
        if connect is not value and read is not value:
            return cls(connect=connect, first_token=read, idle=read, response=read)
        raise ConfigurationError(
            f"timeout={value!r} is not understood: give seconds, None, Timeout(...), "
            "or an object with .connect and .read"
        )


DEFAULT_TIMEOUT = Timeout()
DEFAULT_MAX_RETRIES = 2


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """When to retry, and how long to wait before a retry; the client's ``max_retries`` limits the number of retries.

    Attributes:
        budget: Maximum number of seconds for all waits of one call; if a wait exceeds it, the call fails at once.
        max_backoff: Longest wait in seconds if the server does not ask for one.
        ambiguous: Whether to retry if the server may have done the work: no reply after the request was sent, and
            504, 520 or 524. You may pay twice.
    """

    budget: float = 60.0
    max_backoff: float = 8.0
    ambiguous: bool = False

    def __post_init__(self) -> None:
        for name in ("budget", "max_backoff"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigurationError(f"retry: {name}={getattr(self, name)!r} is not a number of seconds")


_MAY_BE_UNLIMITED = frozenset({"event_bytes", "line_bytes", "body_bytes", "completion_bytes", "values"})


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Maximum sizes and counts of everything that a server may send; the error for an exceeded limit names the limit.

    The sizes of events, lines, bodies and completions, and the number of values, may be None, which is no limit.

    Attributes:
        event_bytes: Data of one event of a stream, in bytes.
        line_bytes: One line of a stream, in bytes.
        body_bytes: Body of an awaited reply, in bytes.
        error_body_bytes: Body of an error, in bytes; the rest is not read.
        error_body_seconds: Time to read the body of an error, in seconds.
        completion_bytes: An assembled completion, in bytes. Text, reasoning, refusals and arguments count as their bytes
            of UTF-8. Other parts count as much more than their bytes, because they take more memory: an object or an array
            320 and more, a tool call 4,096, a token with its log probability 192, and each of its alternatives 48.
        values: JSON values of one event or reply: one for each comma, 10 for each object or array, one for
            10 escapes in strings. Its log probabilities have a limit of their own, 25 times as high.
        buffered_bytes: Text queued for the iterators of one stream that lag behind, in bytes of UTF-8.
        choices: Choices of a reply, or the ``n`` of the request if that is larger.
        tool_calls: Tool calls of one choice.
        drain_seconds: Time to wait for the end of the HTTP body after ``[DONE]``, in seconds.
        drain_bytes: Bytes to read of the HTTP body after ``[DONE]``.
        decompression_ratio: Decompressed bytes of a body for each byte received; applies from 1 MiB on.
        gzip_members: Members of a gzip body.
        headers: Headers of a reply.
        header_bytes: The name of one header, and its value, each in bytes.
        interim_responses: Interim (1xx) responses before a reply.
    """

    event_bytes: int | None = 16 * _MIB
    line_bytes: int | None = 16 * _MIB + 1024  # the longest event on one line, with the name of its field
    body_bytes: int | None = 64 * _MIB
    error_body_bytes: int = 64 * 1024
    error_body_seconds: float = 5.0
    completion_bytes: int | None = 64 * _MIB
    values: int | None = MAX_VALUES
    buffered_bytes: int = 16 * _MIB
    choices: int = 128
    tool_calls: int = 1024
    drain_seconds: float = 0.1
    drain_bytes: int = 64 * 1024
    decompression_ratio: int = 200
    gzip_members: int = 64
    headers: int = 128
    header_bytes: int = 8 * 1024
    interim_responses: int = 16

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is None and name in _MAY_BE_UNLIMITED:
                continue
            if not (isinstance(value, (int, float)) and value > 0):
                none = " or None" if name in _MAY_BE_UNLIMITED else ""
                raise ConfigurationError(f"limits: {name}={value!r} is not a positive number{none}")


DEFAULT_INFERENCE_ENDPOINT = "https://inference.do-ai.run"


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """URLs and keys of requests.

    Attributes:
        inference_url: Base of the URLs for models and their completions, without ``/chat/completions``.
        agent_url: Base of the URLs for an agent; None if no agent is set.
        model_key: Key for inference, or None.
        agent_key: Key for the agent, or None.
        access_token: Personal access token, which is the key for inference if there is no other; or None.
    """

    inference_url: str
    agent_url: str | None = None
    model_key: Secret | None = None
    agent_key: Secret | None = None
    access_token: Secret | None = None


VARIABLES: dict[str, tuple[str, ...]] = {
    "model_access_key": (
        "GRADIENT_MODEL_ACCESS_KEY",
        "DIGITALOCEAN_INFERENCE_KEY",
        "MODEL_ACCESS_KEY",
        "GRADIENTAI_INFERENCE_KEY",
        "GRADIENTAI_API_KEY",
        "DO_MODEL_ACCESS_KEY",
        "DIGITAL_OCEAN_MODEL_ACCESS_KEY",
    ),
    "agent_access_key": ("GRADIENT_AGENT_ACCESS_KEY",),
    "access_token": ("DIGITALOCEAN_ACCESS_TOKEN", "DIGITALOCEAN_TOKEN", "DIGITALOCEAN_API_KEY"),
    "agent_endpoint": ("GRADIENT_AGENT_ENDPOINT",),
    "inference_endpoint": ("GRADIENT_INFERENCE_ENDPOINT",),
    "base_url": ("GRADIENT_BASE_URL",),
}


def from_env(environ: Mapping[str, str]) -> dict[str, str]:
    """Read options from environment variables; an option takes the first of its variables that is set.

    Args:
        environ: Usually ``os.environ``. An empty value counts as unset.

    Returns:
        Name to value, for the options that are set.
    """
    found: dict[str, str] = {}
    for option, names in VARIABLES.items():
        for name in names:
            if environ.get(name, "").strip():
                found[option] = environ[name].strip()
                break
    return found


EndpointOptions: TypeAlias = Mapping[str, str | Secret | None]


def replace_options(options: EndpointOptions, changes: EndpointOptions) -> EndpointOptions:
    """Return endpoints and keys with some of them replaced, so that each of the new ones is in use.

    Of options that are given together, `resolve` prefers some to others: a base URL to an endpoint, a model access key to
    a token. Of options that are given one after the other, the last one counts.

    Args:
        options: The options of `resolve`.
        changes: Options in place of those; None and "" count as unset.
    """
    changed: dict[str, str | Secret | None] = {**options, **changes}
    if "model_access_key" in changes or "api_key" in changes:
        changed["model_access_key"] = changes.get("model_access_key") or changes.get("api_key")
        changed["api_key"] = None
    elif changes.get("access_token"):
        changed["model_access_key"] = changes["access_token"]
        changed["api_key"] = None
    elif "access_token" in changes and changed.get("model_access_key") == options.get("access_token"):
        changed["model_access_key"] = None  # the token that is removed was also the key for inference
    base = changed.pop("base_url", None)
    for part in ("inference", "agent"):
        if "base_url" in changes:
            changed[f"{part}_base_url"] = base
        elif changes.get(f"{part}_endpoint"):
            changed[f"{part}_base_url"] = None
        elif base:
            changed[f"{part}_base_url"] = base
    return changed


def resolve(
    options: EndpointOptions,
    environ: Mapping[str, str],
    *,
    allow_insecure_http: bool = False,
) -> Endpoints:
    """Combine arguments, environment and defaults, in that order of precedence.

    Args:
        options: Arguments of the constructor: the options of `from_env`, and ``api_key``; or the result of
            `replace_options`. None and "" count as unset.
        environ: Usually ``os.environ``.
        allow_insecure_http: Whether to accept plain http to a host that is neither loopback nor private.

    Raises:
        ConfigurationError: If a URL or a key cannot be used.
    """
    problem: str
    try:
        return _resolve(options, environ, allow_insecure_http=allow_insecure_http)
    except ConfigurationError as error:
        problem = error.message
    # The error is raised again without the frames of `_resolve`: a traceback may show their locals, which hold keys.
    del options, environ
    raise ConfigurationError(problem)


def _resolve(
    options: Mapping[str, Any], environ: Mapping[str, str], *, allow_insecure_http: bool
) -> Endpoints:
    arguments = {name: value for name, value in options.items() if value}
    env = from_env(environ)

    def pick(name: str) -> Any:
        return arguments.get(name) or env.get(name)

    # A base URL from the environment must not replace an endpoint that the caller passed.
    base = arguments.get("base_url")
    model_base = arguments.get("inference_base_url", base)
    agent_base = arguments.get("agent_base_url", base)
    if "inference_endpoint" not in arguments:
        model_base = model_base or env.get("base_url")
    if "agent_endpoint" not in arguments:
        agent_base = agent_base or env.get("base_url")

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
    # A personal access token is accepted for inference too, but is tried last, because it permits far more than inference.
    access_token = pick("access_token")
    model_key = (
        arguments.get("model_access_key")
        or arguments.get("api_key")
        or env.get("model_access_key")
        or access_token
    )
    agent_key = pick("agent_access_key")
    return Endpoints(
        inference_url=inference_url,
        agent_url=agent_url,
        model_key=None if model_key is None else Secret(model_key, "model_access_key"),
        agent_key=None if agent_key is None else Secret(agent_key, "agent_access_key"),
        access_token=_unused_token(access_token),
    )


def _unused_token(token: Any) -> Secret | None:
    """Return a token that may be in no use; None if it can't be one, as other programs' variables need not concern us."""
    if token is None:
        return None
    try:
        return Secret(token, "access_token")
    except ConfigurationError:
        return None


def url_text(option: str, value: Any) -> str:
    """Return the text of a URL, which may be an object of another library.

    Raises:
        TypeError: If the value is no URL.
    """
    if isinstance(value, str) or hasattr(value, "scheme"):
        return str(value)
    raise TypeError(f"{option}: expected a str, not {type(value).__name__}")


def _check_url(option: str, value: str, *, allow_insecure_http: bool) -> str:
    """Return a URL without a slash at its end, and with https if it has no scheme."""
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
    if parts is None or not host or parts.netloc.endswith(":"):  # `http:/host` would name the host `http`
        problem = "it has no host, or its port is not a number"
    elif parts.scheme not in {"http", "https"}:
        problem = f"its scheme is {parts.scheme!r}; only https and http are supported"
    elif parts.username is not None or parts.password is not None:
        problem = "it holds a user name or password; give the key as an argument"
    elif "?" in text or "#" in text:  # also an empty query, because a path would be appended to it
        problem = "it has a query or a fragment; give default_query instead"
    elif re.search(r"[\x00-\x20\x7f-\xa0\\\ud800-\udfff]", text):
        problem = "it has white space or control characters"
    elif not _is_host(parts, host):
        problem = "its host is neither an IP address nor a name"
    elif parts.scheme == "http" and not allow_insecure_http and not _is_private(host):
        problem = (
            f"plain http would show the key to everyone on the way to {host!r}; use https, "
            "or allow_insecure_http=True if you are sure"
        )
    if problem is not None:
        raise ConfigurationError(f"{option} can't be used: {problem}")
    return text


# Networks whose addresses are not on the internet. `ipaddress.is_private` is not used: it differs between versions of
# Python, and is also true for reserved addresses and addresses that contain another (6to4, Teredo, mapped addresses).
_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in ("0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
                    "192.168.0.0/16", "::/128", "::1/128", "fc00::/7", "fe80::/10")
)  # fmt: skip
_PRIVATE_NAMES = (".localhost", ".internal", ".local", ".lan", ".svc", ".home.arpa", ".ts.net")

# Parts of 1 to 63 characters; the last three characters between parts stand for dots in international names.
_NAME = re.compile(r"[\w-]{1,63}(?:[.\u3002\uff0e\uff61][\w-]{1,63})*\.?")
_NUMBERS = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+))*\.?", re.IGNORECASE)


def _address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_host(parts: SplitResult, host: str) -> bool:
    """Whether the host of a URL can be looked up."""
    if parts.netloc.startswith("["):
        return (
            _address_of(host) is not None and re.fullmatch(r"\[[^\]]*\](?::\d*)?", parts.netloc) is not None
        )
    if _address_of(host) is not None:
        return True
    if _NUMBERS.fullmatch(host):
        return False  # some resolvers read such a name as an address, and others do not: 134744072 is 8.8.8.8
    if not host.isascii():  # for ASCII, loading the codec would take longer than making the client
        try:
            host.encode("idna")  # raises an error if an encoded part is empty or too long
        except UnicodeError:
            return False
    return _NAME.fullmatch(host) is not None


def _is_private(host: str) -> bool:
    address = _address_of(host)
    if address is not None:
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in _PRIVATE)
    name = host.rstrip(".").lower()
    if not name.isascii():
        return False  # in such a name, characters other than the dot also separate parts
    return "." not in name or name.endswith(_PRIVATE_NAMES)
