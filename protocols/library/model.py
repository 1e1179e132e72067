"""Asks a model at any endpoint for OpenAI's chat completions, as a protocol of ours.

The client's own retries are off: the engine handles attempts, waits, the breaker, permits and budgets. Failures have
kinds (model_errors.py), so that policies can name them. A stream that ends without a finish reason was cut off. An
answer without visible text is a failure. Parameters that an endpoint does not know, and material that is too long for
it, are left out within the attempt, and reported. Without an endpoint the answer consists of quotations, and says so.

The text of files, tools and members is material for the model, never an instruction: permissions do not depend on it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel

from ..context import Context
from ..policy import Breaker, Retry
from ..protocol import Protocol, protocol
from ..requests.grants import ModelSettings, requests_config
from ..retry_after import retry_after_s
from .answer import context_of
from .builtin import SHIPPED_TOOLS
from .model_asking import ToAnswer, failed_tools, question_of, said_by_tools
from .model_errors import (
    ModelCutOff,
    ModelError,
    ModelKeyRefused,
    ModelMalformed,
    ModelParameterRefused,
    ModelRefused,
    ModelStalled,
    ModelTooLong,
    ModelUnreachable,
    failure_of,
)
from .model_stream import Reader, error_in
from .model_talk import Talk, place_of, sources_of_parts
from .quoting import NO_MODEL, quotation, why_no_model

DRAIN_S = 0.2
"""Seconds to wait for the end of a reply after its last piece, so that its connection can be used again."""


class ToQuote(BaseModel):
    """The input of the model, with the failure because of which it gave no answer."""

    asked: ToAnswer
    error: dict[str, object]
    """The failure: {"code", "message", "kind"}."""


class Model(Protocol):
    """Answers a request from its context. Emits {"text"} as the answer grows."""

    concurrency = 32
    quotas: ClassVar[Mapping[str, int]] = {"llm": 1}
    retry = Retry(
        attempts=3,
        initial_delay_s=1.0,
        max_delay_s=5.0,
        only=("ModelError", "timeout"),
        under_pressure=1,
        for_priority=5,
    )
    breaker = Breaker(failure_rate=0.5, min_calls=10, open_s=30.0, counts=("ModelError", "timeout"))

    def __init__(self) -> None:
        self._clients: dict[tuple[str, str], object] = {}
        self._unknown: dict[tuple[str, str], set[str]] = {}
        """Refused parameters without which an endpoint has answered, by address and model."""

    async def run(self, ctx: Context, input: ToAnswer) -> dict[str, object]:
        config = requests_config(ctx.config)
        settings = config.model
        if settings.base_url is None:
            return _quoted(ctx, input, NO_MODEL, {})
        tools = {**SHIPPED_TOOLS, **config.tools}
        names = input.plan.plan.tools if input.question is None else ()
        place = (settings.base_url, settings.name)
        offered = {name: tools[name] for name in names if name in tools}
        talk = Talk(ctx, input, settings, offered, self._unknown.get(place, set()))
        await self._converse(ctx, talk)
        outcome = talk.outcome()
        self._unknown[place] = talk.parameters.unknown
        return outcome

    async def _converse(self, ctx: Context, talk: Talk) -> None:
        """Ask again with less, until the endpoint refuses nothing. Raises the refusal if that cannot help."""
        while True:
            try:
                async for delta in self._stream(ctx, talk):
                    ctx.emit({"text": delta})
                return
            except ModelParameterRefused as refusal:
                talk.do_without(refusal)
            except ModelTooLong as refusal:
                talk.shorten(refusal)
            finally:
                talk.charge()

    async def _stream(self, ctx: Context, talk: Talk) -> AsyncIterator[str]:
        heard, reader = talk.begin()
        body = talk.body()
        endpoint = _Endpoint(talk.settings, _key_of(talk.settings), talk.parameters.named(body), talk.silence_s)
        with endpoint.told():
            async with self._reply(endpoint, body) as reply:
                async for piece in _pieces(reply.iter_bytes(), reader, endpoint.silence_s):
                    if (error := error_in(piece)) is not None:
                        raise endpoint.failure(None, error)
                    ctx.heartbeat()
                    if delta := heard.take(piece):
                        yield delta
        if delta := heard.end():
            yield delta
        if not heard.is_whole(reader.done):
            raise ModelCutOff(f"{endpoint.where} stopped in the middle, after {len(heard.text)} characters")

    def _reply(self, endpoint: _Endpoint, body: Mapping[str, object]) -> Any:
        """Return the reply as bytes, because the client's own stream parser fails on replies of real servers."""
        more = {name: value for name, value in body.items() if name not in ("model", "messages")}
        chat = self._client(endpoint).chat.completions
        return chat.with_streaming_response.create(
            model=body["model"], messages=body["messages"], extra_body=more, timeout=endpoint.silence_s
        )

    def _client(self, endpoint: _Endpoint) -> Any:
        place = (str(endpoint.settings.base_url), endpoint.key)
        if place not in self._clients:
            self._clients[place] = _library().AsyncOpenAI(
                base_url=endpoint.settings.base_url, api_key=endpoint.key or "none", max_retries=0
            )
        return self._clients[place]


