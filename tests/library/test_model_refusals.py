"""What endpoints refuse, in their own words: told apart, tried again only where that helps, or done without."""

from __future__ import annotations

import json
import time
from email.utils import formatdate

import pytest

import podium
from podium.protocols.errors import InvalidSetting
from podium.protocols.library.model_asking import CUT, shortened
from podium.protocols.library.model_calls import Calls
from podium.protocols.library.model_errors import ModelError, ModelMalformed, failure_of, said_in
from podium.protocols.library.model_stream import Heard, Reader
from podium.protocols.requests.grants import requests_config
from tests.support.replays import DONE, STOP, chunk, data
from tests.support.served import Reply, refused, serving

KNOWN = {"max_completion_tokens", "stream", "stream_options", "tools", "tool_choice", "response_format", "temperature"}
KNOWN |= {"system", "reasoning_effort"}
OPENAI_429 = "Rate limit reached for m on tokens per min (TPM): Limit 30000. Please try again in 6m0s."
TPM = "Request too large for model `m` on tokens per minute (TPM): Limit 6000, please reduce your message"
EFFORT = "'reasoning_effort' does not support 'none' with this model."


def error(message, **more):
    return {"error": {"message": message, **more}}


WORDS = [
    ("OpenAI's key", 401, error("Incorrect API key provided: sk-x.", code="invalid_api_key"), "ModelKeyRefused"),
    ("Gemini's key", 400, [error("API key not valid. Please pass a valid API key.", code=400)], "ModelKeyRefused"),
    ("xAI's key", 400, {"code": "Client error", "error": "Incorrect API key provided"}, "ModelKeyRefused"),
    ("a proxy's key", 403, "<html>403 Forbidden</html>", "ModelKeyRefused"),
    ("OpenAI's length", 400, error("This model's maximum context length is 8 tokens."), "ModelTooLong"),
    ("Anthropic's length", 400, error("prompt is too long: 210000 tokens > 200000 maximum"), "ModelTooLong"),
    ("Gemini's length", 400, [error("The input token count (9) exceeds the maximum number (8).")], "ModelTooLong"),
    ("llama-server's length", 500, error("the request exceeds the available context size"), "ModelTooLong"),
    ("Groq's length", 413, error(TPM, code="rate_limit_exceeded"), "ModelTooLong"),
    ("OpenAI's length by the minute", 429, error("Request too large for m on tokens per min (TPM)"), "ModelTooLong"),
    ("nginx's length", 413, "<html><title>413 Request Entity Too Large</title></html>", "ModelTooLong"),
    ("sglang's length", 400, {"object": "error", "message": "is longer than the model's context"}, "ModelTooLong"),
    ("OpenAI's model", 404, error("The model `m` does not exist", code="model_not_found"), "ModelNotFound"),
    ("OpenRouter's model", 400, error("m/x is not a valid model ID", code=400), "ModelNotFound"),
    ("Ollama's model", 404, error("model 'm' not found, try pulling it first"), "ModelNotFound"),
    ("an address", 404, {"detail": "Not Found"}, "ModelNotFound"),
    ("DeepSeek's account", 402, error("Insufficient Balance"), "ModelUnpaid"),
    ("OpenAI's account", 429, error("You exceeded your current quota", code="insufficient_quota"), "ModelUnpaid"),
    ("Azure's filter", 400, error("The response was filtered", code="content_filter"), "ModelFiltered"),
    ("OpenRouter's moderation", 403, error("Your input was flagged", code=403), "ModelFiltered"),
    ("OpenAI's rate", 429, error(OPENAI_429), "ModelBusy"),
    ("Anthropic's load", 529, error("Overloaded", type="overloaded_error"), "ModelBusy"),
    ("a pause", 503, "Service Unavailable", "ModelBusy"),
    ("a gateway", 502, "<html>Bad Gateway</html>", "ModelUnreachable"),
    ("Cloudflare", 524, "error code: 524", "ModelUnreachable"),
    ("anything else", 418, "I am a teapot", "ModelRefused"),
    ("nothing said", 400, "", "ModelRefused"),
    ("tools in a message", 400, error("Invalid parameter: messages with role 'tool' must follow"), "ModelRefused"),
]


