"""What ``chat`` is told to send."""

from __future__ import annotations

import argparse
import base64
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from gradient_async.cli.prompts import content_of, image_of, param_of, text_of

PNG = b"\x89PNG\r\n\x1a\n..."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("top_p=0.5", ("top_p", 0.5)),
        ("user=me", ("user", "me")),
        ('user="5"', ("user", "5")),
        ("stop=a=b", ("stop", "a=b")),
        ("user=", ("user", "")),
        ("top_logprobs=2", ("top_logprobs", 2)),
        ("timeout=5", ("timeout", 5)),
        ("user=" + "[" * 10_000, ("user", "[" * 10_000)),
        ('logit_bias={"5": 1}', ("logit_bias", {"5": 1})),
        ('extra_body={"top_k": 5}', ("extra_body", {"top_k": 5})),
        ('response_format={"type": "json_object"}', ("response_format", {"type": "json_object"})),
    ],
)
def test_parameters_are_json_or_else_text(text: str, expected: tuple[str, Any]) -> None:
    assert expected == param_of(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("top_p", "'top_p' is not NAME=VALUE, such as top_p=0.9"),
        ("temprature=1", "there is no parameter 'temprature' (did you mean temperature?); other fields"),
        ("top_k=1", """-o 'extra_body={"top_k": ...}'"""),
        ("messages=[]", "messages can't be set"),
        ("stream=true", "stream can't be set"),
        ("temperature=9", "temperature=9: expected `float` <= 2.0 (documented: 0 to 2)"),
        ("n=", "n='': expected `int | null`, got `str` (documented: 1 to 128)"),
        ("timeout=0", "timeout=0: Expected `float` > 0.0"),
        ("extra_body=5", "extra_body=5: Expected `object`, got `int`"),
        ('extra_headers={"a": 1}', "Expected `str`, got `int`"),
        ("response_format=true", "Expected `object`"),
    ],
)
def test_what_is_no_parameter_is_refused(text: str, problem: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        param_of(text)
    assert problem in str(caught.value)


@pytest.mark.parametrize("url", ["https://example.com/cat", "http://x/y.png", "data:image/png;base64,AAAA"])
def test_an_image_on_the_web(url: str) -> None:
    assert {"type": "image_url", "image_url": {"url": url}} == image_of(url)


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (PNG, "a", "image/png"),
        (b"\xff\xd8\xff\xe0", "a.png", "image/jpeg"),
        (b"GIF89a", "a", "image/gif"),
        (b"RIFF\n\x00\x00\x00WEBP", "a", "image/webp"),
        (b"BM", "a.bmp", "image/bmp"),
    ],
)
def test_an_image_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, name: str, kind: str
) -> None:
    """Its first bytes say what it is, or else its name."""
    path = tmp_path / name
    path.write_bytes(data)
    expected = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    assert {"url": expected} == image_of(str(path))["image_url"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    if name == "a":
        assert {"url": expected} == image_of("-")["image_url"]


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    for name, problem in (("a.txt", "is not an image"), ("none.png", "No such file")):
        with pytest.raises(argparse.ArgumentTypeError, match=problem):
            image_of(str(tmp_path / name))


def test_content() -> None:
    image = image_of("https://x/y")
    assert "text" == content_of("text", [])
    assert [{"type": "text", "text": "text"}, image] == content_of("text", [image])
    assert [image] == content_of(" ", [image])


class Keyboard(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stdin", "prompt", "expected"),
    [
        (Keyboard("typed"), None, None),
        (Keyboard("typed"), "prompt", "prompt"),
        (Keyboard("typed"), "-", "typed"),
        (io.StringIO("piped\n"), None, "piped\n"),
        (io.StringIO("piped\n"), "-", "piped\n"),
        (io.StringIO("piped\n"), "prompt", "piped\n\nprompt"),
        (io.StringIO(" \n"), "prompt", "prompt"),
        (None, "prompt", "prompt"),
        (None, None, None),
    ],
)
def test_text(monkeypatch: pytest.MonkeyPatch, stdin: Any, prompt: str | None, expected: str | None) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    assert expected == text_of(prompt)


def test_standard_input_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PNG), "utf-8"))
    with pytest.raises(ValueError, match="standard input is not text; --image - sends an image"):
        text_of("prompt")


def test_standard_input_that_can_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def read(self, _size: int | None = -1) -> str:
            raise OSError(21, "Is a directory")

    monkeypatch.setattr(sys, "stdin", Broken())
    with pytest.raises(ValueError, match="standard input can't be read: Is a directory"):
        text_of("prompt")
