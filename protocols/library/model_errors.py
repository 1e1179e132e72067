"""Failures of a model's endpoint, divided by what can be done about them.

A `ModelError` may disappear with another attempt. A `ModelRefused` would come again with the same request, so it is not
tried again. Its kind names the cause: the key, the length, a parameter, the name of the model, the account or the
question. Endpoints word this in many ways; `failure_of` reads status, code and text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping

SAID_CHARS = 400
"""Longest quotation of an endpoint in a message of ours, in characters."""


class ModelError(Exception):
    """The endpoint did not give an answer; another attempt may help."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelUnreachable(ModelError, ConnectionError):
    """There is no connection, or the endpoint itself failed."""


class ModelStalled(ModelError, TimeoutError):
    """The endpoint was silent for too long."""


class ModelBusy(ModelError):
    """The endpoint is busy and wants to be asked again later."""


class ModelCutOff(ModelError, ConnectionError):
    """The stream ended before the answer was complete."""


class ModelMalformed(ModelError):
    """The answer, or a call of a tool in it, is not in the form that was asked for; for example a blank answer."""


class ModelRefused(Exception):
    """The endpoint refuses this request, and would refuse it again."""


class ModelKeyRefused(ModelRefused):
    """The key is wrong, missing, or lacks a permission."""


class ModelTooLong(ModelRefused):
    """The request is longer than the model's context."""


class ModelParameterRefused(ModelRefused):
    """The endpoint does not know a parameter, or the feature behind it: tools, a stream, a schema of the answer."""

    def __init__(self, message: str, parameter: str) -> None:
        super().__init__(message, parameter)
        self.message, self.parameter = message, parameter

    def __str__(self) -> str:
        return self.message


class ModelNotFound(ModelRefused):
    """There is no such model, or no chat completions endpoint at this address."""


class ModelUnpaid(ModelRefused):
    """The account has no credit or quota left."""


class ModelFiltered(ModelRefused):
    """A filter of the endpoint, or the model itself, refuses to answer."""


class ModelOutOfTokens(ModelRefused):
    """The limit of tokens was used up before there was an answer."""


_FILTERED = re.compile(
    r"content[_ ]filter|content management policy|responsible ?ai|moderation|flagged|content[_ ]policy|safety system"
)
_KEY = re.compile(
    r"api[ _-]?key.{0,40}(invalid|not valid|incorrect|missing|expired)|(invalid|incorrect|missing).{0,20}api[ _-]?key"
)
_TOO_LONG = re.compile(
    r"context[_ ](length|size|window)|maximum context|exceed_context|n_ctx|(prompt|input) is too long"
    r"|token count.{0,80}exceeds|reduce (the length|your (message|prompt))|longer than the (model|maximum)"
    r"|tokens to keep from the initial prompt|request (entity )?too large"
    r"|exceeds? the max\w* (number of )?(input )?tokens"
)
_UNKNOWN = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|extra_forbidden|extra inputs|additional propert|unexpected"
    r"|not (permitted|allowed|implemented|available)|unavailable|requires|no endpoints found|must be verified"
)
_MISFIT = re.compile(r"invalid|must be|should be|out of range|only the default")
_OTHER_WORDS = (
    ("tools", re.compile(r"\btools?\b|tool[ _-](use|choice|call)|function[ _-]call")),
    ("response_format", re.compile(r"json[_ ]schema|structured output|guided|grammar")),
    ("stream_options", re.compile(r"include_usage")),
    ("stream", re.compile(r"\bstreaming\b|to stream\b")),
    ("system", re.compile(r"system (role|message|instruction|prompt)|developer instruction")),
)
"""Other words by which endpoints refer to a parameter."""
_NO_MODEL = re.compile(
    r"model[_ ]not[_ ]found|no such model|not a valid model|model.{0,120}(not exist|not found|not loaded)"
)
_UNPAID = re.compile(r"insufficient[_ ](quota|balance|credit)|exceeded your current quota|billing|out of credit")
_COME_BACK = re.compile(r"(?:try again|retry) in (?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)(ms|s))?")
_RETRY_DELAY = re.compile(r'"retrydelay": ?"(\d+(?:\.\d+)?)s"')
_BY_TYPE = {"overloaded": 529, "rate_limit": 429, "authentication": 401, "permission": 403, "not_found": 404}


