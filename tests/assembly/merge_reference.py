"""A second, slow implementation of how the fragments of a stream merge, to test `CompletionAssembler` against.

It is written from the merge rule's text alone, without the library's code: it shares no mistake with the library. It
parses arguments anew for every fragment and keeps every fragment, because here only clarity counts.

**Open points.** The rule's text leaves these open. `Merged.open_points` has the numbers of those that decided
something in a stream; the tests do not use such streams.

1. *A new id beside a name, or behind a whole JSON value, at a call that has no id yet.* "A new id (other than one the
   call has)" may mean any id there, or only an id that differs from another. Chosen: any id, because these are the
   words. The other reading is the late id of the same call ("first non-empty id wins").
2. *An id that a call was told but did not take, because it had another.* "One the call has" may include it or not.
   Chosen: not; the first id wins, and the call has one.
3. *An id that only a call of another index has.* "New" may mean new at this index or new in the choice. Chosen: new at
   this index, because the parenthesis names only the call.
4. *A name and other arguments in one entry, behind a whole JSON object of a call without a name.* The name may have
   "come since", or it may be the late name of the call. Chosen: it has come since, so the entry opens a call.
5. *A new id without a name, with text, behind the placeholder `{}`.* The id opens a call (`{}` is a whole JSON value),
   or the text replaces the placeholder. Chosen: it opens; only text of the same call replaces.
6. *A name that begins with the name so far, before any arguments* (`get_`, then `get_weather`). "Once arguments have
   begun" may belong to both conditions before it, or to the nearer one. Chosen: to both, so the piece is appended.
7. *Other arguments, without a name, behind a whole JSON object whose name came before any of its arguments.* "A name
   has come with them or since" excludes the name by its words, though most servers send the name in such a way.
   Chosen: by the words; nothing opens, and the text is appended.
8. *White space as the only arguments so far.* "Has arguments" and "arguments have begun" may count it or not. Chosen:
   it counts, because it is kept.
9. *Calls opened with an index and calls opened without one, in one choice.* Neither the order of the two kinds is
   told, nor whether a later index means a call that was opened without one. Chosen: a call without an index stands
   behind the indexed ones, and no index means it.
10. *Two calls alike of which one has no id, whose types differ, or whose arguments are the same JSON in other spacing
    or order.* Chosen: they are one, because a missing id tells nothing apart, and "the same object" disregards form.
11. *Arguments whose brackets are closed but that are not JSON* (`{"x":}`). The rule says JSON, but also that nothing
    is parsed anew. Chosen: they are not whole.
12. *An entry that opens a call and brings neither id nor name nor arguments.* Chosen: the call exists, and is empty.
13. *Reasoning, tool calls or images after a finish_reason, where no `[DONE]` follows.* "Content" may mean the text or
    anything of the message. Chosen: anything.

**Readings.** Here the text suffices, but it can be misread; the tests use such streams.

14. Several calls may have the same id (gateways leave ids equal). An entry with this id goes to the one opened last.
15. "The latest of that index" and "the call last opened" go by the opening, not by the last fragment.
16. "Unless it opens another" holds for a call found by its id as well: the example has two calls of equal id.
17. "A name has come since" includes a name in the entry that brings the other arguments.
18. A name restated in another length: the longer of the two is the name.
19. Calls that are alike become one at the end, because nothing is final before; until then each takes fragments. The
    call that was opened first stays.
20. An empty id, name or type is none. A call without a type is a `function`.
21. Of an entry with a name and arguments, the name counts as before any arguments if the call had none before the entry.
22. The finish_reason shown is the last one told, also where content after it has taken it back.
23. A new id without a name, with blank arguments or the same object, behind a whole JSON object: "blank arguments and the
    same object again add nothing and open nothing" decides. A server that makes up an id for every fragment would get an
    empty call otherwise. The id is that of the call that other arguments open next.
24. Where other arguments without a name open a call because a name has come since ("also when both are of one name"),
    that name and the id beside it are those of the new call: a fragment with nothing but id and name begins a call with
    most servers, and a call without a name is none. Therefore text behind a placeholder and such a fragment follows
    with a name, and replaces nothing. A late name of a call without a name is its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

__all__ = ["Call", "Merged", "MergedChoice", "compact", "listed", "merge", "parsed"]

JSON = dict[str, Any]


def compact(value: Any) -> str:
    """Write a value as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def listed(value: Any) -> list[Any]:
    """Return a list as it is, an object as a list of one, and nothing as an empty list."""
    if isinstance(value, dict):
        return [value]
    return cast("list[Any]", value or [])


