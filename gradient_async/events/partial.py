"""Reads the beginning of a JSON text that has not been received as a whole."""

from __future__ import annotations

from typing import Any

from ..types.nesting import MAX_DEPTH, decode_json


def parse_partial(text: str) -> Any:
    """Read the beginning of a JSON text.

    Open strings, arrays and objects are closed where the text stops. A key without its value is left out, as is a number
    or word that may continue.

    Args:
        text: The beginning of a JSON text.

    Returns:
        The value, or None if the text does not show one yet.
    """
    closers: list[str] = []
    in_string = False
    escaped = False
    # The last two places at which the text can be cut and closed: after a bracket, and before a comma. If the text begins
    # valid JSON, a cut at the last place works. If the model wrote one invalid member, a cut at the other place works.
    stops: list[tuple[int, str]] = []
    for position, character in enumerate(text):
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "{[":
            if len(closers) == MAX_DEPTH:
                return None  # the time for each stop grows with the number of open brackets
            closers.append("}" if character == "{" else "]")
            stops.append((position + 1, "".join(reversed(closers))))
        elif character in "}]" and closers:
            closers.pop()
            stops.append((position + 1, "".join(reversed(closers))))
        elif character == ",":
            stops.append((position, "".join(reversed(closers))))
        del stops[:-2]
    closing = "".join(reversed(closers))
    candidates = [(text, closing)]
    if in_string:
        # The string is closed where it stops, or up to six characters earlier if an escape such as \u00e9 was cut.
        candidates = [(text[: len(text) - cut], '"' + closing) for cut in range(7)]
    for head, tail in (*candidates, *((text[:end], tail) for end, tail in reversed(stops))):
        try:
            return decode_json(head + tail)
        except ValueError:
            continue
    return None
