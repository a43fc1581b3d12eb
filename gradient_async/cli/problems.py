"""Translates the messages of errors for the command line: flags and variables take the place of Python's arguments."""

from __future__ import annotations

import re

from ..errors import GradientError

# Patterns for parts of messages, each with its replacement.
_WORDS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        ("^base_url can't be used", "the server (--base-url, GRADIENT_BASE_URL) can't be used"),
        ("^inference_endpoint can't be used", "the server (GRADIENT_INFERENCE_ENDPOINT) can't be used"),
        ("; give the key as an argument", "; set GRADIENT_MODEL_ACCESS_KEY to the key"),
        ("; give default_query instead", ""),
        (", or allow_insecure_http=True if you are sure", ""),
        (
            "^no model access key for ([^ ]*): .*",
            r"no key for \1: set GRADIENT_MODEL_ACCESS_KEY, or use --local to try the command",
        ),
        (
            r"model_access_key or GRADIENT_MODEL_ACCESS_KEY \(agents: agent_access_key\)",
            "GRADIENT_MODEL_ACCESS_KEY",
        ),
        (r"client\.models\.list\(\) lists", "gradient-async models lists"),
        ("^model_access_key may", "the key (GRADIENT_MODEL_ACCESS_KEY) may"),
        (r"; to send it anyway, use validate=False or extra_body=\{\.\.\.\}", ""),
        (r": give seconds, None, Timeout\(\.\.\.\), or an object with .*", ": give seconds"),
        ("it requires logprobs=True", "it requires --logprobs"),
        ("; raise max_tokens or max_completion_tokens", "; raise --max-tokens"),
        (r" \(Retry\.budget, Timeout\.total\)", ""),
        (r" \(Timeout\.\w+\)", " (--timeout)"),
        (r"; (everything received|what came before) is in \.partial", ""),
        (r"; raise Limits\(\w+=\.\.\.\) (to allow more|if that is intended)", ""),
    )
)


def explain(error: GradientError) -> str:
    """Return the message of an error, with flags and variables in place of arguments."""
    text = error.message
    for pattern, words in _WORDS:
        text = pattern.sub(words, text)
    return text