@protocol(concurrency=64)
async def extract(ctx: Context, input: ToQuote | ToAnswer) -> dict[str, object]:
    """Answer with quotations in place of a model that gives no answer. The answer contains the reason."""
    asked, error = (input.asked, input.error) if isinstance(input, ToQuote) else (input, None)
    sentence, reason = why_no_model(error)
    return _quoted(ctx, asked, sentence, {"model": reason})


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """An endpoint, with the parameters that it may refuse."""

    settings: ModelSettings
    key: str
    parameters: Collection[str]
    silence_s: float

    @property
    def where(self) -> str:
        return f"{self.settings.name} at {self.settings.base_url}"

    def failure(self, status: int | None, body: object, after_s: float | None = None) -> Exception:
        """Convert an error of the endpoint to one of ours, without the key, which some endpoints repeat in it."""
        if self.key:
            body = json.loads(json.dumps(body).replace(self.key, "…"))
        failure = failure_of(self.where, status, body, self.parameters, after_s)
        if isinstance(failure, ModelKeyRefused) and not self.key:
            return ModelKeyRefused(f"{failure}; there is none in {self.settings.key_env or 'the settings (key_env)'}")
        return failure

    @contextmanager
    def told(self) -> Iterator[None]:
        """Convert errors of the client and its connection to ours."""
        openai, httpx = _library(), _connections()
        try:
            yield
        except (openai.APITimeoutError, httpx.TimeoutException) as error:
            raise ModelStalled(f"nothing came from {self.where} for {self.silence_s:g} s") from error
        except openai.APIStatusError as error:
            failure = self.failure(error.status_code, _body_of(error), retry_after_s(error, time.time()))
            raise failure from None  # its cause would repeat what was said, with the key
        except (openai.APIError, httpx.RequestError, OSError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelUnreachable(f"{self.where}: {error.__cause__ or error!r}") from error


async def _pieces(data: AsyncIterator[bytes], reader: Reader, silence_s: float) -> AsyncIterator[dict[str, object]]:
    """Yield the pieces of a reply until its last piece, or until the stream ends. Raises ModelStalled."""
    while not reader.done:
        try:
            more = await asyncio.wait_for(anext(data, None), silence_s)
        except TimeoutError as error:
            raise ModelStalled(f"nothing came from the model for {silence_s:g} s") from error
        for piece in reader.end() if more is None else reader.feed(more):
            yield piece
        if more is None:
            return
    try:
        async with asyncio.timeout(DRAIN_S):
            async for _ in data:
                pass
    except Exception:  # all has been said; without its end the connection is only closed
        return


def _body_of(error: Any) -> Any:
    """Return the content of an error response: JSON in any form, or a text."""
    try:
        content = bytes(error.response.content)
    except Exception:  # the connection ended before it was all there
        return str(error)
    reader = Reader()
    try:
        pieces = [*reader.feed(content), *reader.end()]
    except (ModelMalformed, ModelRefused):
        pieces = []
    return pieces[0] if pieces else content.decode("utf-8", "replace") or str(error)


def _key_of(settings: ModelSettings) -> str:
    key = os.environ.get(settings.key_env, "").strip() if settings.key_env else ""
    if not (key.isascii() and key.isprintable()):
        raise ModelKeyRefused(f"the key in {settings.key_env} has characters that no header may have")
    return key


def _library() -> Any:
    try:
        import openai  # noqa: PLC0415  (0.5 s, an extra, and not needed without an endpoint)
    except ImportError as error:
        way = "install podium with the extra `llm`, or pip install openai"
        raise ModelRefused(f"a model needs the OpenAI client: {way}") from error
    return openai


def _connections() -> Any:
    import httpx2  # noqa: PLC0415  (what the OpenAI client connects with, and comes with it)

    return httpx2


def _quoted(ctx: Context, input: ToAnswer, why: str, missing: dict[str, str]) -> dict[str, object]:
    question = question_of(input)
    if input.parts is not None:
        text, sources = _joined(input.parts, why), sources_of_parts(input.parts)
    else:
        context = context_of(input.plan, input.context, input.sources)
        text, pieces = quotation(question, context, said_by_tools(input), "" if input.question else why)
        sources = [place_of(piece) for piece in pieces]
    ctx.emit({"text": text})
    return {
        "text": text,
        "calls": [],
        "messages": [],
        "model": None,
        "question": question,
        "sources": sources,
        "tokens": {},
        "missing": failed_tools(input) | missing,
    }


def _joined(parts: list[dict[str, object]], why: str) -> str:
    return "\n\n".join([why, *(f"### {part['question']}\n\n{part['text']}" for part in parts)])