def _no_constant(name: str) -> None:
    raise ValueError(name)


@lru_cache(maxsize=1000)
def parsed(text: str) -> tuple[Any] | None:
    """Return the JSON value that a text is, in a tuple, or None if the text is not JSON."""
    try:
        return (json.loads(text, parse_constant=_no_constant),)
    except ValueError:
        return None


def is_object(text: str) -> bool:
    value = parsed(text)
    return value is not None and isinstance(value[0], dict)


def same_json(text: str, other: str) -> bool:
    """Whether both texts are the same JSON value, in whatever form."""
    first, second = parsed(text), parsed(other)
    if first is None or second is None:
        return False
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def is_placeholder(text: str) -> bool:
    return parsed(text) == ({},)


def brackets_are_closed(text: str) -> bool:
    """Whether a text begins with a bracket, and closes all brackets outside strings with its last character."""
    text = text.strip()
    depth = 0
    in_string = escaped = False
    for at, character in enumerate(text):
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
            if depth == 0:
                return at == len(text) - 1
        if depth == 0:
            return False
    return False


@dataclass(frozen=True)
class Fragment:
    """One entry of ``tool_calls``, with "" for whatever is missing or null."""

    index: int | None
    id: str
    type: str
    name: str
    text: str
    from_object: bool

    @classmethod
    def of(cls, entry: JSON) -> Fragment:
        function: JSON = entry.get("function") or {}
        arguments = function.get("arguments")
        from_object = isinstance(arguments, dict)
        return cls(
            index=entry.get("index"),
            id=entry.get("id") or "",
            type=entry.get("type") or "",
            name=function.get("name") or "",
            text=compact(arguments) if from_object else cast("str", arguments or ""),
            from_object=from_object,
        )


@dataclass
class Call:
    """A tool call so far.

    Attributes:
        opened: Number of calls that the choice opened before this one.
        named: Whether a name has come with the arguments so far, or since.
        from_object: Whether an object gave arguments; then only the JSON counts, not its spacing.
        waiting: Id and name of a fragment that added nothing behind a whole object: the beginning of another call, or
            nothing.
        fragments: Everything that went to this call.
    """

    index: int | None
    opened: int
    id: str = ""
    type: str = ""
    name: str = ""
    arguments: str = ""
    named: bool = False
    from_object: bool = False
    waiting: tuple[str, str] = ("", "")
    fragments: list[Fragment] = field(default_factory=list[Fragment])

    def adds_nothing(self, text: str) -> bool:
        """Whether a text behind a whole object is blank or the same object again."""
        return not text.strip() or same_json(text, self.arguments)

    def restated_by(self, name: str) -> bool:
        return name.startswith(self.name) or self.name.startswith(name)

    def opens_another(self, piece: Fragment) -> bool:
        """Whether a fragment that would go to this call opens another one instead."""
        new_id = (piece.id or self.waiting[0]) not in {"", self.id}
        nothing = is_object(self.arguments) and self.adds_nothing(piece.text)
        if new_id and piece.name:
            return True
        if new_id and parsed(self.arguments) is not None and not nothing:
            return True
        if piece.name and self.arguments and not self.restated_by(piece.name):
            return True
        if is_object(self.arguments) and not nothing:
            if is_placeholder(self.arguments) and not (piece.name or self.waiting[1]):
                return False  # the text replaces the placeholder
            return self.named or bool(piece.name)
        return False

    def take(self, piece: Fragment) -> None:
        """Add a fragment to this call."""
        self.fragments.append(piece)
        restated = piece.name if self.name else ""
        if is_object(self.arguments) and self.adds_nothing(piece.text):
            if restated or piece.id not in {"", self.id}:
                self.waiting = (piece.id, restated)
        elif piece.text:
            self.waiting = ("", "")
        self.id = self.id or piece.id
        self.type = self.type or piece.type
        if not self.arguments:
            if piece.name != self.name:
                self.name += piece.name
        elif piece.name:
            self.name = max(self.name, piece.name, key=len)
        if piece.name and (self.arguments.strip() or piece.text.strip()):
            self.named = True
        if is_object(self.arguments):
            if self.adds_nothing(piece.text):
                return
            if is_placeholder(self.arguments):
                self.arguments = ""
                self.named = False
        self.arguments += piece.text
        self.from_object = self.from_object or piece.from_object


