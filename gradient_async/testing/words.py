"""What the simulated model says: short, sensible, and the same every time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from .tokens import digest

__all__ = ["last_text", "reasoning", "reply_text", "text_of"]

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
_MOST_COUNT = 1000
_MOST_WORDS = 20_000
_MOST_TOPIC = 80
_MOST_RESULT = 200


def text_of(content: object) -> str:
    """Text of a message's content: a string, a part, or a list of both."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(filter(None, (text_of(part) for part in cast("list[object]", content))))
    if isinstance(content, dict):
        text = cast("dict[str, object]", content).get("text")
        return text if isinstance(text, str) else ""
    return ""


def last_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Text of the last message from the user; empty if there is none."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return text_of(message.get("content"))
    return ""


def _topic(prompt: str) -> str:
    words = " ".join(prompt.split()).rstrip(" ?!.")
    if len(words) <= _MOST_TOPIC:
        return words or "nothing in particular"
    return words[:_MOST_TOPIC].rsplit(" ", 1)[0] + " …"


def reply_text(messages: Sequence[Mapping[str, Any]], *, flavour: object, choice: int) -> str:
    """Write the reply to a conversation.

    Args:
        messages: The conversation.
        flavour: Whatever else decides on the words, such as seed and temperature.
        choice: Index of the choice; choices of one request differ.

    Returns:
        The text. After results of tools it tells them; else the last message of the user decides: "Say: …"
        is echoed, "Count to …", "… story", "… emoji", "… 500 words" and greetings are understood, and
        everything else is answered with a few sentences that name it.
    """
    prompt = last_text(messages)
    results = _results(messages)
    if results:
        text = f"According to the tools: {'; '.join(results)}. That should answer your question."
    else:
        text = _known(prompt) or ""
    if text:
        return f"{text} (version {choice + 1})" if choice else text
    number = digest(prompt, flavour) + choice
    opener = _OPENERS[number % len(_OPENERS)].format(topic=_topic(prompt))
    # The lengths have no common divisor, so that 385 choices in a row differ.
    return f"{opener} {_MIDDLES[number % len(_MIDDLES)]} {_CLOSERS[number % len(_CLOSERS)]}"


def _results(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    found: list[str] = []
    for message in reversed(messages):
        if message.get("role") != "tool":
            break
        found.insert(0, text_of(message.get("content"))[:_MOST_RESULT])
    return found


def _known(prompt: str) -> str | None:
    echo = re.match(r"\s*(?:say|echo|repeat):\s*(.+)", prompt, re.IGNORECASE | re.DOTALL)
    if echo:
        return echo[1]
    count = re.search(r"\bcount (?:from \w+ )?to (\w+)", prompt, re.IGNORECASE)
    if count:
        return _count(count[1].lower())
    words = re.search(r"\b(\d{1,6}) words\b", prompt)
    if words:
        return _words(min(int(words[1]), _MOST_WORDS))
    if re.search(r"\bstory\b", prompt, re.IGNORECASE):
        return " ".join(_STORY).format(topic=_topic(prompt))
    if re.search(r"\bemojis?\b", prompt, re.IGNORECASE):
        return "Gladly: 👋 🌍 🚀 🎉 and a flag, 🇩🇪. Other scripts too: naïve, Zürich, Ελλάδα, 日本語, 안녕."
    if re.match(r"\s*(?:hi|hello|hey)\b", prompt, re.IGNORECASE):
        return "Hello! I am a simulated model on your own machine. What would you like to try?"
    return None


def _count(end: str) -> str:
    if end in _NUMBERS:
        said = _NUMBERS[1 : _NUMBERS.index(end) + 1]
    elif end.isdecimal():
        said = [str(number) for number in range(1, min(int(end), _MOST_COUNT) + 1)]
    else:
        said = []
    return (
        f"{', '.join(said)}.".capitalize()
        if said
        else "I can count to twenty in words, or to 1000 in digits."
    )


def _words(count: int) -> str:
    supply = " ".join(_MIDDLES).split()
    return " ".join(supply[number % len(supply)] for number in range(count))


def reasoning(prompt: str, effort: str) -> str:
    """Think aloud about a prompt, the longer the higher the effort."""
    thoughts = (
        f'The user writes "{_topic(prompt)}".',
        "I am a simulation, so a short and friendly reply will do.",
        "It should name the subject, and promise nothing.",
        "Nothing in it needs a second look, but I shall take one all the same.",
        "Yes, that is fine.",
    )
    return " ".join(thoughts[: {"minimal": 1, "low": 2, "medium": 3, "high": 4}.get(effort, len(thoughts))])
