"""Replies as the servers that speak OpenAI's protocol send them, written down from what is known of them, not recorded;
each with what has to come out. `table()` is the table in docs/requests.md."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from podium.protocols.library.model_errors import ModelCutOff, failure_of
from podium.protocols.library.model_stream import Heard, Reader, error_in

DONE = "data: [DONE]\n\n"
GREP, LIST = {"name": "grep", "arguments": '{"pattern": "x"}'}, {"name": "list_files", "arguments": "{}"}


@dataclass(frozen=True)
class Replay:
    """One reply of one server."""

    server: str
    like: str
    """What is peculiar in it."""
    sent: bytes
    out: str
    """What comes out."""


def data(*pieces: Any, end: str = "\n\n") -> str:
    return "".join(f"data: {piece if isinstance(piece, str) else _json(piece)}{end}" for piece in pieces)


def _json(piece: Any) -> str:
    return json.dumps(piece, ensure_ascii=False)


def chunk(delta: Any = None, finish: Any = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}
    choice |= more.pop("choice", {})
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def said(*texts: Any, **more: Any) -> list[dict[str, Any]]:
    return [chunk({"content": text}, **more) for text in texts]


def usage(tokens_in: Any, tokens_out: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": 1}
    return {"id": "c-1", "object": "chat.completion.chunk", "model": "m", "choices": [], "usage": counts}


def calls(*pieces: dict[str, Any]) -> dict[str, Any]:
    return chunk({"tool_calls": list(pieces)})


def call(function: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": function, **more}


def _begin(**more: Any) -> dict[str, Any]:
    return chunk({"role": "assistant", "content": "", **more})


STOP, CALLED = chunk(finish="stop"), chunk(finish="tool_calls")
HELLO, BOTH = "text `Hello, wörld 🌍`", 'calls `grep {"pattern": "x"}`, `list_files {}`'
ONE = 'calls `grep {"pattern": "x"}`'
_TEXT = ("Hello, ", "wörld ", "🌍")


def _of(server: str, *rows: tuple[str, str, str]) -> Iterator[Replay]:
    for like, sent, out in rows:
        yield Replay(server, like, sent.encode(), out)


def _openai() -> Iterator[Replay]:
    pieces = [
        calls({**call({"name": "grep", "arguments": ""}), "index": 0, "id": "call_a"}),
        *(calls({"index": 0, "function": {"arguments": part}}) for part in ('{"patt', 'ern": ', '"x"}')),
        calls({**call({"name": "list_files", "arguments": ""}), "index": 1, "id": "call_b"}),
        calls({"index": 1, "function": {"arguments": "{}"}}),
    ]
    obfuscated = said(*_TEXT, obfuscation="x8Qz", service_tier="default", usage=None)
    error = {"message": "The server had an error. Sorry about that!", "type": "server_error", "code": None}
    yield from _of(
        "OpenAI",
        (
            "usage null until the last chunk, padding",
            data(_begin(refusal=None), *obfuscated, STOP, usage(9, 5)) + DONE,
            f"{HELLO}, tokens 9 and 5",
        ),
        ("calls in pieces, by index", data(_begin(), *pieces, CALLED) + DONE, BOTH),
        (
            "a refusal",
            data(_begin(), chunk({"refusal": "I cannot "}), chunk({"refusal": "do that"}), STOP) + DONE,
            "no text; refusal `I cannot do that`",
        ),
        ("an error in the stream", data(_begin(), *said("Hel"), {"error": error}), "ModelUnreachable"),
        ("the connection ends in the middle", data(_begin(), *said("Hel")), "ModelCutOff"),
    )


def _azure() -> Iterator[Replay]:
    first = {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}], "id": ""}
    offsets = {"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {"start_offset": 0}}]}
    filtered = chunk(finish="content_filter", choice={"content_filter_result": {"hate": {"filtered": True}}})
    yield from _of(
        "Azure OpenAI",
        (
            "results of filters in chunks without choices or delta",
            data(first, *said(*_TEXT), offsets, STOP) + DONE,
            HELLO,
        ),
        (
            "the last delta is null",
            data(first, *said(*_TEXT), chunk(finish="stop", choice={"delta": None})) + DONE,
            HELLO,
        ),
        ("the filter takes the answer", data(first, _begin(), filtered) + DONE, "no text; finish `content_filter`"),
    )


def _gemini() -> Iterator[Replay]:
    signed = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    counted = {"usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 20}}
    both = [{**call(GREP, id=""), "index": 0, **signed}, {**call(LIST, id=""), "index": 0}]
    refused = [{"error": {"code": 429, "message": "Resource exhausted. Please retry in 34.07s.", "status": "X"}}]
    yield from _of(
        "Gemini's OpenAI endpoint",
        (
            "usage with every chunk, large pieces",
            data(*said(*_TEXT, **counted), chunk(finish="stop", **counted)) + DONE,
            f"{HELLO}, tokens 9 and 5",
        ),
        ("calls without ids, all of index 0, finish `stop`", data(*map(calls, both), STOP) + DONE, BOTH),
        ("an error as a list", data(refused), "ModelBusy, back in 34.07 s"),
    )


def _ollama() -> Iterator[Replay]:
    each = [chunk({"role": "assistant", "content": text}, system_fingerprint="fp_ollama") for text in _TEXT]
    thinking = [chunk({"role": "assistant", "content": "", "reasoning": "hm"})]
    tagged = said("<thi", "nk>\nhm, hm", "</th", "ink>\n\n", *_TEXT)
    whole = calls({**call(GREP), "index": 0, "id": "call_x1"}, {**call(LIST), "index": 0, "id": "call_x2"})
    yield from _of(
        "Ollama",
        ("role with every chunk, reasoning apart", data(*thinking, *each, STOP) + DONE, HELLO),
        ("reasoning in the text, tags in pieces", data(*tagged, STOP, usage(9, 5)) + DONE, f"{HELLO}, tokens 9 and 5"),
        ("two calls of one index in a chunk, finish `stop`", data(whole, STOP) + DONE, BOTH),
        ("an error as a text", data({"error": "model runner has unexpectedly stopped"}), "ModelUnreachable"),
    )


def _vllm() -> Iterator[Replay]:
    counted = [
        chunk({"content": text}, usage={"prompt_tokens": 9, "completion_tokens": at})
        for at, text in enumerate(_TEXT, 1)
    ]
    first = calls({**call({"name": "grep"}), "index": 0, "id": "chatcmpl-tool-1"})
    parts = [calls({"index": 0, "function": {"arguments": part}}) for part in ('{"pattern"', ': "x"}')]
    again = calls({"index": 0, "function": {"arguments": GREP["arguments"]}})
    error = {"object": "error", "message": "maximum context length is 4096 tokens", "type": "BadRequest", "code": 400}
    yield from _of(
        "vLLM",
        (
            "usage that grows, reasoning first",
            data(_begin(), chunk({"reasoning_content": "hm"}), *counted, STOP) + DONE,
            f"{HELLO}, tokens 9 and 3",
        ),
        ("arguments sent once more at the end", data(first, *parts, again, CALLED) + DONE, ONE),
        ("an error of its own form", data(error) + DONE, "ModelTooLong"),
        (
            "only reasoning, and the tokens are used up",
            data(chunk({"reasoning": "hm"}), chunk(finish="length")) + DONE,
            "no text, reasoning; finish `length`",
        ),
    )


def _llama_server() -> Iterator[Replay]:
    first = chunk({"role": "assistant", "content": None})
    timed = chunk(finish="stop", timings={"prompt_n": 9, "predicted_n": 5})
    pieces = [calls({**call({"name": "grep", "arguments": "{"}), "index": 0, "id": "r4nd"})]
    pieces += [calls({"index": 0, "function": {"arguments": '"pattern": "x"}'}})]
    error = {"code": 400, "message": "the request exceeds the available context size", "type": "exceed_context_size"}
    yield from _of(
        "llama-server",
        ("content null, times instead of usage", data(first, *said(*_TEXT), timed) + DONE, HELLO),
        ("a call in pieces", data(first, *pieces, CALLED) + DONE, ONE),
        ("`error:` instead of `data:`", f"error: {json.dumps(error)}\n\n", "ModelTooLong"),
    )


def _lm_studio() -> Iterator[Replay]:
    pieces = [calls({**call({"name": "grep", "arguments": ""}), "index": 0, "id": "365174485"})]
    pieces += [calls({"index": 0, **call({"name": None, "arguments": part})}) for part in ('{"pattern":', ' "x"}')]
    error = {"error": {"message": "The number of tokens to keep from the initial prompt is greater than the context"}}
    yield from _of(
        "LM Studio",
        ("no [DONE]", data(*said(*_TEXT), STOP), HELLO),
        ("ids of digits, names null afterwards", data(*pieces, CALLED) + DONE, ONE),
        ("an event named error", f"event: error\n{data(error)}", "ModelTooLong"),
    )


def _sglang() -> Iterator[Replay]:
    empty = {"content": None, "reasoning_content": None, "tool_calls": None}
    each = [chunk({**empty, "content": text}, choice={"finish_reason": "", "matched_stop": None}) for text in _TEXT]
    name = calls({"index": 0, "id": "call_1", **call({"name": "grep", "arguments": ""})})
    parts = [
        calls({"index": 0, "id": "call_1", **call({"name": "grep", "arguments": part})})
        for part in ('{"pattern": ', '"x"}')
    ]
    second = calls({"index": 0, "id": "call_2", **call(LIST)})
    yield from _of(
        "sglang",
        ("every field null, finish an empty text", data(chunk(empty), *each, STOP) + DONE, HELLO),
        (
            "id and name with every piece, the next call of the same index",
            data(name, *parts, second, CALLED) + DONE,
            BOTH,
        ),
        ("it was aborted", data(*said("Hel"), chunk(finish="abort")) + DONE, "ModelCutOff"),
    )


def _nim() -> Iterator[Replay]:
    both = [call(GREP, id="chatcmpl-tool-a"), call(LIST, id="chatcmpl-tool-b")]
    yield from _of(
        "NVIDIA NIM",
        ("half of the usage", data(_begin(), *said(*_TEXT), STOP, usage(9, None)) + DONE, f"{HELLO}, tokens 9 and ?"),
        ("calls without an index", data(*map(calls, both), CALLED) + DONE, BOTH),
    )


def _deepseek() -> Iterator[Replay]:
    reasoning = [chunk({"role": "assistant", "content": None, "reasoning_content": text}) for text in ("Hm", ", hm")]
    each = [chunk({"content": text, "reasoning_content": None}) for text in _TEXT]
    last = chunk({"content": "", "reasoning_content": None}, "stop", usage=usage(9, 5)["usage"])
    yield from _of(
        "DeepSeek",
        (
            "comments to keep alive, reasoning first",
            ": keep-alive\n\n" + data(*reasoning, *each, last) + DONE,
            f"{HELLO}, tokens 9 and 5",
        ),
        ("only reasoning", data(*reasoning, STOP) + DONE, "no text, reasoning; finish `stop`"),
        ("it has no room", data(*said("Hel"), chunk(finish="insufficient_system_resource")) + DONE, "ModelCutOff"),
    )


def _openrouter() -> Iterator[Replay]:
    comment = ": OPENROUTER PROCESSING\n\n"
    thinking = chunk({"content": "", "reasoning": "hm", "reasoning_details": [{"text": "hm"}]}, provider="X")
    late = chunk({"role": "assistant", "content": ""}, usage=usage(9, 5)["usage"], provider="X")
    error = {"error": {"code": 502, "message": "Provider disconnected"}}
    yield from _of(
        "OpenRouter",
        (
            "comments between events, usage after the end",
            comment * 3 + data(thinking) + comment + data(*said(*_TEXT), STOP, late) + DONE,
            f"{HELLO}, tokens 9 and 5",
        ),
        ("an error beside a choice", data(*said("Hel"), chunk({"content": ""}, "error", **error)), "ModelUnreachable"),
        ("busy, in the stream", comment + data({"error": {"code": 429, "message": "Rate limited"}}), "ModelBusy"),
    )


def _groq() -> Iterator[Replay]:
    first = _begin() | {"x_groq": {"id": "req_1"}}
    last = chunk(finish="stop", x_groq={"id": "req_1", "usage": {"prompt_tokens": 9, "completion_tokens": 5}})
    yield from _of(
        "Groq",
        ("usage in a field of its own", data(first, *said(*_TEXT), last) + DONE, f"{HELLO}, tokens 9 and 5"),
        ("a whole call in one chunk", data(first, calls({**call(GREP), "index": 0, "id": "a1"}), CALLED) + DONE, ONE),
    )


def _mistral() -> Iterator[Replay]:
    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]
    parts = [[{"type": "text", "text": text}] for text in _TEXT]
    both = [{**call(GREP), "id": "D681PevKs", "index": 0}, {**call(LIST), "id": "k3JYaPlQ2", "index": 1}]
    yield from _of(
        "Mistral",
        (
            "content in parts, reasoning among them",
            data(*said(thinking, *parts), STOP, usage(9, 5)) + DONE,
            f"{HELLO}, tokens 9 and 5",
        ),
        ("two calls in one chunk", data(calls(*both), CALLED) + DONE, BOTH),
        (
            "too long for the model",
            data(*said(*_TEXT), chunk(finish="model_length")) + DONE,
            f"{HELLO}; finish `model_length`",
        ),
    )


def _anthropic() -> Iterator[Replay]:
    pieces = [
        calls({"index": 1, "id": "toolu_1", **call({"name": "grep", "arguments": ""})}),
        calls({"index": 1, "function": {"arguments": '{"pattern": "x"}'}}),
        calls({"index": 2, "id": "toolu_2", **call({"name": "list_files", "arguments": ""})}),
    ]
    error = {"error": {"type": "overloaded_error", "message": "Overloaded"}}
    yield from _of(
        "Anthropic's compatibility endpoint",
        (
            "lines end with CRLF",
            data(_begin(), *said(*_TEXT), STOP, usage(9, 5)).replace("\n", "\r\n") + DONE,
            f"{HELLO}, tokens 9 and 5",
        ),
        ("indexes that begin later, no arguments at all", data(*pieces, CALLED) + DONE, BOTH),
        ("overloaded, in the stream", f"event: error\n{data(error)}", "ModelBusy"),
    )


def _others() -> Iterator[Replay]:
    message = {"role": "assistant", "content": "".join(_TEXT), "tool_calls": None}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage(9, 5)["usage"]}
    as_object = {"index": 0, "id": "0", **call({"name": "grep", "arguments": {"pattern": "x"}})}
    escapes = json.dumps(chunk({"content": "Hello, wörld \ud83c"})), json.dumps(chunk({"content": "\udf0d"}))
    legacy = [
        chunk({"function_call": {"name": "grep", "arguments": ""}}),
        chunk({"function_call": {"arguments": GREP["arguments"]}}),
        chunk(finish="function_call"),
    ]
    yield from _of(
        "TGI",
        ("a call that is no list, arguments an object", data(chunk({"tool_calls": as_object}), STOP) + DONE, ONE),
    )
    yield from _of(
        "llama-cpp-python",
        ("a character in two halves", data(*escapes, STOP) + DONE, HELLO),
        ("`function_call`", data(*legacy) + DONE, ONE),
    )
    yield from _of(
        "servers that do not stream",
        ("the whole answer as JSON", json.dumps(whole, indent=2), f"{HELLO}, tokens 9 and 5"),
        ("a page", "<!doctype html><title>Log in</title>", "ModelNotFound"),
    )
    yield from _of(
        "proxies",
        ("`data: null`, no reason to finish, but [DONE]", data("null", *said(*_TEXT), "null", '""') + DONE, HELLO),
        ("no empty line between events", data(*said(*_TEXT), STOP, end="\n") + DONE, HELLO),
    )


def replays() -> list[Replay]:
    servers = (_openai, _azure, _gemini, _ollama, _vllm, _llama_server, _lm_studio, _sglang, _nim, _deepseek)
    servers = (*servers, _openrouter, _groq, _mistral, _anthropic, _others)
    return [replay for server in servers for replay in server()]


def cut(sent: bytes, seed: int) -> list[bytes]:
    """The same bytes in pieces: seed 0 one by one, 1 all at once, else by chance."""
    if seed < 2:
        return [sent[at : at + 1] for at in range(len(sent))] if seed == 0 else [sent]
    chance = random.Random(seed)
    places = sorted(chance.sample(range(1, len(sent)), k=chance.randint(1, min(40, len(sent) - 1))))
    return [sent[start:end] for start, end in zip([0, *places], [*places, len(sent)], strict=True)]


def came_out(pieces: Sequence[bytes]) -> str:
    """What the client makes of a reply."""
    reader, heard = Reader(), Heard()
    try:
        for piece in _read(reader, pieces):
            if (error := error_in(piece)) is not None:
                raise failure_of("m", None, error, ())
            heard.take(piece)
        heard.end()
        if not heard.is_whole(reader.done):
            raise ModelCutOff("m")
    except Exception as error:
        after_s = getattr(error, "retry_after_s", None)
        return type(error).__name__ + ("" if after_s is None else f", back in {after_s:g} s")
    return _words(heard)


def _read(reader: Reader, pieces: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    for piece in pieces:
        yield from reader.feed(piece)
    yield from reader.end()


def _words(heard: Heard) -> str:
    made = ", ".join(f"`{call.name} {json.dumps(call.read())}`" for call in heard.calls.heard)
    what = f"text `{heard.text}`" if heard.text else f"calls {made}" if made else "no text"
    if heard.refusal:
        return f"{what}; refusal `{heard.refusal}`"
    if not heard.text and not made and heard.thought:
        what += ", reasoning"
    if heard.tokens_in is not None:
        what += f", tokens {heard.tokens_in} and {'?' if heard.tokens_out is None else heard.tokens_out}"
    usual = made or (heard.text and heard.finish in ("stop", None))
    return what if usual else f"{what}; finish `{heard.finish}`"


def table() -> str:
    rows = [f"| {each.server} | {each.like} | {each.out} |" for each in replays()]
    return "\n".join(["| server | its stream | what came out |", "|---|---|---|", *rows])