@dataclass
class MergedChoice:
    """What the fragments of one choice merge to."""

    content: str = ""
    reasoning: str = ""
    content_parts: list[Any] = field(default_factory=list[Any])
    details: list[JSON] = field(default_factory=list[JSON])
    images: list[Any] = field(default_factory=list[Any])
    calls: list[Call] = field(default_factory=list[Call])
    finish_reason: str | None = None
    finished: bool = False
    open_points: set[int] = field(default_factory=set[int])

    def add(self, choice: JSON) -> None:
        """Add one choice of one chunk."""
        delta: JSON = choice.get("delta") or {}
        came = self._add_content(delta.get("content"))
        told = delta.get("reasoning_content")
        reasoning = told if told is not None else delta.get("reasoning")
        self.reasoning += reasoning or ""
        details = listed(delta.get("reasoning_details"))
        for detail in details:
            self._add_detail(detail)
        images = listed(delta.get("images"))
        self.images += images
        entries = listed(delta.get("tool_calls"))
        for entry in entries:
            self._add_entry(Fragment.of(entry))

        others = bool(reasoning or details or images or entries)
        if self.finished and others and not came:
            self.open_points.add(13)
        if came:
            self.open_points.discard(13)
        if came or others:
            self.finished = False
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason not in {"", "null", "None", "none"}:
            self.finish_reason = reason
            self.finished = True
            self.open_points.discard(13)

    def _add_content(self, content: Any) -> bool:
        """Add a string or a list of parts; return whether there was any text."""
        before = len(self.content) + len(self.reasoning)
        if isinstance(content, str):
            self.content += content
        for part in cast("list[JSON]", content) if isinstance(content, list) else []:
            self.content_parts.append(part)
            if part["type"] == "text":
                self.content += part["text"]
            elif part["type"] == "thinking":
                self.reasoning += part["thinking"]
        return len(self.content) + len(self.reasoning) > before

    def _add_detail(self, detail: JSON) -> None:
        for known in self.details:
            if "index" in detail and (known["type"], known.get("index")) == (detail["type"], detail["index"]):
                break
        else:
            self.details.append(dict(detail))
            return
        for name in ("text", "summary", "data"):
            if detail.get(name):
                known[name] = (known.get(name) or "") + detail[name]
        for name in ("signature", "format", "id"):
            if detail.get(name):
                known[name] = detail[name]

    def _add_entry(self, piece: Fragment) -> None:
        call = self._call_for(piece)
        self._note_open_points(piece, call)
        if call is None or call.opens_another(piece):
            call = self._open(piece, call)
        call.take(piece)

    def _open(self, piece: Fragment, found: Call | None) -> Call:
        """Open a call; it has what came since the arguments of the call found were whole."""
        call = Call(piece.index, len(self.calls))
        self.calls.append(call)
        if found is not None:
            (waiting_id, name), found.waiting = found.waiting, ("", "")
            if piece.id in {"", found.id} and not (name and piece.name):
                call.id = piece.id or waiting_id
                call.name = name
        return call

    def _call_for(self, piece: Fragment) -> Call | None:
        """Return the call that a fragment goes to unless it opens another there; None if it opens one anyway."""
        if piece.index is not None:
            at_index = [call for call in self.calls if call.index == piece.index]
            if not at_index:
                return None
            with_id = [call for call in at_index if piece.id and call.id == piece.id]
            return (with_id or at_index)[-1]
        if not self.calls:
            return None
        with_id = [call for call in self.calls if piece.id and call.id == piece.id]
        if with_id:
            return with_id[-1]
        return None if piece.id else self.calls[-1]

    def _note_open_points(self, piece: Fragment, found: Call | None) -> None:
        """Note each open point that decides where this fragment goes, and what it changes there."""
        note = self.open_points.add
        if found is None or found.opens_another(piece):
            if not (piece.id or piece.name or piece.text.strip()):
                note(12)
            if any((call.index is None) != (piece.index is None) for call in self.calls):
                note(9)
        if piece.id and any(
            call.id != piece.id and piece.id in {taken.id for taken in call.fragments} for call in self.calls
        ):
            note(2)

        call = found or (self.calls[-1] if self.calls and piece.index is None else None)
        if call is None:
            return
        without_id = Fragment(piece.index, "", piece.type, piece.name, piece.text, piece.from_object)
        opens = found is None or found.opens_another(piece)
        by_id_alone = opens and not call.opens_another(without_id)
        if by_id_alone and found is not None:
            if not call.id:
                note(1)
            if any(other.id == piece.id for other in self.calls):
                note(3)
        if by_id_alone and not piece.name and is_placeholder(call.arguments):
            note(5)
        if (
            not opens
            and not call.arguments
            and call.name not in {"", piece.name}
            and piece.name.startswith(call.name)
        ):
            note(6)
        if (
            not opens
            and call.name
            and is_object(call.arguments)
            and not is_placeholder(call.arguments)
            and not call.adds_nothing(piece.text)
        ):
            note(7)
        if (
            found is not None
            and not call.name
            and piece.name
            and is_object(call.arguments)
            and not call.adds_nothing(piece.text)
            and not by_id_alone
        ):
            note(4)
        if (
            not by_id_alone
            and call.arguments
            and not call.arguments.strip()
            and call.name not in {"", piece.name}
            and piece.name
        ):
            note(8)
        if brackets_are_closed(call.arguments) and parsed(call.arguments) is None:
            note(11)

    def end(self) -> None:
        """Order the calls, and join those that are alike."""
        indexed = sorted(
            (call for call in self.calls if call.index is not None),
            key=lambda call: (call.index, call.opened),
        )
        kept: list[Call] = []
        for call in [*indexed, *(call for call in self.calls if call.index is None)]:
            if not any(self._are_one(call, other) for other in kept):
                kept.append(call)
        self.calls = kept

    def _are_one(self, call: Call, other: Call) -> bool:
        same_text = call.arguments == other.arguments
        if call.name != other.name or not (same_text or same_json(call.arguments, other.arguments)):
            return False
        if call.index != other.index or (call.id and other.id and call.id != other.id):
            return False
        if not same_text or call.id != other.id or call.type != other.type:
            self.open_points.add(10)
        return True


