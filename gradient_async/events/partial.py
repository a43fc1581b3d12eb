"""JSON that is not whole yet, read as far as it goes."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["parse_partial"]


def parse_partial(text: str) -> Any:
    """Read the beginning of a JSON text.

    Open strings, arrays and objects are closed where the text stops; a key without its value, and a
    number or word that may go on, are left out.

    Args:
        text: The beginning of a JSON text.

    Returns:
        The value, or None if nothing can be told yet.
    """
    closers: list[str] = []
    in_string = False
    escaped = False
    # Ends of the text at which what is open can be closed, with what closes it.
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
            closers.append("}" if character == "{" else "]")
            stops.append((position + 1, "".join(reversed(closers))))
        elif character in "}]" and closers:
            closers.pop()
            stops.append((position + 1, "".join(reversed(closers))))
        elif character == ",":
            stops.append((position, "".join(reversed(closers))))
        del stops[:-2]
    candidates = [(text, "".join(reversed(closers)))]
    if in_string:
        # The string itself may go on; an escape cut in half goes.
        candidates = [(text[: len(text) - cut], '"' + "".join(reversed(closers))) for cut in range(7)]
    for head, tail in (*candidates, *((text[:end], tail) for end, tail in reversed(stops))):
        try:
            return msgspec.json.decode(head + tail)
        except (msgspec.DecodeError, RecursionError):
            continue
    return None
