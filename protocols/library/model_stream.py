"""Reads replies of a model's endpoint: bytes to pieces of JSON, and pieces to text, calls and token counts.

Servers for OpenAI's protocol differ in nearly everything, so nothing is assumed here: every field may be missing, null,
repeated or of another type. Content that cannot be read is an error; content without meaning is skipped. A reply that
is not a stream but the whole answer, or an error, is read as such.

Form of a stream: Server-Sent Events, HTML Living Standard, 9.2.6.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .model_calls import Calls
from .model_errors import ModelMalformed, ModelNotFound, encodable

MAX_PIECE_BYTES = 16 * 1024 * 1024
"""Largest event of a stream, or largest reply that is no stream. A bigger one is refused."""
_LINE_END = re.compile(rb"\r\n|\r|\n")
_THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""Marks around the reasoning of a model, for servers that do not take it out of the text."""
_BROKEN = ("error", "abort", "network_error", "insufficient_system_resource")
"""Finish reasons that mean a failure of the server."""


class Reader:
    """Converts the bytes of a reply, in chunks of any size, to the pieces of JSON in it."""

    def __init__(self) -> None:
        self.done = False
        """Whether the reply has announced its end."""
        self._rest = bytearray()
        self._looked = 0
        """Number of bytes of the rest that contain no line end."""
        self._form: str | None = None
        self._data: list[str] = []
        self._event = ""

    def feed(self, data: bytes) -> Iterator[dict[str, object]]:
        """Yield the pieces that are complete with these bytes. Raises ModelMalformed, or ModelNotFound."""
        self._rest += data
        self._form = self._form or _form_of(bytes(self._rest[:300]))
        for line in self._lines() if self._form == "stream" else ():
            yield from self._line(line)
        if len(self._rest) + sum(map(len, self._data)) > MAX_PIECE_BYTES:
            raise ModelMalformed(f"one piece of the reply has more than {MAX_PIECE_BYTES:,} bytes")

    def _lines(self) -> list[bytes]:
        """Take the complete lines off the rest."""
        lines, start = [], 0
        while (end := _LINE_END.search(self._rest, max(start, self._looked))) is not None:
            if end.group() == b"\r" and end.end() == len(self._rest):
                break  # the other half of CRLF may come next
            lines.append(bytes(self._rest[start : end.start()]))
            start = end.end()
        del self._rest[:start]
        self._looked = max(0, len(self._rest) - 1)
        return lines

    def end(self) -> Iterator[dict[str, object]]:
        """Yield the remaining pieces when no more bytes come: the last event, or a reply that is not a stream."""
        if self._form == "json":
            yield from _pieces_of(self._rest.decode("utf-8", "replace"))
            self.done = True
        elif self._form == "stream":
            yield from self._line(bytes(self._rest).rstrip(b"\r"))
            yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[dict[str, object]]:
        text = line.decode("utf-8", "replace").removeprefix("\ufeff")
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "" if not text:
                yield from self._dispatch()
            case "data":
                self._data.append(value)
            case "event":
                self._event = value.strip()
            case "error":  # llama-server's own form
                yield from ({"error": _error_in(piece)} for piece in _pieces_of(value))

    def _dispatch(self) -> Iterator[dict[str, object]]:
        data, event, self._data, self._event = self._data, self._event, [], ""
        if self.done or not data:
            return
        text = "\n".join(data)
        if text.strip().startswith("[DONE]"):
            self.done = True
            return
        try:
            pieces = _pieces_of(text)
        except ModelMalformed:
            if len(data) == 1:
                raise
            pieces = self._unseparated(data)  # of a server that puts no empty line between events
        yield from ({"error": _error_in(piece)} if event == "error" else piece for piece in pieces)

    def _unseparated(self, data: list[str]) -> list[dict[str, object]]:
        found = []
        for line in data:
            if line.strip().startswith("[DONE]"):
                self.done = True
                break
            found += _pieces_of(line)
        return found


def _form_of(start: bytes) -> str | None:
    """Return "json" or "stream" by the beginning of a reply; None if more bytes are needed."""
    head = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head or (len(start) < 3 and b"\xef\xbb\xbf".startswith(start)):
        return None
    if head[:1] == b"<":
        shown = head[:200].decode("utf-8", "replace")
        raise ModelNotFound(f"a page came in place of an answer; is the address right, to its '/v1'? {shown}")
    return "json" if head[:1] in (b"{", b"[") else "stream"


def _pieces_of(text: str) -> list[dict[str, object]]:
    """Return the objects in a text of JSON: one, or those of a list. Other values are skipped."""
    if not text.strip():
        return []
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise ModelMalformed(f"the endpoint sent what is no JSON: {text[:200]!r} ({error})") from error
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]


def _error_in(piece: Mapping[str, object]) -> object:
    return piece.get("error") or piece