@pytest.mark.parametrize(("status", "body", "kind"), [row[1:] for row in WORDS], ids=[row[0] for row in WORDS])
def test_a_refusal_is_told_by_what_the_endpoint_says(status, body, kind):
    assert type(failure_of("m", status, body, KNOWN)).__name__ == kind


PARAMETERS = [
    ("OpenAI", 400, error("Unsupported parameter: 'x'", param="max_completion_tokens"), "max_completion_tokens"),
    ("OpenAI's value", 400, error("Unsupported value", param="temperature", code="unsupported_value"), "temperature"),
    (
        "OpenAI's stream",
        400,
        error("Your organization must be verified to stream this.", param="stream"),
        "stream",
    ),
    ("Mistral", 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"]}]}, "stream_options"),
    ("Groq", 400, error("property 'reasoning_effort' is unsupported"), "reasoning_effort"),
    ("a value of ours", 400, error(EFFORT), "reasoning_effort"),
    ("Ollama", 400, error("registry.ollama.ai/library/gemma:latest does not support tools"), "tools"),
    ("OpenRouter", 404, error("No endpoints found that support tool use."), "tools"),
    ("vLLM", 400, {"message": '"auto" tool choice requires --enable-auto-tool-choice to be set'}, "tools"),
    ("llama-server", 500, error("tools param requires --jinja flag"), "tools"),
    ("DeepSeek", 400, error("This response_format type is unavailable now"), "response_format"),
    ("Gemma", 400, error("System role not supported"), "system"),
    ("Azure", 400, error("Unrecognized request argument supplied: stream_options"), "stream_options"),
]


@pytest.mark.parametrize(
    ("status", "body", "name"), [row[1:] for row in PARAMETERS], ids=[row[0] for row in PARAMETERS]
)
def test_an_unknown_parameter_is_found_in_what_the_endpoint_says(status, body, name):
    failure = failure_of("m", status, body, KNOWN)
    assert type(failure).__name__ == "ModelParameterRefused" and failure.parameter == name


@pytest.mark.parametrize(
    ("text", "after_s"),
    [
        ("Please try again in 20s.", 20.0),
        ("Please try again in 120ms", 0.12),
        ("Please try again in 6m0s.", 360.0),
        ("try again in 1h2m3.5s", 3723.5),
        ("Please retry in 34.07s", 34.07),
        ("come back later", None),
        ("try again in a while", None),
    ],
)
def test_when_to_come_back_is_read_from_words(text, after_s):
    assert failure_of("m", 429, error(text), ()).retry_after_s == after_s


def test_what_is_said_is_found_and_cut():
    assert said_in([{"error": {"message": "a\n  b"}}]) == "a b"
    assert said_in({"detail": [{"msg": "no", "loc": ["body", "tools"]}]}) == '[{"msg": "no", "loc": ["body", "tools"]}]'
    assert len(said_in("x" * 9_000)) < 500


@pytest.fixture
def engine_of(tmp_path):
    def opened(served, **settings):
        model = {"base_url": served.url, "name": "m", "key_env": None, "first_token_s": 5.0, **settings}
        config = {"requests": {"owner": "ada", "model": model}}
        return podium.connect(data=tmp_path / "data", cluster="inprocess", user="ada", config=config)

    return opened


def asked(engine, text="hello?", **request):
    task = engine.ask(text, priority=1, **{"type": "simple_query", **request})
    events = list(task.events())
    return task.result(timeout_s=30), events


def retries_of(events):
    return [event.value["failure"] for event in events if event.kind == "retrying"]


HELLO = Reply([(data(chunk({"content": "hello"}), STOP) + DONE).encode()])
NOT_AGAIN = [
    (status, body, kind)
    for name, status, body, kind in WORDS
    if name
    in ("OpenAI's key", "OpenAI's length", "OpenAI's model", "DeepSeek's account", "Azure's filter", "anything else")
]


@pytest.mark.parametrize(("status", "body", "kind"), NOT_AGAIN, ids=[kind for *_, kind in NOT_AGAIN])
def test_what_would_be_refused_again_is_asked_once_and_the_answer_says_why(engine_of, status, body, kind):
    with serving(refused(status, body)) as served, engine_of(served) as engine:
        answer, events = asked(engine)
    assert len(served.asked) == 1 and retries_of(events) == []
    assert said_in(body) in answer["missing"]["model"] and "could not be reached" not in str(answer)


@pytest.mark.parametrize("status", [429, 502, 503, 529])
@pytest.mark.parametrize("form", ["seconds", "date", "milliseconds"])
def test_retry_after_is_heeded_in_all_its_forms(engine_of, status, form):
    headers = {
        "seconds": {"Retry_After": "2"},
        "date": {"retry_after": formatdate(time.time() + 3, usegmt=True)},
        "milliseconds": {"Retry_After_Ms": "2100"},
    }[form]
    with serving(refused(status, error("later"), **headers), HELLO) as served, engine_of(served) as engine:
        answer, events = asked(engine)
    (retry,) = [event for event in events if event.kind == "retrying"]
    assert answer["text"] == "hello" and retry.value["retry_at"] - retry.at >= 1.5


def test_a_parameter_that_is_refused_is_done_without_and_not_asked_for_again(engine_of):
    def reply(bodies):
        for name in ("max_completion_tokens", "stream_options", "temperature"):
            if name in bodies[-1]:
                return refused(400, error(f"Unsupported parameter: '{name}'", param=name))
        return HELLO

    with serving(by=reply) as served, engine_of(served, temperature=0.5) as engine:
        answer, events = asked(engine)
        again, _ = asked(engine)
    assert answer["text"] == again["text"] == "hello" and retries_of(events) == []
    assert answer["missing"] == {"setting temperature": "the model's endpoint refuses it"}
    assert len(served.asked) == 5 and served.asked[-1]["max_tokens"] == 1_000


def test_a_parameter_stays_unknown_only_if_the_endpoint_answers_without_it(engine_of):
    replies = [refused(400, error("x", param="stream_options")), refused(401, error("no")), HELLO]
    with serving(*replies) as served, engine_of(served) as engine:
        asked(engine)
        asked(engine)
    assert ["stream_options" in body for body in served.asked] == [True, False, True]


def test_a_server_that_does_not_stream_is_asked_for_the_whole(engine_of):
    whole = {"choices": [{"message": {"content": "all of it"}, "finish_reason": "stop"}]}
    streams = refused(400, error("streaming is not supported"))
    with serving(streams, refused(200, whole)) as served, engine_of(served) as engine:
        answer, _ = asked(engine)
    assert answer["text"] == "all of it" and ["stream" in body for body in served.asked] == [True, False]


def test_a_server_that_takes_no_tools_answers_without_and_the_answer_says_so(engine_of, tmp_path):
    replies = (refused(400, error("m does not support tools")), HELLO)
    with serving(*replies) as served, engine_of(served) as engine:
        answer, _ = asked(engine, type="tool_execution", root=str(tmp_path), tools=["list_files"])
    assert answer["text"] == "hello" and "does not take tools" in answer["missing"]["tools"]
    assert ["tools" in body for body in served.asked] == [True, False]


SCHEMA = {"type": "object", "properties": {"by": {"type": "string"}}, "required": ["by"]}
BY_EPOCH = Reply([(data(chunk({"content": '{"by": "epoch"}'}), STOP) + DONE).encode()])


def test_a_server_without_schemas_is_told_the_schema_in_words(engine_of):
    replies = (refused(400, error("response_format json_schema is not supported")), BY_EPOCH)
    with serving(*replies) as served, engine_of(served) as engine:
        answer, _ = asked(engine, answer_schema=SCHEMA)
    assert answer["value"] == {"by": "epoch"}
    assert json.dumps(SCHEMA) in served.asked[-1]["messages"][0]["content"]


def test_a_model_without_a_system_role_hears_it_with_the_question(engine_of):
    with serving(refused(400, error("System role not supported")), HELLO) as served, engine_of(served) as engine:
        answer, _ = asked(engine)
    (message,) = served.asked[-1]["messages"]
    assert answer["text"] == "hello" and message["role"] == "user"
    assert message["content"].startswith("You answer") and message["content"].endswith("hello?")


def test_the_switches_decide_what_is_asked(engine_of, tmp_path):
    off = {"answer_tokens_as": "none", "stream": False, "usage": False, "tools": False, "schema_as": "json_object"}
    more = {"system_role": "developer", "temperature": 0.0, "extra": {"reasoning_effort": "low"}}
    with serving(BY_EPOCH) as served, engine_of(served, **off, **more) as engine:
        asked(engine, type="tool_execution", root=str(tmp_path), tools=["list_files"], answer_schema=SCHEMA)
    (body,) = served.asked
    assert set(body) == {"model", "messages", "stream", "temperature", "reasoning_effort", "response_format"}
    assert body["stream"] is False and body["temperature"] == 0.0 and body["messages"][0]["role"] == "developer"
    assert body["response_format"] == {"type": "json_object"} and "fits this schema" in body["messages"][0]["content"]


def test_an_address_that_is_none_is_refused_as_a_setting():
    for url in ("ftp://x/v1", "localhost:8080/v1", "http://"):
        config = {"requests": {"model": {"base_url": url}}}
        with pytest.raises(InvalidSetting, match="base_url"):
            requests_config(config)


def test_a_key_that_an_endpoint_repeats_is_not_told(engine_of, monkeypatch):
    monkeypatch.setenv("OUR_KEY", "sk-very-secret\n")
    said = error("Incorrect API key provided: sk-very-secret. You can find yours at ...")
    with serving(refused(401, said)) as served, engine_of(served, key_env="OUR_KEY") as engine:
        answer, events = asked(engine)
    assert "Incorrect API key" in answer["missing"]["model"]
    assert "sk-very-secret" not in str(answer) + str([event.value for event in events])


@pytest.mark.parametrize(("key", "why"), [("", "there is none in OUR_KEY"), ("schlüssel", "that no header may have")])
def test_a_key_that_is_missing_or_no_key_is_said(engine_of, monkeypatch, key, why):
    monkeypatch.setenv("OUR_KEY", key)
    with serving(refused(401, error("no"))) as served, engine_of(served, key_env="OUR_KEY") as engine:
        answer, _ = asked(engine)
    assert why in answer["missing"]["model"]


def _too_long_over(chars):
    def reply(bodies):
        length = sum(len(message["content"] or "") for message in bodies[-1]["messages"])
        return HELLO if length <= chars else refused(400, error("maximum context length is 9 tokens"))

    return reply


def test_a_request_that_is_too_long_is_made_shorter_and_says_so(engine_of):
    long, short = {"name": "long", "text": "l " * 4_000}, {"name": "short", "text": "s " * 1_000}
    with serving(by=_too_long_over(4_000)) as served, engine_of(served) as engine:
        answer, events = asked(engine, type="context_query", attachments=[long, short])
    assert answer["text"] == "hello" and "left out" in answer["missing"]["material"] and retries_of(events) == []
    assert "attachment:short" in str(served.asked[-1]) and "attachment:long" not in str(served.asked[-1])
    assert [source["path"] for source in answer["sources"]] == ["attachment:short"]


def test_a_request_is_not_made_shorter_for_ever(engine_of):
    pieces = [{"name": str(number), "text": "x " * 500} for number in range(12)]
    with serving(by=_too_long_over(0)) as served, engine_of(served) as engine:
        answer, _ = asked(engine, type="context_query", attachments=pieces)
    assert 2 <= len(served.asked) <= 5 and "too long for the model's context" in answer["missing"]["model"]


def test_a_shorter_request_keeps_what_is_asked():
    result = "r" * 3_000
    messages = [
        {"role": "system", "content": "s" * 100},
        {"role": "user", "content": "old?"},
        {"role": "assistant", "content": "o" * 2_000},
        {
            "role": "user",
            "content": f"new?\n\n<material>\n--- a:1-2\nshort\n--- b:1-2\n{'x' * 2_000}\n</material>",
        },
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]},
        {"role": "tool", "tool_call_id": "a", "content": result},
    ]
    once = shortened(messages, 0.75)
    assert [message["role"] for message in once] == [message["role"] for message in messages]
    assert once[3]["content"] == "new?\n\n<material>\n--- a:1-2\nshort\n</material>" and once[5]["content"] == result
    least = shortened(messages, 0.0)
    assert [message["role"] for message in least] == ["system", "user", "assistant", "tool"]
    assert least[1]["content"] == "new?" and least[3]["content"].endswith(CUT) and len(least[3]["content"]) <= 440
    assert shortened(least, 0.5) is None and len(messages) == 6 and messages[5]["content"] == result