@dataclass
class Merged:
    """What a stream merges to.

    Attributes:
        usage: Counts by name, nested ones as ``outer.inner``.
        complete: Whether the completion is whole: every choice is finished, or `[DONE]` came.
        open_points: Numbers of the open points that decided something.
    """

    choices: dict[int, MergedChoice]
    usage: dict[str, int]
    complete: bool
    open_points: set[int]


def _counts(usage: JSON, prefix: str = "") -> Iterable[tuple[str, int]]:
    for name, value in usage.items():
        if isinstance(value, dict):
            yield from _counts(cast("JSON", value), f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value


def _usage_of(event: JSON) -> JSON:
    """Return the usage of a chunk, else of its first choice, else of `x_groq`."""
    for place in (event, *listed(event.get("choices"))[:1], event.get("x_groq") or {}):
        if place.get("usage"):
            return cast("JSON", place["usage"])
    return {}


def merge(events: Iterable[JSON], *, done: bool) -> Merged:
    """Merge the events of a stream.

    Args:
        events: The JSON of the events.
        done: Whether the stream ended with `[DONE]`.
    """
    choices: dict[int, MergedChoice] = {}
    usage: dict[str, int] = {}
    for event in events:
        for choice in listed(event.get("choices")):
            choices.setdefault(choice.get("index") or 0, MergedChoice()).add(choice)
        for name, count in _counts(_usage_of(event)):
            usage[name] = max(count, usage.get(name, 0))
    if usage:
        together = usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)
        usage["total_tokens"] = max(usage.get("total_tokens", 0), together)
    open_points: set[int] = set()
    for merged in choices.values():
        merged.end()
        open_points |= merged.open_points
    if done:
        open_points.discard(13)
    complete = bool(choices) and (done or all(choice.finished for choice in choices.values()))
    return Merged(dict(sorted(choices.items())), usage, complete, open_points)
