"""What terminals and pipes may be shown."""

from __future__ import annotations

import math
import re
import sys

from ..types import ChatCompletion, Choice, TokenLogprob, ToolCall

__all__ = ["percent", "printable", "say", "summary", "tool_line", "write"]

# Control characters but for tab and line feed, and the marks that turn text around.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Show control characters instead of obeying them: a model's words do not move the cursor."""
    return _HIDDEN.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def write(text: str) -> None:
    """Put text out at once; what the output's encoding lacks is replaced."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def say(text: str = "") -> None:
    """Put a line out."""
    write(text + "\n")


def percent(entry: TokenLogprob) -> str:
    """How likely the model held a token to be, as people read it."""
    return f"{100 * math.exp(min(0.0, entry.logprob)):.0f}%"


def tool_line(call: ToolCall) -> str:
    """A tool call in one line."""
    return printable(
        f"{call.function.name}({call.function.arguments})" + (f"  [{call.id}]" if call.id else "")
    )


def summary(completion: ChatCompletion) -> str:
    """A completion for people: every choice's words and calls, then what it took."""
    lines: list[str] = []
    for choice in completion.choices:
        lines += _choice_lines(choice, numbered=len(completion.choices) > 1)
    if completion.usage is not None:
        usage = completion.usage
        lines.append(f"[{usage.prompt_tokens} + {usage.completion_tokens} = {usage.total_tokens} tokens]")
    return "\n".join(lines)


def _choice_lines(choice: Choice, *, numbered: bool) -> list[str]:
    message = choice.message
    lines = [f"-- choice {choice.index}"] if numbered else []
    if message.reasoning_content:
        lines.append(f"(thinking) {printable(message.reasoning_content)}")
    if message.content:
        lines.append(printable(message.content))
    if message.refusal:
        lines.append(f"(refused) {printable(message.refusal)}")
    lines += [f"-> {tool_line(call)}" for call in message.tool_calls or ()]
    lines.append(f"[{choice.finish_reason or 'no finish_reason'}]")
    return lines