def calls_of(*pieces):
    calls = Calls()
    for piece in pieces:
        calls.take([piece])
    return [(call.name, call.read()) for call in calls.heard], calls.ids(3)


def _call(name, arguments, **more):
    return {**more, "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("pieces", "out"),
    [
        ([_call("a", '{"x": 1}', index=0), _call("a", '{"x": 2}', index=0)], [("a", {"x": 1}), ("a", {"x": 2})]),
        ([_call("a", "", index=0, id="1"), _call("b", "", index=0, id="2")], [("a", {}), ("b", {})]),
        ([_call("a", '"{\\"x\\": 1}"', index=0)], [("a", {"x": 1})]),
        ([_call("a", None, index=0)], [("a", {})]),
        ([_call("a", "null", index=0)], [("a", {})]),
        ([_call("read", "", index=0), _call("read_file", "{}", index=0)], [("read_file", {})]),
        ([_call("a", "{", id="x1"), {"id": "x1", "function": {"arguments": "}"}}], [("a", {})]),
        ([_call("a", '{"x":', id="r1", index=0), _call("a", "1}", id="r2", index=0)], [("a", {"x": 1})]),
        ([{"name": "a", "arguments": {"x": [1]}}], [("a", {"x": [1]})]),
        ([_call("a", '{"x": "\\ud83d"}', index=0)], [("a", {"x": "�"})]),
    ],
)
def test_calls_are_put_together_from_whatever_comes(pieces, out):
    calls, ids = calls_of(*pieces)
    assert calls == out and all(ids) and len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "arguments", ['{"x": ', "[1]", '{"x": 1180591620717411303424}', '{"x": NaN}', "3", "[" * 100_000]
)
def test_arguments_that_are_none_are_malformed(arguments):
    with pytest.raises(ModelMalformed):
        calls_of(_call("a", arguments, index=0))


