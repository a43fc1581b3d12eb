"""Tokens and their text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gradient_async.testing.words import cut_text, tokenize


@given(st.text())
def test_tokens(text: str) -> None:
    """Tokens join to the bytes of the text; pieces join to its text, and never cut a character."""
    whole = text.encode("utf-8", "replace")
    assert whole == b"".join(tokenize(text))
    pieces = cut_text(text, "content", top=1)
    assert whole.decode() == "".join(piece.delta["content"] for piece in pieces)
    assert len(tokenize(text)) == sum(piece.tokens for piece in pieces)
    assert all(piece.tokens == len(piece.logprobs or ()) for piece in pieces)


def test_long_words_are_cut() -> None:
    """Long words are several tokens, and an emoji is two."""
    assert [b"incomprehe", b"nsible", b" \xf0\x9f", b"\x91\x8b"] == tokenize("incomprehensible 👋")
