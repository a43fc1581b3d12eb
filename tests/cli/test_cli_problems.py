"""Errors of the library in the words of the command line."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gradient_async import AsyncGradient, ConfigurationError, GradientError, InvalidRequestError
from gradient_async.cli.problems import explain

NAMES_OF_PYTHON = re.compile(r"=(True|False|\.\.\.|\{)|_http=|default_query|\.partial|Timeout|Limits|Retry")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"base_url": "ftp://x"},
            "the server (--base-url, GRADIENT_BASE_URL) can't be used: its scheme is 'ftp'; ",
        ),
        ({"base_url": "http://example.com"}, "to everyone on the way to 'example.com'; use https"),
        ({"base_url": "http://a:b@localhost"}, "; set GRADIENT_MODEL_ACCESS_KEY to the key"),
        ({"base_url": "http://localhost?a=b"}, "it has a query or a fragment"),
        ({"inference_endpoint": "https://"}, "the server (GRADIENT_INFERENCE_ENDPOINT) can't be used"),
        ({"model_access_key": "a\nb"}, "the key (GRADIENT_MODEL_ACCESS_KEY) may contain only visible ASCII"),
    ],
)
def test_settings(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AsyncGradient(**options)
    text = explain(caught.value)
    assert told in text
    assert NAMES_OF_PYTHON.search(text) is None


@pytest.mark.parametrize(
    ("key", "params", "told"),
    [
        (
            None,
            {},
            "no key for https://inference.do-ai.run/v1: set GRADIENT_MODEL_ACCESS_KEY, or use --local to try the command",
        ),
        ("k", {"temperature": 9}, "temperature=9: expected `float` <= 2.0 (documented: 0 to 2)"),
        ("k", {"top_logprobs": 3}, "top_logprobs=3: it requires --logprobs"),
        ("k", {"timeout": True}, "timeout=True is not understood: give seconds"),
    ],
)
async def test_requests(
    monkeypatch: pytest.MonkeyPatch, key: str | None, params: dict[str, Any], told: str
) -> None:
    for name in ("GRADIENT_MODEL_ACCESS_KEY", "DIGITALOCEAN_ACCESS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    async with AsyncGradient(model_access_key=key) as client:
        with pytest.raises(GradientError) as caught:
            messages = [{"role": "user", "content": "a"}]
            await client.chat.completions.create(model="m", messages=messages, **params)
    assert told == explain(caught.value)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "the answer was cut at the limit of tokens; raise max_tokens or max_completion_tokens",
            "the answer was cut at the limit of tokens; raise --max-tokens",
        ),
        (
            "no content came within 5 s (Timeout.idle); everything received is in .partial",
            "no content came within 5 s (--timeout)",
        ),
        ("more than 5 bytes; raise Limits(event_bytes=...) to allow more", "more than 5 bytes"),
        ("longer than this call may wait (Retry.budget, Timeout.total)", "longer than this call may wait"),
        ("401: wrong key", "401: wrong key"),
    ],
)
def test_other_errors(message: str, told: str) -> None:
    assert told == explain(InvalidRequestError(message))
