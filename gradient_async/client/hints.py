"""Hints for names of other clients that `AsyncGradient` does not have: each says what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..types import Hint, is_given

# Options of the constructors of other clients.
OPTIONS: dict[str, str] = {
    "http_client": "pass session=aiohttp.ClientSession(...) to AsyncGradient; Gradient opens its own",
    "organization": 'pass default_headers={"OpenAI-Organization": ...}',
    "project": 'pass default_headers={"OpenAI-Project": ...}',
    "azure_endpoint": "pass base_url=...",
    "azure_deployment": "pass base_url=...",
    "azure_ad_token": "pass access_token=...",
    "api_version": 'pass default_query={"api-version": ...}',
    "admin_api_key": "pass api_key=..., the key for inference",
    "workload_identity": "pass api_key=...",
    "data_residency": "pass base_url=...",
    "user_agent_package": 'pass default_headers={"User-Agent": ...}',
    "user_agent_version": 'pass default_headers={"User-Agent": ...}',
    "provider": "pass base_url=... and api_key=...",
    "websocket_base_url": "there are no websockets here; leave it out",
    "webhook_secret": "there are no webhooks here; leave it out",
    "kbass_endpoint": "there are no knowledge bases here; leave it out",
    "_strict_response_validation": "pass strict=True",
    "token": "pass api_key=..., which may be a personal access token",
    "endpoint": "requests go to inference_endpoint=...; leave it out",
    "agents_endpoint": "only agent_endpoint=... is used here; leave it out",
    "gateway_endpoint": "there is no gateway here; leave it out",
    "gateway_provider": "there is no gateway here; leave it out",
    "retry_total": "pass max_retries=...",
    "retry_policy": "pass retry=Retry(...)",
    "connection_timeout": "pass timeout=Timeout(connect=...)",
    "read_timeout": "pass timeout=Timeout(idle=..., response=...)",
}
# Options that the connections of a client depend on.
_MAKE_ANOTHER = "it can't be changed after the client was made; make another AsyncGradient({}=...)"
FIXED: dict[str, str] = {
    name: _MAKE_ANOTHER.format(name)
    for name in ("session", "max_connections", "trust_env", "allow_insecure_http")
}


# Attributes of other clients.
_OF_OPENAI = (
    "it has chat completions and the list of models; for other requests use "
    "openai.AsyncOpenAI(base_url=client.base_url, api_key=client.api_key)"
)
_OF_PYDO = (
    "it has chat completions and the list of models; for the rest of DigitalOcean's API use the package pydo"
)
_BY_HAND = "send requests to other paths with aiohttp, to client.base_url"
_CHAT = "write client.chat.completions.create(model=..., messages=[...])"
CLIENT: dict[str, str] = {
    **OPTIONS,
    "completions": _CHAT,
    "responses": _CHAT,
    "assistants": _CHAT,
    "inference": _CHAT,
    "inference_layout": _CHAT,
    "agent": "write client.agents.chat.completions",
    "beta": "write client.chat.completions, without beta",
    **dict.fromkeys(
        (
            "admin", "audio", "batches", "containers", "content_provenance_checks", "conversations", "decisions",
            "embeddings", "evals", "files", "fine_tuning", "images", "live", "moderations", "realtime", "safety",
            "skills", "threads", "uploads", "vector_stores", "videos", "webhooks",
        ),
        _OF_OPENAI,
    ),
    **dict.fromkeys(
        (
            "apps", "async_images", "async_invoke", "billing", "databases", "droplets", "gateway", "gpu_droplets",
            "knowledge_bases", "messages", "nfs", "regions", "retrieve", "speech",
        ),
        _OF_PYDO,
    ),
    **dict.fromkeys(("delete", "get", "get_api_list", "patch", "post", "put", "request"), _BY_HAND),
    "auth_headers": "write client.api_key, or client.default_headers",
    "custom_auth": "write client.api_key, or client.default_headers",
    "platform_headers": "no such headers are sent; write client.default_headers",
    "qs": "write client.default_query",
    "user_agent": 'write client.default_headers["User-Agent"]',
}  # fmt: skip
MODELS: dict[str, str] = {
    "retrieve": "look for model.id in (await client.models.list()).data",
    "delete": _BY_HAND,
    "providers": _OF_PYDO,
    "with_streaming_response": "write await client.models.with_raw_response.list()",
}
STREAMING = {"models": "write await client.models.with_raw_response.list()"}
_NO_RAW = "write headers, request_id and body of the completion; AsyncGradient has {}"
RAW: dict[str, str] = {
    name: _NO_RAW.format(name) for name in ("with_raw_response", "with_streaming_response")
}
AGENTS: dict[str, str] = dict.fromkeys(
    (
        "api_keys", "create", "delete", "evaluation_datasets", "evaluation_metrics", "evaluation_runs",
        "evaluation_test_cases", "functions", "knowledge_bases", "list", "retrieve", "retrieve_usage", "routes",
        "update", "update_status", "versions", "wait_until_ready",
    ),
    "it has the chat of the agent at agent_endpoint; to manage agents use the package pydo",
)  # fmt: skip


def without_asyncio(hints: Mapping[str, str]) -> dict[str, str]:
    """Return the sentences for `Gradient`."""
    return {
        name: sentence.replace("await ", "")
        .replace("AsyncOpenAI", "OpenAI")
        .replace("aiohttp,", "any client,")
        for name, sentence in hints.items()
    }


class CompletionsHints:
    """Hints of the completions. They are descriptors, which cost nothing when a call looks up its method: see `Hinted`."""

    if not TYPE_CHECKING:
        retrieve = Hint("completions are not stored")
        list = Hint("completions are not stored")
        update = Hint("completions are not stored")
        delete = Hint("completions are not stored")
        messages = Hint("completions are not stored")


class Hinted:
    """Base of a class whose AttributeError says what to write in place of an attribute of other clients.

    Looking up an attribute takes longer in such a class, so `Completions` is not derived from it: every call looks up its methods.

    Attributes:
        _hints: Name of such an attribute to what to write.
    """

    _hints: ClassVar[Mapping[str, str]] = {}

    if not TYPE_CHECKING:  # with `__getattr__`, type checkers would accept every name

        def __getattr__(self, name: str) -> Any:
            if name in self._hints:
                raise AttributeError(f"{type(self).__name__} has no {name!r}: {self._hints[name]}")
            return object.__getattribute__(self, name)  # raises the usual error


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
