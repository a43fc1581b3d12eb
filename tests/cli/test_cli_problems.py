"""Errors of the library in the words of the command line."""

from __future__ import annotations

import re

import pytest

from gradient_async import AsyncGradient, ConfigurationError, GradientError, InvalidRequestError, Timeout
from gradient_async.cli.problems import _WORDS, explain
from gradient_async.testing import Server


async def error_of(client: AsyncGradient, **params: object) -> GradientError:
    """Return the error of a call."""
    with pytest.raises(GradientError) as caught:
        async with client.chat.completions.stream(**{"model": "m", "messages": [{"role": "user", "content": "a"}], **params}) as stream:  # type: ignore[arg-type]
            await stream.completion()
    return caught.value


async def test_settings_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """No message names an argument of Python."""
    for name in ("GRADIENT_MODEL_ACCESS_KEY", "DIGITALOCEAN_ACCESS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    told: list[str] = []
    for options in (
        {"base_url": "ftp://x"},
        {"base_url": "http://example.com"},
        {"base_url": "http://a:b@localhost"},
        {"base_url": "http://localhost?a=b"},
        {"inference_endpoint": "https://"},
        {"model_access_key": "a\nb"},
    ):
        with pytest.raises(ConfigurationError) as caught:
            AsyncGradient(**options)  # type: ignore[arg-type]
        told.append(explain(caught.value))
    async with AsyncGradient() as client:
        told.append(explain(await error_of(client)))
    async with AsyncGradient(model_access_key="k") as client:
        for params in ({"temperature": 9}, {"top_logprobs": 3}, {"timeout": True}):
            told.append(explain(await error_of(client, **params)))
    assert "the server (--base-url, GRADIENT_BASE_URL) can't be used: its scheme is 'ftp'; only https and http are supported" == told[0]
    assert "no key for https://inference.do-ai.run/v1: set GRADIENT_MODEL_ACCESS_KEY, or use --local to try the command" == told[6]
    assert "temperature=9: expected `float` <= 2.0 (documented: 0 to 2)" == told[7]
    assert "top_logprobs=3: it requires --logprobs" == told[8]
    for text in told:
        assert re.search(r"\w=(True|False|\.\.\.)|=\{|_http=|default_query|\.partial|Timeout", text.replace("timeout=True", "")) is None, text


@pytest.mark.parametrize("message", [
    "the answer was cut at the limit of tokens (finish_reason 'length'); raise max_tokens or max_completion_tokens",
    "no content came within 5 s (Timeout.idle); everything received is in .partial",
    "an event has more than 5 bytes; raise Limits(event_bytes=...) to allow more",
    "that is longer than this call may wait (Retry.budget, Timeout.total)",
])  # fmt: skip
def test_other_errors(message: str) -> None:
    words = explain(InvalidRequestError(message))
    assert words != message
    assert all(name not in words for name in ("Timeout", "Limits", "Retry", "partial", "max_tokens"))


def test_a_message_without_arguments_stays() -> None:
    assert "401: wrong key" == explain(GradientError("401: wrong key"))
    assert all(pattern.pattern for pattern, _ in _WORDS)
