"""One attempt at an answer: the request, the parts left out of it, the reply, and the check of the reply.

An answer without visible text is a failure: a model may have only reasoned, used its tokens up, been filtered, refused,
or called tools where an answer was required. Each failure has its own kind, so that something else can stand in.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Any

from ..context import Context
from ..requests.grants import ModelSettings, ToolSpec
from .answer import context_of, json_in, why_misfit
from .context import CHARS_PER_TOKEN, Passage
from .model_asking import (
    Parameters,
    ToAnswer,
    failed_tools,
    has_passage,
    is_last_turn,
    messages_of,
    question_of,
    schema_of,
    shortened,
    turn_of,
)
from .model_errors import ModelFiltered, ModelMalformed, ModelOutOfTokens, ModelParameterRefused, ModelTooLong
from .model_stream import Heard, Reader

SHORTER = 4
"""Largest number of times that a too long request is shortened, to half each time."""
_LENGTH = ("length", "max_tokens", "model_length", "max_output_tokens", "model_context_window_exceeded")
_FILTER = ("content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii", "sensitive", "refusal")
"""Finish reasons for a filter, as servers name them; `_LENGTH` has those for a used-up limit of tokens."""


class Talk:
    """One attempt. Its request becomes smaller when the endpoint refuses parts of it."""

    def __init__(
        self, ctx: Context, input: ToAnswer, settings: ModelSettings, offered: Mapping[str, ToolSpec], unknown: set[str]
    ) -> None:
        """Prepare the request.

        Args:
            unknown: parameters that the endpoint is known to refuse.
        """
        self.input, self.settings, self.offered = input, settings, offered
        self.parameters = Parameters(settings, set(unknown))
        self.messages = messages_of(input)
        self.heard = Heard()
        self._ctx = ctx
        self._shorter = 0

    @property
    def silence_s(self) -> float:
        """Seconds for which the endpoint may be silent."""
        streams = self.settings.stream and "stream" not in self.parameters.unknown
        return self.settings.first_token_s if streams else self.settings.whole_answer_s

    @property
    def may_call(self) -> bool:
        """Whether the model may call tools in this turn."""
        takes_tools = self.settings.tools and "tools" not in self.parameters.unknown
        return bool(self.offered) and takes_tools and not is_last_turn(self.input)

    def body(self) -> dict[str, object]:
        """Return the request body as it goes over the wire."""
        return self.parameters.body(self.messages, self.input, self.offered)

    def begin(self) -> tuple[Heard, Reader]:
        self.heard = Heard()
        return self.heard, Reader()

    def do_without(self, refusal: ModelParameterRefused) -> None:
        """Leave out the refused parameter. Raises the refusal if the parameter was left out already."""
        if refusal.parameter in self.parameters.unknown:
            raise refusal
        self.parameters.unknown.add(refusal.parameter)
        self._ctx.log.warning("asking without '%s': %s", refusal.parameter, refusal)

    def shorten(self, refusal: ModelTooLong) -> None:
        """Leave out about half of the material. Raises the refusal if nothing is left, or after SHORTER times."""
        fewer = shortened(self.messages, 0.5) if self._shorter < SHORTER else None
        if fewer is None:
            raise refusal
        self.messages, self._shorter = fewer, self._shorter + 1
        self._ctx.log.warning("asking with less material: %s", refusal)

    def charge(self) -> None:
        """Report tokens and cents to the limits of these names, whether the stream was complete or not."""
        tokens, settings = self._tokens(), self.settings
        cents = (tokens["in"] * settings.cents_per_1000_in + tokens["out"] * settings.cents_per_1000_out) / 1000
        self._ctx.used(tokens=tokens["in"] + tokens["out"], cents=cents)

    def outcome(self) -> dict[str, object]:
        """Return the answer, or calls of tools. Raises ModelMalformed, ModelFiltered or ModelOutOfTokens."""
        calls = self._calls()
        if not calls:
            self._check_text()
        said: dict[str, object] = {"role": "assistant", "content": self.heard.text or None}
        if calls:
            said["tool_calls"] = [_as_said(call) for call in calls]
        return {
            "text": self.heard.text,
            "calls": [{name: call[name] for name in ("tool", "arguments", "id")} for call in calls],
            "messages": [*self.messages, said],
            "model": self.settings.name,
            "question": question_of(self.input),
            "sources": self._sources(),
            "tokens": self._tokens(),
            "missing": self._missing(),
        }

    def _calls(self) -> list[dict[str, object]]:
        """Return the calls to make. Where the model may not call tools, calls with a text are dropped; calls without
        one raise ModelMalformed. Unreadable calls raise ModelMalformed or ModelOutOfTokens."""
        heard = self.heard.calls.heard
        if not heard or (not self.may_call and not _is_blank(self.heard.text)):
            return []
        names = ", ".join(call.name for call in heard)
        if not self.may_call:
            problem = f"the model called {names} in its turn {turn_of(self.input)}, where it was to answer"
            raise ModelMalformed(problem)
        try:
            arguments = [call.read() for call in heard]
        except ModelMalformed as error:
            if self.heard.finish in _LENGTH:
                raise self._out_of_tokens(f"in the middle of a call of {names}") from error
            raise
        ids = self.heard.calls.ids(turn_of(self.input))
        return [
            {"tool": call.name, "arguments": each, "id": id, "extra": call.extra}
            for call, each, id in zip(heard, arguments, ids, strict=True)
        ]

    def _check_text(self) -> None:
        """Raise ModelFiltered, ModelOutOfTokens or ModelMalformed if the text is not a valid answer."""
        heard, schema = self.heard, schema_of(self.input)
        if _is_blank(heard.text):
            if heard.refusal.strip():
                raise ModelFiltered(f"{self.settings.name} refuses to answer: {heard.refusal.strip()[:400]}")
            if _is_filter(heard.finish):
                raise ModelFiltered(f"a filter of the endpoint took the answer of {self.settings.name} away")
            if heard.finish in _LENGTH:
                raise self._out_of_tokens("by reasoning" if heard.thought else "without a word of it")
            what = "it only reasoned" if heard.thought else "it is blank"
            raise ModelMalformed(f"the answer of {self.settings.name} says nothing: {what}")
        problem = None if schema is None else _misfit(heard.text, schema)
        if problem is not None and heard.finish in _LENGTH:
            raise self._out_of_tokens("in the middle of the JSON")
        if problem is not None:
            raise ModelMalformed(f"the answer does not fit the schema: {problem}")

    def _out_of_tokens(self, where: str) -> ModelOutOfTokens:
        limit = self.input.plan.request.limits.answer_tokens
        return ModelOutOfTokens(f"the {limit} tokens of the answer (limits.answer_tokens) were used up {where}")

    def _missing(self) -> dict[str, str]:
        """Return the things that the answer lacks, with reasons."""
        heard, found = self.heard, self.parameters.missing(self.offered) | failed_tools(self.input)
        if heard.finish in _LENGTH:
            found["end"] = "the answer reached its limit of tokens"
        elif _is_filter(heard.finish):
            found["end"] = "a filter of the endpoint cut the answer off"
        elif heard.refusal.strip():
            found["end"] = f"the model refuses the rest: {heard.refusal.strip()[:400]}"
        if self._shorter:
            found["material"] = "some of it was left out, since it was too long for the model"
        if heard.calls.heard and not self.may_call:
            found["calls"] = f"not made: {', '.join(call.name for call in heard.calls.heard)}"
        return found

    def _tokens(self) -> dict[str, int]:
        """Return the tokens as the endpoint counted them, else estimated by the length of texts; 0 if nothing came."""
        heard = self.heard
        asked = sum(len(str(message.get("content") or "")) for message in self.messages) if heard.begun else 0
        said = len(heard.text) + sum(len(call.name) + len(call.arguments) for call in heard.calls.heard)
        return {
            "in": asked // CHARS_PER_TOKEN if heard.tokens_in is None else heard.tokens_in,
            "out": said // CHARS_PER_TOKEN if not heard.tokens_out else heard.tokens_out,
        }

    def _sources(self) -> list[dict[str, object]]:
        """Return the passages in the request, the ones that the answer names first. For parts, return their sources."""
        if self.input.parts is not None:
            return sources_of_parts(self.input.parts)
        passages = context_of(self.input.plan, self.input.context, self.input.sources).passages
        if self._shorter:
            passages = [each for each in passages if has_passage(self.messages, each.path, each.line, each.end_line)]
        return [place_of(each) for each in sorted(passages, key=lambda each: each.path not in self.heard.text)]


def sources_of_parts(parts: list[dict[str, Any]]) -> list[dict[str, object]]:
    return [source for part in parts for source in part.get("sources", [])]


def place_of(passage: Passage) -> dict[str, object]:
    return {"path": passage.path, "line": passage.line, "end_line": passage.end_line}


def _as_said(call: Mapping[str, object]) -> dict[str, object]:
    """Return a call in the form in which the endpoint gets it back."""
    function = {"name": call["tool"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
    said = {"id": call["id"], "type": "function", "function": function}
    return said if call["extra"] is None else {**said, "extra_content": call["extra"]}


def _is_filter(finish: str | None) -> bool:
    return finish is not None and (finish in _FILTER or finish.startswith("content_filter"))


def _is_blank(text: str) -> bool:
    """Return whether a text shows nothing: only spaces of all kinds, and characters without a form."""
    return all(character.isspace() or unicodedata.category(character) in ("Cc", "Cf", "Zs") for character in text)


def _misfit(text: str, schema: Mapping[str, object]) -> str | None:
    try:
        return why_misfit(json_in(text), schema)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
