"""Recognises files that hold keys or passwords: known key files by their names, and any file by its content.

A word in a name proves nothing (`credentials.py` is code, `secrets.md` is prose), so names count only for kinds of
files that are data. In the content, formats count that the issuers of keys made recognisable: the armour of a private
key, the prefixes of tokens. A password in an ordinary line is not found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import translate

_KEYS = (
    *(".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc", ".pgpass", ".my.cnf", ".htpasswd"),
    *("ray.token", "tokens.key", "tokens.json", "*.tfvars", "*.ovpn", ".vault_pass", "master.key", "kubeconfig"),
    *(".npmrc", ".pypirc", ".git-credentials", ".dockercfg", "client_secret*.json", "credentials", "secrets"),
)
_DATA = tuple(
    "json yml yaml toml ini cfg conf config properties xml csv tsv db sqlite plist txt bak old enc gpg asc env tfvars "
    "tfstate".split()
)
SECRETS = (*_KEYS, *(f"{name}.{kind}" for name in ("credentials", "secrets") for kind in _DATA))
"""Name patterns of files that usually hold secrets, in lower case."""
HARMLESS = ("*.example", "*.sample", "*.template", "*.dist", "*.pub")
"""Patterns for names that look like secrets and are none."""
CODE = frozenset(
    "c cc cpp cs css ex exs fs go h hpp hs html java jl js jsx kt lua m md mdx mjs ml php pl pm py pyi r rb rs rst "
    "scala sh sql swift tex ts tsx vue zig".split()
)
"""Endings of files that are source or prose whatever their name is. Names that begin with a dot are excepted."""

_HARMLESS = re.compile("|".join(map(translate, HARMLESS)))
_SECRETS = re.compile("|".join(map(translate, SECRETS)))

PATTERNS: Mapping[bytes, re.Pattern[bytes]] = {
    b" PRIVATE KEY": re.compile(
        rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:\\[rn]|\s)+(?:[A-Za-z-]+: [^\n\\]*(?:\\[rn]|\s)+)*"
        rb"[A-Za-z0-9+/=]{40}"
    ),
    b"PuTTY-User-Key-File": re.compile(rb"PuTTY-User-Key-File-\d: "),
    b"AKIA": re.compile(rb"\bAKIA(?![0-9A-Z]*EXAMPLE)[0-9A-Z]{16}\b"),
    b"ASIA": re.compile(rb"\bASIA(?![0-9A-Z]*EXAMPLE)[0-9A-Z]{16}\b"),
    b"AIza": re.compile(rb"\bAIza[0-9A-Za-z_-]{35}\b"),
    **{mark: re.compile(rb"\b%s[A-Za-z0-9]{36,}\b" % mark) for mark in (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_")},
    b"github_pat_": re.compile(rb"\bgithub_pat_[A-Za-z0-9_]{60,}\b"),
    b"glpat-": re.compile(rb"\bglpat-[A-Za-z0-9_-]{20,}"),
    b"xox": re.compile(rb"\bxox[abeoprs]-[0-9]{6,}-[A-Za-z0-9-]{10,}"),
    b"sk-": re.compile(rb"\bsk-(?:proj-|ant-[a-z0-9]+-|svcacct-)?[A-Za-z0-9_-]*[0-9][A-Za-z0-9_-]{31,}"),
    b"_live_": re.compile(rb"\b[srp]k_live_[0-9A-Za-z]{20,}\b"),
    b"npm_": re.compile(rb"\bnpm_[A-Za-z0-9]{36}\b"),
    b"pypi-AgE": re.compile(rb"\bpypi-AgE[A-Za-z0-9_-]{50,}"),
    b"hvs.": re.compile(rb"\bhvs\.[A-Za-z0-9_-]{24,}"),
    b"SG.": re.compile(rb"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}\b"),
    b"hooks.slack.com/services/T": re.compile(
        rb"hooks\.slack\.com/services/T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/[A-Za-z0-9]{20,}"
    ),
    b"AGE-SECRET-KEY-1": re.compile(rb"\bAGE-SECRET-KEY-1[A-Z0-9]{50,}\b"),
}
"""Patterns of secrets, by bytes that each match contains. Searching for these bytes first is quick."""


def looks_secret(name: str) -> bool:
    """Return whether a file of this name usually holds keys or passwords."""
    name = name.lower()
    if _HARMLESS.match(name) or _SECRETS.match(name) is None:
        return False
    return name.startswith(".") or name.rpartition(".")[2] not in CODE


def holds_secret(content: bytes) -> bool:
    """Return whether the content of a file has a private key, or a token of a well-known issuer."""
    if b"\0" in content:  # of UTF-16, which is as good as ASCII without them
        content = content.replace(b"\0", b"")
    return any(mark in content and pattern.search(content) for mark, pattern in PATTERNS.items())
