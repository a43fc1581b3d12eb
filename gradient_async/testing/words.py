"""The texts of the simulated model, which depend on the request alone, and the tokens into which they are cut."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

_OPENERS = (
    'You asked about "{topic}".',
    'Here is what can be said about "{topic}".',
    'A good question: "{topic}".',
    'Let us look at "{topic}".',
    'In short, "{topic}" has a simple answer.',
    '"{topic}" is worth a moment of thought.',
    'Thank you for bringing up "{topic}".',
)
_MIDDLES = (
    "This server only simulates a model, so it cannot know, but it answers in whole sentences.",
    "No model was asked and no key was used, yet every byte of this came over HTTP.",
    "The words are made up on this machine, one token at a time, as a real stream would bring them.",
    "Whoever reads this in a test can rely on it: the same request always brings the same reply.",
    "The honest reply is that a simulation has no opinion, only a small supply of sentences.",
    "Most of it depends on the details, and the details depend on what you want to try out.",
    "One could say much more, but a short reply is easier to read in the log of a test.",
    "Seen from here it looks simple: something goes in, something comes out, and time passes.",
    "There are two sides to it, and the second one is that I am not a real model.",
    "It helps to take it step by step, and to look at each token as it arrives.",
    "What matters is that the stream begins, goes on, and ends in good order.",
)
_CLOSERS = (
    "Ask me to tell a story if you need a longer text.",
    "Ask me to count to ten if you want to see the tokens pass.",
    "Try it with several choices to see how they differ.",
    "Offer me a tool, and I shall call it.",
    "That is all for now.",
)
_STORY = (
    "Once upon a time there was a small server that lived on a loopback address.",
    "Nobody had ever called it from far away, and it did not mind.",
    'One morning a request came in and asked for "{topic}".',
    "The server read the headers twice, because it had been told to be careful.",
    '"I am only a simulation," it said, "but I know how to tell a story from its beginning to its end."',
    "So it sent the first token, and waited, and nobody hung up.",
    "It sent the second token, and the third, and soon there was a whole sentence on the wire.",
    "Far away, on the other end of the same machine, a client put the pieces together.",
    "It had a timeout of its own and did not like to wait, but this time there was no need to.",
    "Word followed word, the socket stayed warm, and not a single byte was lost on the way.",
    "When the story was almost told, the server sent a reason for stopping, and then how much it had cost.",
    "The client said nothing, as clients do, but it kept the connection open for another time.",
    "And if nobody has closed it since, it is still open today.",
)
_NUMBERS: list[str] = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty",
)
_MAX_COUNT = 1000
_MAX_WORDS = 20_000
_MAX_TOPIC = 80  # characters of the prompt to repeat
_MAX_RESULT = 200  # characters of a tool's result to repeat

_TOKEN = re.compile(r"\s?[A-Za-z']+|\s?\d{1,3}|\s?[^\w\s]|\s|\w")
_MAX_LETTERS = 10  # characters of a token made of letters
_MAX_FOREIGN = 3  # bytes of a token outside ASCII: an emoji becomes two tokens, as in byte-pair encodings
_OTHERS: list[bytes] = re.findall(
    rb" [a-z]+", b" the a of and to in is it that for on with as at by we not this one or so be but"
)


def digest(*parts: object) -> int:
    """Turn values into a number that is the same on every machine, unlike `hash`."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode("utf-8", "replace")).digest()[:6])


def text_of(content: object) -> str:
    """Return the text of a message's content: a string, a part, or a list of both."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(filter(None, (text_of(part) for part in cast("list[object]", content))))
    if isinstance(content, dict):
        text = cast("dict[str, object]", content).get("text")
        return text if isinstance(text, str) else ""
    return ""


def last_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the user's last message; empty if there is none."""
    users = [message for message in messages if message.get("role") == "user"]
    return text_of(users[-1].get("content")) if users else ""


def _topic(prompt: str) -> str:
    words = " ".join(prompt.split()).rstrip(" ?!.")
    if len(words) <= _MAX_TOPIC:
        return words or "nothing in particular"
    return words[:_MAX_TOPIC].rsplit(" ", 1)[0] + " …"


def reply_text(messages: Sequence[Mapping[str, Any]], *, variant: object, choice: int) -> str:
    """Write the reply to a conversation, varied by seed and temperature (``variant``) and by the index of the choice.

    Results of tools at the end of the conversation are repeated. Otherwise the last message of the user decides:
    "Say: …" is echoed, "Count to …", "… story", "… emoji", "… 500 words" and greetings are understood, and every
    other message is answered with a few sentences that repeat its topic.
    """
    prompt = last_text(messages)
    text = _tool_results(messages) or _known_reply(prompt)
    if text:
        return f"{text} (version {choice + 1})" if choice else text
    number = digest(prompt, variant) + choice
    opener = _OPENERS[number % len(_OPENERS)].format(topic=_topic(prompt))
    # The lengths of the tables have no common divisor, so that 385 choices in a row differ.
    return f"{opener} {_MIDDLES[number % len(_MIDDLES)]} {_CLOSERS[number % len(_CLOSERS)]}"