def test_what_a_call_has_to_carry_is_a_value_too():
    with pytest.raises(ModelMalformed):
        calls_of(_call("a", "{}", index=0, extra_content={"signature": 2**70}))


def test_ids_that_come_twice_are_told_apart():
    assert calls_of(_call("a", "{}", index=0, id="c"), _call("b", "{}", index=1, id="c"))[1] == ["c", "call03001"]


@pytest.mark.parametrize("blank", ["", " \n\t", "\u200b", "\u00a0\u3000", "\ufeff", "<think>hm</think>\n", "<think>hm"])
def test_an_answer_with_nothing_to_read_is_none(engine_of, blank):
    reply = Reply([(data(chunk({"content": blank}), STOP) + DONE).encode()])
    with serving(reply, HELLO) as served, engine_of(served) as engine:
        answer, events = asked(engine)
    assert [failure["kind"] for failure in retries_of(events)] == ["ModelMalformed"] and answer["text"] == "hello"


def test_a_call_that_is_cut_off_by_the_limit_is_not_tried_again(engine_of, tmp_path):
    cut = data(chunk({"tool_calls": [_call("grep", '{"patt', index=0, id="a")]}), chunk(finish="length")) + DONE
    with serving(Reply([cut.encode()])) as served, engine_of(served) as engine:
        answer, _ = asked(engine, type="tool_execution", root=str(tmp_path), tools=["list_files"])
    assert len(served.asked) == 1 and "in the middle of a call of grep" in answer["missing"]["model"]


