"""Says in one line why an object store cannot be used, and what to do about it.

The errors of obstore are long, and may hold secrets: a server repeats the token that it refuses, and an endpoint may
have a password. So only what is known to be harmless is taken from them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .place import BlobPlace


class Environment(NamedTuple):
    """The variables that obstore reads, as errors name them."""

    credentials: str
    endpoint: str


_VARIABLES: dict[str, Environment] = {
    "s3": Environment("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"),
    "gs": Environment("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_BASE_URL"),
    "az": Environment(
        "AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_ENDPOINT"
    ),
}
NO_BUCKET = re.compile("NoSuchBucket|ContainerNotFound|bucket does not exist")
_CAUSES = {
    NO_BUCKET: "there is no bucket '{bucket}': make it, or correct the setting `blobs`",
    re.compile("/latest/api/token|/latest/meta-data|/computeMetadata/|/metadata/identity"): (
        "no credentials were found: set {credentials}, or give the machine a role"
    ),
    re.compile("40[13] (Forbidden|Unauthorized)"): (
        "the credentials are refused, or lack the right to read, write, list and delete{code}: see {credentials}"
    ),
    re.compile("incorrectly configured region|PermanentRedirect|AuthorizationHeaderMalformed"): (
        "the bucket '{bucket}' is in another region: set AWS_REGION"
    ),
    re.compile("ConnectionRefused"): "the connection to {host} was refused: is it the right {endpoint}?",
    re.compile("dns error"): "the name of {host} is not known: is it the right {endpoint}?",
    re.compile("TimedOut|deadline has elapsed"): "{host} did not answer in time",
    re.compile("InvalidUri|RelativeUrlWithoutBase|builder error"): "{endpoint} is no URL: it begins with https://",
    re.compile("Account must be specified|Missing(AccessKeyId|SecretAccessKey)|Invalid Access Key"): (
        "the credentials are not complete: set {credentials}"
    ),
    re.compile("SlowDown|503 Service Unavailable|429 Too Many"): "it asks for fewer requests{code}",
}
"""Reasons by words in the error, the first that fits."""
_HOST = re.compile(r"https?://(?:[^/\s@]*@)?([\w.:\[\]-]+)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_LONGEST = 300
"""Characters of an error that is shown because its cause is not known."""


def reason_of(error: BaseException, place: BlobPlace) -> str:
    """Return the cause of an error of obstore and its remedy, without secrets."""
    said, names = str(error), _VARIABLES[place.scheme]._asdict()
    for words, reason in _CAUSES.items():
        if words.search(said):
            return reason.format(bucket=place.bucket, host=_host(said), code=_code(said), **names)
    return _harmless(said)


def _host(said: str) -> str:
    found = _HOST.search(said)
    return found[1] if found else "the server"


def _code(said: str) -> str:
    found = _CODE.search(said)
    return f" ({found[1]})" if found else ""


def _harmless(said: str) -> str:
    """Return the beginning of an error without what a server has replied, users of URLs, and their parameters."""
    line = (said.splitlines() or ["no reason given"])[0].partition(": <")[0]
    return re.sub(r"//[^/\s@]*@|\?\S*", lambda found: "//" if found[0].startswith("//") else "", line)[:_LONGEST]
