"""One answer of the simulated model, planned in full before its first byte is sent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from .payloads import CREATED, dump
from .schemas import call_pieces, choose_calls, fitting
from .tokens import Piece, count, digest, text_pieces
from .words import last_text, reasoning, reply_text, text_of

__all__ = ["Answer"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of an answer."""

    index: int
    pieces: list[Piece]
    finish_reason: str

    @property
    def tokens(self) -> int:
        """How many tokens it holds."""
        return sum(piece.tokens for piece in self.pieces)


class Answer:
    """The answer to one valid request, to be sent whole or in chunks."""

    def __init__(self, body: Mapping[str, Any], model: str, *, agent: bool) -> None:
        self.model = model
        self._body = body
        self._agent = agent
        self._messages = cast("list[dict[str, Any]]", body["messages"])
        self._prompt = last_text(self._messages)
        # Greedy decoding has no use for a seed.
        heat = body.get("temperature")
        self._flavour = ("greedy",) if heat == 0 else (heat, body.get("seed"))
        self._choices = [self._plan(index) for index in range(body.get("n") or 1)]
        self._id = f"chatcmpl-{digest(self._messages, self._flavour, model):012x}"

    def _plan(self, index: int) -> Choice:
        effort = self._body.get("reasoning_effort")
        thoughts = reasoning(self._prompt, effort) if effort not in (None, "none") else ""
        pieces = text_pieces(thoughts, "reasoning_content")
        if self._wants_tools():
            wanted: Any = self._body.get("tool_choice")
            calls = choose_calls(
                self._body["tools"],
                self._prompt,
                named=None if isinstance(wanted, str | None) else wanted["function"]["name"],
                parallel=self._body.get("parallel_tool_calls") is not False,
                choice=index,
            )
            pieces += call_pieces(calls)
            finish = "tool_calls"
        else:
            top = (self._body.get("top_logprobs") or 0) if self._body.get("logprobs") else None
            pieces += text_pieces(self._text(index), "content", top=top, flavour=(self._flavour, index))
            finish = "stop"
        limit = self._body.get("max_completion_tokens") or self._body.get("max_tokens")
        if limit is not None and sum(piece.tokens for piece in pieces) > limit:
            return Choice(index, _cut(pieces, limit), "length")
        return Choice(index, pieces, finish)

    def _wants_tools(self) -> bool:
        choice = self._body.get("tool_choice")
        if not self._body.get("tools") or choice == "none":
            return False
        # A result is there to be told; only who insists gets another call.
        return choice not in (None, "auto") or self._messages[-1]["role"] != "tool"

    def _text(self, index: int) -> str:
        wanted = cast("dict[str, Any]", self._body.get("response_format") or {})
        text = reply_text(self._messages, flavour=self._flavour, choice=index)
        if wanted.get("type") == "json_object":
            text = dump({"reply": text}).decode()
        elif wanted.get("type") == "json_schema":
            text = dump(fitting(wanted["json_schema"]["schema"], self._prompt)).decode()
        stop: str | list[str] = self._body.get("stop") or []
        for word in [stop] if isinstance(stop, str) else stop:
            text = text.partition(word)[0]
        return text

    def completion(self) -> dict[str, Any]:
        """Give the answer whole."""
        choices = [
            {
                "index": choice.index,
                "message": _message(choice),
                "finish_reason": choice.finish_reason,
                "logprobs": self._logprobs(choice.pieces),
            }
            for choice in self._choices
        ]
        return {
            **self._frame("chat.completion"),
            "choices": choices,
            "usage": self._usage(),
            **self._extras(),
        }

    def chunks(self) -> Iterator[dict[str, Any]]:
        """Give the answer as chunks, those of several choices in turn."""
        frame = self._frame("chat.completion.chunk")
        options = cast("dict[str, Any]", self._body.get("stream_options") or {})
        with_usage = bool(options.get("include_usage"))
        if with_usage:
            frame["usage"] = None
        turns = itertools.zip_longest(*(self._deltas(choice) for choice in self._choices))
        deltas = [delta for turn in turns for delta in turn if delta is not None]
        for number, delta in enumerate(deltas, 1):
            yield {**frame, "choices": [delta], **(self._extras() if number == len(deltas) else {})}
        if with_usage:
            yield {**frame, "choices": [], "usage": self._usage()}

    def _deltas(self, choice: Choice) -> Iterator[dict[str, Any]]:
        calls = any("tool_calls" in piece.delta for piece in choice.pieces)
        role = {"role": "assistant", "content": None if calls else ""}
        rest = {"index": choice.index, "finish_reason": None, "logprobs": None}
        yield {**rest, "delta": role}
        for piece in choice.pieces:
            yield {**rest, "delta": piece.delta, "logprobs": self._logprobs([piece])}
        yield {**rest, "delta": {}, "finish_reason": choice.finish_reason}

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        told = [piece.logprobs for piece in pieces if piece.logprobs is not None]
        return {"content": list(itertools.chain(*told)), "refusal": None} if told else None

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": CREATED, "model": self.model}

    def _usage(self) -> dict[str, Any]:
        prompt = sum(count(text_of(message.get("content"))) + 4 for message in self._messages)
        completion = sum(choice.tokens for choice in self._choices)
        thoughts = sum(
            piece.tokens
            for choice in self._choices
            for piece in choice.pieces
            if "reasoning_content" in piece.delta
        )
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "cache_created_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "cache_read_input_tokens": 0,
            "completion_tokens_details": {"reasoning_tokens": thoughts},
        }

    def _extras(self) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        if self._agent and self._body.get("include_retrieval_info"):
            page = f"A page that the simulated knowledge base holds on {self._prompt!r}."
            data = {"id": "doc-1", "index": "kb-1", "filename": "page.md", "page_content": page, "score": 0.9}
            extras["retrieval"] = {"retrieved_data": [data]}
        if self._agent and self._body.get("include_functions_info"):
            names = [
                piece.delta["tool_calls"][0]["function"]["name"]
                for piece in self._choices[0].pieces
                if piece.delta.get("tool_calls", [{}])[0].get("id")
            ]
            extras["functions"] = {"called_functions": names}
        if self._agent and self._body.get("include_guardrails_info"):
            extras["guardrails"] = {"triggered_guardrails": []}
        return extras


def _cut(pieces: Sequence[Piece], limit: int) -> list[Piece]:
    totals = itertools.accumulate(piece.tokens for piece in pieces)
    return [piece for piece, total in zip(pieces, totals, strict=True) if total <= limit]


def _message(choice: Choice) -> dict[str, Any]:
    content = [piece.delta["content"] for piece in choice.pieces if "content" in piece.delta]
    thoughts = [piece.delta.get("reasoning_content", "") for piece in choice.pieces]
    calls: list[dict[str, Any]] = []
    for piece in choice.pieces:
        for entry in piece.delta.get("tool_calls", []):
            if "id" in entry:
                call = {key: value for key, value in entry.items() if key != "index"}
                calls.append({**call, "function": dict(entry["function"])})
            else:
                calls[-1]["function"]["arguments"] += entry["function"]["arguments"]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if calls else "".join(content),
        "refusal": None,
    }
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message