def test_a_call_where_none_was_offered_is_no_answer_but_text_beside_it_is(engine_of):
    call = {"tool_calls": [_call("grep", "{}", index=0, id="a")]}
    beside = Reply([(data(chunk({"content": "so be it", **call}), STOP) + DONE).encode()])
    alone = Reply([(data(chunk(call), STOP) + DONE).encode()])
    with serving(alone, beside) as served, engine_of(served) as engine:
        answer, events = asked(engine)
    assert [failure["kind"] for failure in retries_of(events)] == ["ModelMalformed"]
    assert answer["text"] == "so be it" and answer["missing"] == {"calls": "not made: grep"}
    assert len(served.asked) == 2


def test_a_conversation_remembers_no_answer_without_text(engine_of):
    with serving(Reply([(data(STOP) + DONE).encode()])) as served, engine_of(served) as engine:
        asked(engine, session="s")
        asked(engine, session="s")
    said = [message for message in served.asked[-1]["messages"] if message["role"] == "assistant"]
    assert said and all(message["content"] for message in said)


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4)),
        ({"prompt_tokens": 3.0, "completion_tokens": True}, (3, None)),
        ({"prompt_tokens": -1, "completion_tokens": "4"}, (None, None)),
        ({"prompt_tokens": float("inf"), "completion_tokens": float("nan")}, (None, None)),
        ([], (None, None)),
        ("12", (None, None)),
    ],
)
def test_a_count_of_tokens_that_is_none_is_passed_over(said, counted):
    heard = Heard()
    heard.take({"choices": [], "usage": said})
    assert (heard.tokens_in, heard.tokens_out) == counted