def failure_of(
    where: str, status: int | None, body: object, parameters: Collection[str], after_s: float | None = None
) -> ModelError | ModelRefused:
    """Convert an error reply of an endpoint, or an error in its stream, to one of ours.

    Args:
        where: the model and its address, for the message.
        status: HTTP status; None in a stream, where the body may contain one.
        body: parsed JSON if the reply was JSON, else the text.
        parameters: parameters of the request that can be left out.
        after_s: seconds until the endpoint wants to be asked again, from its headers; None reads them from the body.
    """
    status = status or _status_in(body)
    said, whole = said_in(body), _whole(body)
    after_s = _seconds_in(whole) if after_s is None else after_s
    refused = _refused(f"{where}: {{}} ({status}): {said}", status, body, whole, parameters, after_s)
    if refused is not None:
        return refused
    if status in (429, 503, 529):
        return ModelBusy(f"{where} is busy ({status}): {said}", after_s)
    if status >= 500 or status in (408, 409, 425):
        return ModelUnreachable(f"{where} failed ({status}): {said}", after_s)
    return ModelRefused(f"{where} refused the request ({status}): {said}")


def said_in(body: object) -> str:
    """Return the message of an error reply in any form, cut to SAID_CHARS."""
    found = body
    while isinstance(found, list) and found:
        found = found[0]
    for _ in range(3):
        if not isinstance(found, Mapping):
            break
        found = next((found[key] for key in ("error", "message", "detail", "msg") if found.get(key)), str(dict(found)))
    text = found if isinstance(found, str) else _whole(found, lower=False)
    text = encodable(" ".join(text.split()))
    return text if len(text) <= SAID_CHARS else f"{text[:SAID_CHARS]}…"


def encodable(text: str) -> str:
    """Return the text with surrogate pairs joined, and lone surrogates replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _refused(
    sentence: str, status: int, body: object, whole: str, parameters: Collection[str], after_s: float | None
) -> ModelRefused | None:
    """Return the kind of refusal; None if another attempt may help, or no kind fits."""

    def saying(what: str) -> str:
        return sentence.replace("{}", what, 1)

    if status == 429 and not _TOO_LONG.search(whole):
        unpaid = after_s is None and _UNPAID.search(whole)
        return ModelUnpaid(saying("the account has no quota left")) if unpaid else None
    if status == 402:
        return ModelUnpaid(saying("the account has no credit left"))
    if status in (400, 403, 451) and _FILTERED.search(whole):
        return ModelFiltered(saying("a filter refuses the request"))
    if status in (401, 403) or (status < 500 and _KEY.search(whole)):
        return ModelKeyRefused(saying("the key was refused"))
    if status in (502, 503, 529):
        return None
    if _TOO_LONG.search(whole) or status == 413:
        return ModelTooLong(saying("the request is too long for the model's context"))
    parameter = _parameter_in(body, whole, parameters)
    if parameter is not None:
        return ModelParameterRefused(saying(f"the parameter '{parameter}' was refused"), parameter)
    if status == 404 or (status < 500 and _NO_MODEL.search(whole)):
        return ModelNotFound(saying("there is no such model, or no such address"))
    return None


def _parameter_in(body: object, whole: str, parameters: Collection[str]) -> str | None:
    """Return the parameter that an endpoint does not know: the first one that the error names, or else describes."""
    named = body.get("error") if isinstance(body, Mapping) else None
    param = named.get("param") if isinstance(named, Mapping) else None
    head = re.split(r"[.\[]", param)[0] if isinstance(param, str) else None
    if head in parameters:
        return head
    unknown = _UNKNOWN.search(whole)
    if not unknown and not _MISFIT.search(whole):
        return None
    places = {name: re.search(rf"(?<![\w]){re.escape(name.lower())}(?![\w])", whole) for name in parameters}
    found = {name: place.start() for name, place in places.items() if place is not None}
    if found:
        return min(found, key=lambda name: found[name])
    described = (name for name, words in _OTHER_WORDS if name in parameters and words.search(whole))
    return next(described, None) if unknown else None


def _status_in(body: object) -> int:
    """Return the status of an error in a stream. An error without one counts as 500, which is tried again."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    if not isinstance(error, Mapping):
        return 500
    for key in ("code", "status", "status_code", "type"):
        said = error.get(key)
        if isinstance(said, int | str) and str(said).isdecimal() and 400 <= int(said) <= 599:
            return int(said)
    kind = f"{error.get('type')} {error.get('code')} {error.get('status')}".lower()
    return next((status for word, status in _BY_TYPE.items() if word in kind), 500)


def _seconds_in(whole: str) -> float | None:
    """Return the seconds to wait, from texts such as `try again in 1m2.5s`; None if there are none."""
    found = _RETRY_DELAY.search(whole)
    if found is not None:
        return float(found.group(1))
    found = _COME_BACK.search(whole)
    if found is None or not any(found.groups()):
        return None
    hours, minutes, number, unit = found.groups()
    seconds = float(number or 0) / (1000 if unit == "ms" else 1)
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + seconds


def _whole(body: object, lower: bool = True) -> str:
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, default=str)
    return text.lower() if lower else text
