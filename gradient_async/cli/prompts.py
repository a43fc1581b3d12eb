"""The text, images and parameters that ``chat`` sends, from the command line and standard input."""

from __future__ import annotations

import argparse
import base64
import difflib
import mimetypes
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import msgspec

from ..decoding import check_params, known_params
from ..errors import InvalidRequestError
from .display import on_terminal
from .problems import explain

_CHECKED = known_params() - {"messages"}
_PARAMS = _CHECKED | {"extra_body", "extra_headers", "extra_query", "timeout"}
# A valid request. Together with these parameters, `check_params` can check any other parameter.
_WHOLE_REQUEST = {"model": "m", "messages": [{"role": "user", "content": ""}], "logprobs": True}
# The types of JSON values for parameters that the library does not check, because it also accepts Python objects for them.
_OBJECTS: dict[str, Any] = {
    "extra_body": dict[str, Any],
    "extra_headers": dict[str, str],
    "extra_query": dict[str, str | int | float | bool | list[str | int | float | bool]],
    "response_format": dict[str, Any],
    "timeout": Optional[Annotated[float, msgspec.Meta(gt=0)]],  # noqa: UP045  # of Annotated, there is no `|`
}
# The first bytes of each kind of image that models take.
_IMAGES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
)


def param_of(text: str) -> tuple[str, Any]:
    """Parse the value of ``-o``: the name of a parameter, and its value. A value that is not JSON is a text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as top_p=0.9")
    if name in {"messages", "stream"}:
        raise argparse.ArgumentTypeError(f"{name} can't be set: chat makes it of the conversation")
    if name not in _PARAMS:
        close = difflib.get_close_matches(name, _PARAMS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise argparse.ArgumentTypeError(
            f"there is no parameter {name!r}{hint}; other fields are sent by -o 'extra_body={{\"{name}\": ...}}'"
        )
    parsed: Any
    try:
        parsed = msgspec.json.decode(value)
    except (ValueError, RecursionError):
        parsed = value
    if name in _OBJECTS:
        try:
            msgspec.convert(parsed, _OBJECTS[name])
        except msgspec.ValidationError as error:
            raise argparse.ArgumentTypeError(f"{name}={value}: {error}") from None
    if name in _CHECKED:
        try:
            check_params(_WHOLE_REQUEST | {name: parsed}, stream=True)
        except InvalidRequestError as error:
            raise argparse.ArgumentTypeError(explain(error)) from None
    return name, parsed


def image_of(text: str) -> dict[str, Any]:
    """Return a part of a message for the value of ``--image``: a URL, a file, or ``-`` for the standard input."""
    if re.match("(https?|data):", text):
        url = text
    else:
        try:
            data = sys.stdin.buffer.read() if text == "-" else Path(text).read_bytes()
        except OSError as error:
            raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
        kind = (
            next((kind for magic, kind in _IMAGES if magic.match(data)), None)
            or mimetypes.guess_type(text)[0]
        )
        if kind is None or not kind.startswith("image/"):
            raise argparse.ArgumentTypeError(f"{text} is not an image: a PNG, JPEG, GIF or WebP file is")
        url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def content_of(text: str, parts: list[dict[str, Any]]) -> Any:
    """Return the content of a message: text, and images if there are any."""
    if not parts:
        return text
    return [{"type": "text", "text": text}, *parts] if text.strip() else parts


def text_of(prompt: str | None) -> str | None:
    """Return the text to send: the prompt, the text from a pipe, or both. Return None on a terminal without a prompt.

    Raises:
        ValueError: If the standard input is not text, or can't be read.
    """
    if sys.stdin is None or (on_terminal(sys.stdin) and prompt != "-"):
        return prompt
    try:
        piped = sys.stdin.read()
        piped.encode()  # Python may decode bytes that are not text to half surrogate pairs
    except UnicodeError:
        raise ValueError("standard input is not text; --image - sends an image") from None
    except OSError as error:
        raise ValueError(f"standard input can't be read: {error.strerror or error}") from None
    if prompt is None or prompt == "-":
        return piped
    # The prompt comes last, after the text to which it refers.
    return f"{piped.rstrip()}\n\n{prompt}" if piped.strip() else prompt