@pytest.mark.parametrize("piece", [
    {"choices": None}, {"choices": [None]}, {"choices": {}}, {"choices": [{"delta": "x"}]}, {},
    {"choices": [{"delta": {"content": 3, "tool_calls": "x", "refusal": 1}, "finish_reason": 7}]},
    {"choices": [{"index": 1, "delta": {"content": "another"}}]}, {"choices": [{"delta": []}]}, {"usage": 3},
])  # fmt: skip
def test_a_piece_in_which_nothing_is_said_is_passed_over(piece):
    heard = Heard()
    assert heard.take(piece) == "" and heard.calls.heard == [] and heard.finish is None


def test_a_piece_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr("podium.protocols.library.model_stream.MAX_PIECE_BYTES", 1_000)
    reader = Reader()
    with pytest.raises(ModelMalformed, match="more than 1,000 bytes"):
        for _ in range(200):
            list(reader.feed(b"data: aaaaaaaaaa"))


def test_errors_keep_what_they_say_when_they_are_sent():
    import pickle

    failures = [failure_of("m", status, body, KNOWN) for _, status, body, _ in WORDS + PARAMETERS]
    for failure in [*failures, ModelError("x", 3.0)]:
        again = pickle.loads(pickle.dumps(failure))
        assert str(again) == str(failure) and vars(again) == vars(failure)