def _tool_results(messages: Sequence[Mapping[str, Any]]) -> str:
    last = list(itertools.takewhile(lambda message: message.get("role") == "tool", reversed(messages)))
    results = [text_of(message.get("content"))[:_MAX_RESULT] for message in reversed(last)]
    return (
        f"According to the tools: {'; '.join(results)}. That should answer your question." if results else ""
    )


def _known_reply(prompt: str) -> str:
    if echo := re.match(r"\s*(?:say|echo|repeat):\s*(.+)", prompt, re.IGNORECASE | re.DOTALL):
        return echo[1]
    if count := re.search(r"\bcount (?:from \w+ )?to (\w+)", prompt, re.IGNORECASE):
        return _count(count[1].lower())
    if words := re.search(r"\b(\d{1,6}) words\b", prompt):
        supply = itertools.cycle(" ".join(_MIDDLES).split())
        return " ".join(itertools.islice(supply, min(int(words[1]), _MAX_WORDS)))
    if re.search(r"\bstory\b", prompt, re.IGNORECASE):
        return " ".join(_STORY).format(topic=_topic(prompt))
    if re.search(r"\bemojis?\b", prompt, re.IGNORECASE):
        return "Gladly: 👋 🌍 🚀 🎉 and a flag, 🇩🇪. Other scripts too: naïve, Zürich, Ελλάδα, 日本語, 안녕."
    if re.match(r"\s*(?:hi|hello|hey)\b", prompt, re.IGNORECASE):
        return "Hello! I am a simulated model on your own machine. What would you like to try?"
    return ""


def _count(end: str) -> str:
    numbers: Sequence[str] = ()
    if end in _NUMBERS:
        numbers = _NUMBERS[1 : _NUMBERS.index(end) + 1]
    elif end.isdecimal():
        numbers = [str(number) for number in range(1, min(int(end), _MAX_COUNT) + 1)]
    if not numbers:
        return "I can count to twenty in words, or to 1000 in digits."
    return f"{', '.join(numbers)}.".capitalize()


def reasoning(prompt: str, effort: str) -> str:
    """Write reasoning about a prompt; a higher effort gives a longer text."""
    thoughts = (
        f'The user writes "{_topic(prompt)}".',
        "I am a simulation, so a short and friendly reply will do.",
        "It should name the subject, and promise nothing.",
        "Nothing in it needs a second look, but I shall take one all the same.",
        "Yes, that is fine.",
    )
    return " ".join(thoughts[: {"minimal": 1, "low": 2, "medium": 3, "high": 4}.get(effort, len(thoughts))])


@dataclass(frozen=True)
class Piece:
    """A delta of a choice, its number of tokens, and their logprobs if the request asked for them."""

    delta: dict[str, Any]
    tokens: int = 1
    logprobs: list[dict[str, Any]] | None = None


def tokenize(text: str) -> list[bytes]:
    """Cut text into tokens; joined, they are the UTF-8 bytes of the text."""
    tokens: list[bytes] = []
    for match in _TOKEN.findall(text):
        data = match.encode("utf-8", "replace")
        size = _MAX_LETTERS if data.isascii() else _MAX_FOREIGN
        tokens += [data[i : i + size] for i in range(0, len(data), size)]
    return tokens


def cut_text(text: str, field: str, *, top: int | None = None, variant: object = None) -> list[Piece]:
    """Cut text into deltas of one token, or of several tokens that are whole characters only together.

    ``top`` is the number of candidates to list for each token; None makes no logprobs. ``variant`` varies the
    probabilities.
    """
    pieces: list[Piece] = []
    tokens: list[bytes] = []
    entries: list[dict[str, Any]] = []
    for place, token in enumerate(tokenize(text)):
        tokens.append(token)
        if top is not None:
            entries.append(_token_logprob(token, top, digest(variant, place, token)))
        try:
            characters = b"".join(tokens).decode()
        except UnicodeDecodeError:
            continue
        pieces.append(Piece({field: characters}, len(tokens), None if top is None else entries))
        tokens, entries = [], []
    return pieces


def _token_logprob(token: bytes, top: int, number: int) -> dict[str, Any]:
    """Return the logprobs entry of a sampled token; ``number`` decides its probability and its candidates.

    The most likely candidate has 35 to 99 %, each further candidate half of the remainder. One token in eight is
    not the most likely candidate, as happens with a real model.
    """
    likely = 0.35 + (number % 1000) / 1000 * 0.64
    chances = [likely, *((1.0 - likely) / 2**rank for rank in range(1, 21))]
    rank = 1 if top > 1 and number // 1000 % 8 == 0 else 0
    others = [other for other in _OTHERS if other != token]
    start = number % len(others)
    ranked = [*others[start:], *others[:start]]
    ranked.insert(rank, token)
    candidates = [_candidate(*pair) for pair in zip(ranked, chances, strict=False)]
    return {**candidates[rank], "top_logprobs": candidates[:top]}


def _candidate(token: bytes, chance: float) -> dict[str, Any]:
    try:
        text = token.decode()
    except UnicodeDecodeError:
        # A part of a character has no text. OpenAI's API writes its bytes instead.
        text = "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
    return {"token": text, "logprob": round(math.log(chance), 6), "bytes": list(token)}
