"""Random streams of fragments: as servers send them, spoiled, and of fragments by chance; the same for each seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from merge_reference import compact

__all__ = ["SERVERS", "Stream", "make_stream"]

JSON: TypeAlias = dict[str, Any]
Chunks: TypeAlias = list[list[JSON]]  # the entries of `tool_calls` of each chunk


@dataclass(frozen=True)
class Server:
    """How a server writes tool calls.

    Attributes:
        index: counted, from one, gaps, backwards, zero, missing, first only.
        id: first, every, then empty, then null, equal, empty, missing, new.
        name: first, alone, every, then empty, then null, pieces, growing, late, restated.
        arguments: pieces, whole, object, placeholder, restated, then blank.
        type: first, every, missing.
        together: Whether calls share chunks: never, whole, interleaved.
    """

    index: str = "counted"
    id: str = "first"
    name: str = "alone"
    arguments: str = "pieces"
    type: str = "first"
    together: str = "never"


SERVERS = {
    "openai": Server(),
    "openai, parallel": Server(together="interleaved"),
    "repeats all": Server(id="every", name="every", type="every"),
    "repeats empty": Server(id="then empty", name="then empty", type="every"),
    "repeats null": Server(id="then null", name="then null"),
    "gemini": Server(index="zero", id="empty", name="first", arguments="whole", together="whole"),
    "gemini, one by one": Server(index="zero", id="equal", name="first", arguments="whole"),
    "gemini, objects": Server(index="zero", id="missing", name="first", arguments="object", together="whole"),
    "all at zero, in pieces": Server(index="zero", id="empty"),
    "mistral": Server(index="missing", name="first", arguments="whole", type="missing", together="whole"),
    "ollama": Server(index="missing", id="missing", name="first", arguments="object", type="every"),
    "anthropic gateway": Server(index="from one", name="first", arguments="placeholder"),
    "names in pieces": Server(name="pieces", type="missing"),
    "names grow": Server(id="every", name="growing"),
    "names come late": Server(name="late"),
    "restates": Server(name="restated", arguments="restated"),
    "restates at zero": Server(index="zero", id="every", name="restated", arguments="restated"),
    "ends with blanks": Server(index="gaps", arguments="then blank"),
    "index once": Server(index="first only", type="missing"),
    "told apart by id": Server(index="zero", id="every", name="first", together="interleaved"),
    "no index, by id": Server(index="missing", id="every", together="interleaved"),
    "new id for each fragment": Server(index="counted", id="new"),
    "backwards": Server(index="backwards", id="every"),
}
# What a server of chance is made of; what is named more than once is likelier.
_WAYS = {
    "index": ["counted", "zero", "zero", "missing", "missing", "from one", "gaps", "backwards", "first only"],
    "id": [
        "first",
        "every",
        "then empty",
        "then null",
        "equal",
        "equal",
        "empty",
        "missing",
        "missing",
        "new",
    ],
    "name": [
        "first",
        "alone",
        "alone",
        "every",
        "then empty",
        "then null",
        "pieces",
        "growing",
        "late",
        "restated",
    ],
    "arguments": ["pieces", "whole", "object", "placeholder", "restated", "then blank"],
    "type": ["first", "every", "missing"],
    "together": ["never", "whole", "interleaved"],
}
_NAMES = ["get", "get_weather", "get_time", "f", "g", "tata", "a", "ab"]
_ARGUMENTS: list[JSON] = [
    {},
    {"x": 1},
    {"y": 2},
    {"x": 12},
    {"x": 1, "y": 2},
    {"q": 'a "quoted" \\ {brace}'},
    {"q": "é 😀", "n": {"a": [1, {"b": "}"}], "c": None}},
    {"list": [[], {}, [1.5, -2, True]]},
]
# What fragments of chance are made of. `_ABSENT` leaves the field out.
_ABSENT = "absent"
_INDEXES: list[list[Any]] = [[_ABSENT], [None], [0], [1], [0, 1], [2, 0, 7], [0, _ABSENT], [0, 0, _ABSENT, 1]]
_IDS: list[list[Any]] = [
    [_ABSENT],
    ["", None, _ABSENT],
    ["a"],
    ["a", "b", "c"],
    ["a", "b", _ABSENT],
    ["a", "b", "c", "d", "e"],
    ["a", "", None],
]
_PIECES_OF_NAMES: list[list[Any]] = [
    [_ABSENT, "f"],
    [None, "", "f", "g"],
    ["get", "get_weather", "_weather", _ABSENT],
    ["f", "g", _ABSENT],
    ["f"],
    [_ABSENT, _ABSENT, "f"],
]
_PIECES_OF_ARGUMENTS: list[list[Any]] = [
    [_ABSENT, "", '{"x":', "1}"],
    ['{"x":1}', '{ "x" : 1 }', {"x": 1}, '{"y":2}', _ABSENT],
    ["{}", {}, '{"x":', "1}", '{"x":1}', "", " "],
    ["1", "12", "2", "", _ABSENT, "{}"],
    ['{"x":1,"y":2}', '{"y":2,"x":1}', {"y": 2, "x": 1}, "\n", "}", None],
    ['"', "a", "\\", "[", "]", "true", "null", "-", ".5", "{", "}", " "],
    ['{"x":"\\u00e9"}', '{"x":"é"}', {"x": "é"}, '{"x":"', 'é"}'],
    ['{"x":1}', '{"y":2}'],
    ["1", "2", '"s"', "[]", "true"],
    [{"x": 1}, {"y": 2}],
]
_PLACEHOLDERS: list[Any] = ["{}", "{ }", {}]
_NO_FUNCTIONS: list[Any] = [_ABSENT, _ABSENT, None, {}]
_NO_REASONS: list[Any] = ["", "null", "None", "none", False, 0, None, _ABSENT]


@dataclass
class Stream:
    """A stream as JSON.

    Attributes:
        server: Name of the server, ``chance`` for a server of chance, ``fragments`` for fragments of chance.
        spoiled: Whether fields of single fragments were changed.
        events: The JSON of the events.
        done: Whether `[DONE]` follows.
        spaces: Whether the JSON is written with spaces.
    """

    seed: int
    server: str
    spoiled: bool = False
    events: list[JSON] = field(default_factory=list[JSON])
    done: bool = True
    spaces: bool = False

    def wire(self) -> bytes:
        """Write the stream as a server does."""
        write: Callable[[Any], str] = json.dumps if self.spaces else compact
        bodies = [*(write(event) for event in self.events), *["[DONE]"] * self.done]
        return "".join(f"data: {body}\n\n" for body in bodies).encode()


def _pieces(text: str, dice: random.Random, most: int) -> list[str]:
    """Cut a text at up to ``most`` places; a piece may be empty."""
    cuts = sorted(dice.randint(0, len(text)) for _ in range(dice.randint(1, most)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _otherwise(arguments: JSON, dice: random.Random) -> Any:
    """Write an object anew: the same, with spaces, in another order, or as an object."""
    backwards = dict(reversed(arguments.items()))
    return dice.choice(
        [compact(arguments), json.dumps(arguments), compact(backwards), arguments, json.dumps(backwards)]
    )


def _values(way: str, arguments: JSON, dice: random.Random) -> list[Any]:
    """Return the arguments of each fragment."""
    text = compact(arguments)
    if way == "pieces":
        return _pieces(text, dice, 4)
    if way == "object":
        return [arguments]
    if way == "placeholder":
        placeholder = dice.choice(_PLACEHOLDERS)
        return [placeholder, *(_pieces(text, dice, 3) if arguments or dice.random() < 0.5 else [])]
    if way == "restated":
        whole = [dice.choice([text, arguments])] if dice.random() < 0.5 else _pieces(text, dice, 3)
        return [*whole, *(_otherwise(arguments, dice) for _ in range(dice.randint(1, 2)))]
    if way == "then blank":
        return [
            *_pieces(text, dice, 2),
            *(dice.choice(["", " ", "\n", None]) for _ in range(dice.randint(1, 2))),
        ]
    return [text]


def _with_names(way: str, name: str, values: list[Any], dice: random.Random) -> list[tuple[Any, Any]]:
    """Return name and arguments of each fragment."""
    rest = len(values) - 1
    if way == "every":
        return [(name, value) for value in values]
    if way == "first":
        return list(zip([name, *[_ABSENT] * rest], values, strict=True))
    if way in {"then empty", "then null"}:
        return list(zip([name, *["" if way == "then empty" else None] * rest], values, strict=True))
    if way == "pieces":
        pieces = _pieces(name, dice, 2)
        if dice.random() < 0.5:
            return [
                *((piece, dice.choice(["", None, _ABSENT])) for piece in pieces),
                *((_ABSENT, value) for value in values),
            ]
        last = [(pieces[-1], values[0]), *((_ABSENT, value) for value in values[1:])]
        return [*((piece, _ABSENT) for piece in pieces[:-1]), *last]
    if way == "growing":
        sizes = sorted(dice.randint(1, len(name)) for _ in range(rest))
        return list(zip([name[:size] for size in sizes] + [name], values, strict=True))
    if way == "late":
        at = dice.randint(0, rest)
        names = [name if number >= at and dice.random() < 0.5 else _ABSENT for number in range(len(values))]
        return [
            *zip(names, values, strict=True),
            *([] if name in names else [(name, dice.choice(["", _ABSENT]))]),
        ]
    if way == "restated":
        return [
            (name if not number or dice.random() < 0.5 else _ABSENT, v) for number, v in enumerate(values)
        ]
    return [(name, dice.choice(["", "", None, _ABSENT])), *((_ABSENT, value) for value in values)]  # alone


def _entry(index: Any, call_id: Any, kind: Any, name: Any, arguments: Any, dice: random.Random) -> JSON:
    function = {
        key: value for key, value in (("name", name), ("arguments", arguments)) if value is not _ABSENT
    }
    entry = {"index": index, "id": call_id, "type": kind, "function": function}
    if not function:
        entry["function"] = dice.choice(_NO_FUNCTIONS)
    return {key: value for key, value in entry.items() if value is not _ABSENT}


def _entries(server: Server, number: int, of: int, name_of_all: str, dice: random.Random) -> list[JSON]:
    """Write one call as a server does; its name is that of all calls, unless that is empty."""
    index: Any = {
        "counted": number,
        "first only": number,
        "from one": number + 1,
        "gaps": 3 * number + 2,
        "backwards": of - number,
        "zero": 0,
    }.get(server.index, _ABSENT)
    values = _values(server.arguments, dice.choice(_ARGUMENTS), dice)
    called = name_of_all or dice.choice(_NAMES)
    entries: list[JSON] = []
    for at, (name, value) in enumerate(_with_names(server.name, called, values, dice)):
        first: Any = f"call_{number}"
        call_id: Any = {
            "first": _ABSENT if at else first,
            "every": first,
            "then empty": "" if at else first,
            "then null": None if at else first,
            "equal": "call",
            "empty": "",
            "new": f"call_{number}_{at}",
        }.get(server.id, _ABSENT)
        kind = {"first": _ABSENT if at else "function", "every": "function"}.get(server.type, _ABSENT)
        here = _ABSENT if at and server.index == "first only" else index
        entries.append(_entry(here, call_id, kind, name, value, dice))
    return entries


def _chunks_of(server: Server, dice: random.Random) -> Chunks:
    """Write all calls of a choice as a server does."""
    many = dice.choice([1, 2, 2, 3])
    name_of_all = dice.choice(_NAMES) if dice.random() < 0.3 else ""
    calls = [_entries(server, number, many, name_of_all, dice) for number in range(many)]
    if server.together == "whole":
        return [[entry for call in calls for entry in call]]
    if server.together == "interleaved":
        mixed: list[JSON] = []
        while any(calls):
            mixed.append(dice.choice([call for call in calls if call]).pop(0))
        return _in_chunks(mixed, dice)
    return [[entry] for call in calls for entry in call]


def _in_chunks(entries: list[JSON], dice: random.Random) -> Chunks:
    chunks: Chunks = []
    for entry in entries:
        if chunks and dice.random() < 0.3:
            chunks[-1].append(entry)
        else:
            chunks.append([entry])
    return chunks


def _fragments(dice: random.Random) -> Chunks:
    """Make fragments of chance, from few values each, so that they meet."""
    indexes = dice.choice(_INDEXES)
    ids = dice.choice(_IDS)
    names = dice.choice(_PIECES_OF_NAMES)
    values = dice.choice(_PIECES_OF_ARGUMENTS)
    kinds: list[Any] = dice.choice([[_ABSENT], ["function"], ["function", None, ""], ["builtin_function"]])
    pools: list[list[Any]] = [indexes, ids, kinds, names, values]
    entries: list[JSON] = []
    for _ in range(dice.randint(1, 6)):
        index, call_id, kind, name, arguments = map(dice.choice, pools)
        entries.append(_entry(index, call_id, kind, name, arguments, dice))
    return _in_chunks(entries, dice)


def _spoil(chunks: Chunks, dice: random.Random) -> None:
    """Change single fields, and repeat or drop single fragments."""
    often = dice.choice([0.05, 0.15, 0.4])
    for chunk in chunks:
        for entry in list(chunk):
            if dice.random() >= often:
                continue
            function: JSON = entry.get("function") or {}
            way = dice.randrange(9)
            if way == 0:
                entry.pop("index", None)
            elif way == 1:
                entry["id"] = dice.choice(["", None, "call_0", "call_1", "other"])
            elif way == 2:
                entry.pop("id", None)
            elif way == 3:
                entry["index"] = dice.choice([None, 0, 0, 1, 5])
            elif way == 4:
                entry["function"] = function | {"name": dice.choice(["", None, *_NAMES])}
            elif way == 5:
                entry["function"] = function | {
                    "arguments": dice.choice(dice.choice(_PIECES_OF_ARGUMENTS[1:4]))
                }
                if entry["function"]["arguments"] is _ABSENT:
                    del entry["function"]["arguments"]
            elif way == 6:
                entry["type"] = dice.choice(["", None, "function", "builtin_function"])
            elif way == 7:
                chunk.append(json.loads(json.dumps(entry)))
            elif len(chunk) > 1:
                chunk.remove(entry)


def _answer(dice: random.Random) -> list[JSON]:
    """Make deltas with text, reasoning, details and images, or none."""
    deltas: list[JSON] = []
    if dice.random() < 0.3:
        deltas.append({"role": "assistant", "content": dice.choice(["", None])})
    if dice.random() < 0.3:
        way = dice.randrange(4)
        for text in _pieces("Let me think.", dice, 3):
            delta: JSON = {"reasoning_content" if way in {0, 2} else "reasoning": text}
            if way == 2:
                delta["reasoning"] = dice.choice([text, "other", None])
            elif way == 3:
                delta["reasoning_content"] = None
            deltas.append(delta)
    if dice.random() < 0.25:
        deltas += _details(dice)
    if dice.random() < 0.4:
        as_parts = dice.random() < 0.2
        for text in _pieces("Good morning é", dice, 4):
            if not as_parts:
                deltas.append({"content": text})
            elif dice.random() < 0.3:
                deltas.append({"content": [{"type": "thinking", "thinking": text}]})
            else:
                deltas.append({"content": [{"type": "text", "text": text}, {"type": "text", "text": "."}]})
    if dice.random() < 0.1:
        for number in range(dice.randint(1, 3)):
            image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{number}"}}
            deltas.append({"images": dice.choice([[image], [image, image], [], None])})
    return deltas


def _details(dice: random.Random) -> list[JSON]:
    """Make fragments of reasoning_details; a new index is never less than one before it."""
    deltas: list[JSON] = []
    index = 0
    for _ in range(dice.randint(1, 6)):
        details: list[JSON] = []
        for _ in range(dice.choice([1, 1, 2])):
            kind, name = dice.choice([("text", "text"), ("summary", "summary"), ("encrypted", "data")])
            detail: JSON = {"type": f"reasoning.{kind}", name: dice.choice(["a", "b", "", None])}
            if dice.random() < 0.8:
                index += dice.random() < 0.2
                detail["index"] = index
            for key in ("signature", "format", "id"):
                if dice.random() < 0.2:
                    detail[key] = dice.choice(["x", "y", "", None])
            details.append(detail)
        deltas.append({"reasoning_details": details})
    return deltas


def _choice(stream: Stream, calls: Chunks, dice: random.Random) -> list[JSON]:
    """Make the chunks of one choice, without its index."""
    deltas = _answer(dice)
    for chunk in calls:
        as_one = len(chunk) == 1 and dice.random() < 0.1
        delta: JSON = {"tool_calls": chunk[0] if as_one else chunk}
        if dice.random() < 0.1:
            delta["content"] = dice.choice(["", None])
        deltas.append(delta)
    odd = dice.random() < 0.3
    choices: list[JSON] = [
        {"delta": delta, "finish_reason": dice.choice(_NO_REASONS) if odd else None} for delta in deltas
    ]
    reason = dice.choice(["stop", "tool_calls", "length", "other"])
    if choices and dice.random() < 0.3:
        choices[-1]["finish_reason"] = reason
    elif dice.random() < 0.95:
        choices.append({"delta": dice.choice([{}, None, {"content": ""}]), "finish_reason": reason})
    if dice.random() < 0.15:
        choices.append({"delta": {"content": "more"}, "finish_reason": None})
        if dice.random() < 0.5:
            choices.append({"delta": {}, "finish_reason": dice.choice(["stop", "length", *_NO_REASONS])})
    for choice in choices:
        if choice["finish_reason"] is _ABSENT:
            del choice["finish_reason"]
    if not choices:
        choices.append({"delta": {"content": "a"}, "finish_reason": None})
    return choices


def _add_usage(events: list[JSON], dice: random.Random) -> None:
    """Report usage: never, at the end, in all chunks, and with zeros and partial counts behind."""
    way = dice.randrange(8)
    if way < 3:
        return
    prompt, completion = dice.randint(1, 50), dice.randint(1, 50)
    full: JSON = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if dice.random() < 0.3:
        full["prompt_tokens_details"] = {"cached_tokens": dice.randint(0, prompt)}
    if dice.random() < 0.3:
        full["completion_tokens_details"] = {"reasoning_tokens": dice.randint(0, completion)}
    usages: list[JSON] = [full]
    if way == 4:
        usages = [dict(full, completion_tokens=count, total_tokens=0) for count in range(completion, 0, -7)]
    elif way == 5:
        usages.append(dict.fromkeys(["prompt_tokens", "completion_tokens", "total_tokens"], 0))
    elif way == 6:
        usages += [{"completion_tokens": completion + 3}, {"prompt_tokens": 1, "prompt_tokens_details": None}]
    elif way == 7:
        dice.shuffle(usages := [*usages, {"total_tokens": 1000}, {"prompt_tokens": prompt + 1}])
    for usage in usages:
        place = dice.randrange(4)
        event = dice.choice(events)
        if place == 0:
            event["usage"] = usage
        elif place == 1:
            event["x_groq"] = {"usage": usage}
        elif place == 2 and event["choices"]:
            event["choices"][0]["usage"] = usage
        else:
            events.append(event | {"choices": [], "usage": usage})
            if dice.random() < 0.3:
                events.append(event | {"choices": [], "usage": None})


def make_stream(seed: int) -> Stream:
    """Make a stream: most as a named server sends it, some of these spoiled, and some of fragments of chance."""
    dice = random.Random(seed)
    kind = dice.random()
    server = dice.choice([*SERVERS]) if kind < 0.55 else "chance" if kind < 0.75 else "fragments"
    stream = Stream(seed, server, spoiled=server != "fragments" and dice.random() < 0.3)
    stream.spaces = dice.random() < 0.3
    stream.done = dice.random() < 0.8
    ways = SERVERS.get(server) or Server(**{name: dice.choice(values) for name, values in _WAYS.items()})

    queues: dict[int, list[JSON]] = {}
    for index in dice.choice([[0]] * 6 + [[0, 1], [1, 0], [2, 0, 1]]):
        calls: Chunks = []
        if dice.random() < 0.95:
            calls = _fragments(dice) if server == "fragments" else _chunks_of(ways, dice)
            if stream.spoiled:
                _spoil(calls, dice)
        queues[index] = _choice(stream, calls, dice)
    head: JSON = {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    alone = len(queues) == 1 and dice.random() < 0.2
    while queues:
        index = dice.choice([*queues])
        choices: list[JSON] = []
        for at in [index] if dice.random() < 0.7 else [*queues]:
            choices.append(({} if alone else {"index": at}) | queues[at].pop(0))
            if not queues[at]:
                del queues[at]
        stream.events.append(head | {"choices": choices})
    _add_usage(stream.events, dice)
    return stream