def error_in(piece: Mapping[str, object]) -> object:
    """Return the error in a piece, as the endpoint put it; None if the piece is no error."""
    if piece.get("error"):
        return piece
    if piece.get("object") == "error":
        return piece
    for choice in _choices(piece):
        if choice.get("error"):
            return {"error": choice["error"]}
    if "choices" not in piece and any(isinstance(piece.get(key), str) for key in ("message", "detail")):
        return piece
    return None


@dataclass(slots=True)
class Heard:
    """The content of a reply so far."""

    text: str = ""
    refusal: str = ""
    """Text with which the model refuses to answer."""
    thought: bool = False
    """Whether the model has reasoned."""
    finish: str | None = None
    """Finish reason of the model, in lower case."""
    calls: Calls = field(default_factory=Calls)
    tokens_in: int | None = None
    tokens_out: int | None = None
    """Tokens as counted by the endpoint; None if it sends no valid number. `tokens_in` likewise."""
    begun: bool = False
    _plain: _Plain = field(default_factory=lambda: _Plain())

    def take(self, piece: Mapping[str, object]) -> str:
        """Add one piece; returns the text that it adds."""
        self.begun = True
        self._count(piece)
        added = ""
        for choice in _choices(piece):
            self._count(choice)
            finish = choice.get("finish_reason")
            self.finish = finish.lower() if isinstance(finish, str) and finish else self.finish
            added += self._hear(choice)
        self.text += added
        return added

    def end(self) -> str:
        """Return the text that was held back, at the end of the reply."""
        added = self._plain.end()
        self.text += added
        self.refusal = encodable(self.refusal)
        self.thought |= self._plain.thought
        return added

    def is_whole(self, done: bool) -> bool:
        """Return whether the reply reached its regular end.

        Args:
            done: whether the reply announced its end, which some servers do without a finish reason.
        """
        return self.finish not in _BROKEN and (self.finish is not None or done)

    def _hear(self, choice: Mapping[str, object]) -> str:
        delta = choice.get("delta")
        if not isinstance(delta, Mapping):
            whole = choice.get("message")
            delta = whole if isinstance(whole, Mapping) and not self.text else {}
        self.thought |= any(bool(delta.get(key)) for key in ("reasoning_content", "reasoning", "thinking"))
        self.thought |= _thinks(delta.get("content"))
        self.refusal += _words(delta.get("refusal"))
        self.calls.take(delta.get("tool_calls"), delta.get("function_call"))
        added = self._plain.take(_words(delta.get("content")))
        self.thought |= self._plain.thought
        return added

    def _count(self, holder: Mapping[str, object]) -> None:
        groq = holder.get("x_groq")
        for usage in (holder.get("usage"), groq.get("usage") if isinstance(groq, Mapping) else None):
            if isinstance(usage, Mapping):
                self.tokens_in = _number(usage.get("prompt_tokens"), self.tokens_in)
                self.tokens_out = _number(usage.get("completion_tokens"), self.tokens_out)


class _Plain:
    """Text for the reader: without reasoning at its beginning, and without half characters.

    JSON may write a character as two escapes, which servers may send in separate pieces. Half of one cannot be encoded.
    """

    def __init__(self) -> None:
        self.thought = False
        self._begun = False
        self._closing: str | None = None
        self._held = ""

    def take(self, piece: str) -> str:
        self._held += piece
        if not self._begun:
            self._begin()
        if not self._begun:
            return ""
        half = "\ud800" <= self._held[-1:] <= "\udbff"
        text, self._held = (self._held[:-1], self._held[-1]) if half else (self._held, "")
        return encodable(text)

    def end(self) -> str:
        """Return the rest of the text. Reasoning without an end mark gives no text."""
        held = "" if self._closing else self._held
        self._held = ""
        return encodable(held)

    def _begin(self) -> None:
        """Check whether reasoning stands at the beginning, and remove it when its end mark has come."""
        while not self._begun:
            if self._closing is None:
                head = self._held.lstrip()
                if not head or any(tag.startswith(head) and head != tag for tag, _ in _THOUGHTS):
                    return
                self._closing = next((close for tag, close in _THOUGHTS if head.startswith(tag)), None)
                self._begun = self._closing is None
            else:
                self.thought = True
                _, found, after = self._held.partition(self._closing)
                if not found:
                    self._held = self._held[-len(self._closing) :]
                    return
                self._closing, self._held = None, after.lstrip()


def _choices(piece: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return the choices of the first answer; others were not asked for."""
    choices = piece.get("choices")
    found = [each for each in choices if isinstance(each, Mapping)] if isinstance(choices, list) else []
    return [each for each in found if each.get("index") in (0, None)]


def _words(content: object) -> str:
    """Return the text of content in any form: a text, a part, a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_words(part) for part in content)
    if isinstance(content, Mapping) and content.get("type") not in ("thinking", "reasoning"):
        return _words(content.get("text"))
    return ""


def _thinks(content: object) -> bool:
    parts = content if isinstance(content, list) else [content]
    return any(isinstance(part, Mapping) and part.get("type") in ("thinking", "reasoning") for part in parts)


def _number(said: object, otherwise: int | None) -> int | None:
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said < 2**53:
        return otherwise
    return int(said)
