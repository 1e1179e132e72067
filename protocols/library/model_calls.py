"""Builds calls of tools from the pieces in which a model's endpoint sends them.

By OpenAI's rules a piece belongs to the call with its `index`, and only the first piece has id and name. Servers
deviate: some send every call as index 0, or without an index. Ids are null, empty, or the same for each call. Name and
id come with every piece. Arguments are an object, come twice, or are JSON in a text of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import InvalidInput
from ..values import check_value
from .model_errors import ModelMalformed, encodable


@dataclass(slots=True)
class HeardCall:
    """One call as received so far."""

    index: object
    id: str = ""
    name: str = ""
    arguments: str = ""
    extra: object = None
    """Data that the endpoint wants to see again with the call (Gemini's signature of its thoughts)."""

    def read(self) -> dict[str, object]:
        """Return the arguments of the call. Raises ModelMalformed."""
        try:
            arguments = _value(self.arguments)
            if isinstance(arguments, str):
                arguments = _value(arguments)
            check_value([arguments, self.extra], "arguments")
        except (InvalidInput, ValueError, RecursionError) as error:
            problem = f"the model called {self.name!r} with what is no value: {encodable(self.arguments[:200])}"
            raise ModelMalformed(problem) from error
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict) or not self.name:
            raise ModelMalformed(f"the model called a tool in a form that is none: {encodable(self.arguments[:200])}")
        return arguments

    @property
    def is_whole(self) -> bool:
        try:
            return isinstance(json.loads(self.arguments), dict)
        except (ValueError, RecursionError):
            return False


class Calls:
    """The calls of one reply, in their order."""

    def __init__(self) -> None:
        self.heard: list[HeardCall] = []

    def take(self, pieces: object, legacy: object = None) -> None:
        """Add the `tool_calls` of a delta, and its `function_call` (the older form)."""
        for piece in pieces if isinstance(pieces, list) else [pieces]:
            if isinstance(piece, Mapping):
                self._take(piece)
        if isinstance(legacy, Mapping) and not pieces:
            self._take({"index": 0, "function": legacy})

    def ids(self, turn: int) -> list[str]:
        """Return an id for each call: its own, or a generated one if it has none or another call has the same.

        Args:
            turn: number of the turn, so that generated ids differ between turns. They have nine letters and digits, as
                Mistral requires.
        """
        ids: list[str] = []
        for number, call in enumerate(self.heard):
            ids.append(call.id if call.id and call.id not in ids else f"call{turn % 100:02}{number % 1000:03}")
        return ids

    def _take(self, piece: Mapping[str, object]) -> None:
        function = piece.get("function")
        function = function if isinstance(function, Mapping) else piece
        index, id, name = piece.get("index"), _text(piece.get("id")), _text(function.get("name"))
        arguments = function.get("arguments")
        said = arguments if isinstance(arguments, str) else "" if arguments is None else json.dumps(arguments)
        call = self._call_of(index, id, name, said)
        call.id = call.id or id
        call.name = _grown(call.name, name)
        call.extra = piece.get("extra_content") or call.extra
        if not (said == call.arguments and call.is_whole):  # some send it all once more at the end
            call.arguments += said

    def _call_of(self, index: object, id: str, name: str, said: str) -> HeardCall:
        """Return the call that a piece continues, or a new one."""
        known = [call for call in self.heard if index is None or call.index == index]
        if index is None and id:
            known = [call for call in self.heard if call.id == id] or known
        if not known or _begins_another(known[-1], id, name, said):
            self.heard.append(HeardCall(index))
            return self.heard[-1]
        return known[-1]


def _begins_another(call: HeardCall, id: str, name: str, said: str) -> bool:
    if id and call.id and id != call.id:
        is_same = name == call.name and call.arguments.strip() and not call.is_whole  # a new id with every piece
        return bool(name) and not is_same
    if not name or not call.is_whole or (said == call.arguments and name == call.name):
        return False
    return bool(said) or name != call.name


def _grown(name: str, more: str) -> str:
    """Return a name with its next piece. A server may send it whole, in pieces, once more, or longer each time."""
    return more if more.startswith(name) else name if name == more else name + more


def _text(said: object) -> str:
    return encodable(said) if isinstance(said, str) else "" if said is None else str(said)


def _value(text: str) -> object:
    """Parse a text of JSON; an empty one is {}. Characters that UTF-8 cannot encode are replaced. Raises ValueError."""
    value = json.loads(text.strip() or "{}", parse_constant=_refuse)
    return json.loads(encodable(json.dumps(value, ensure_ascii=False)))


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no number of JSON")
