"""Stored texts, bytes and lists become what they are where a value is written out; arrays and files stay described."""

from __future__ import annotations

import pytest

from podium.cluster.blobs.memory import BlobDisk, MemoryBlobs
from podium.protocols.contents import with_contents
from podium.protocols.encoded import Encoded
from podium.protocols.errors import BlobMissing, InvalidInput
from podium.protocols.stored import BlobKey, Stored
from podium.protocols.values import pack

STORE = MemoryBlobs(BlobDisk(), lambda: 0.0)


def stored(codec, content):
    part = Stored.under(STORE.put([content]), codec, {}, is_packed=False)
    part.source = STORE
    return part


def test_parts_that_are_plain_data_are_read_wherever_they_stand():
    array, inner = stored("numpy.ndarray", b"n"), Encoded(pack(["numpy.ndarray", {}, b"i"]))
    value = {"t": [stored("str", "é".encode())], "b": stored("bytes", b"\xff"), "a": array, "n": 1}
    assert with_contents(value) == {"t": ["é"], "b": b"\xff", "a": array, "n": 1}
    assert with_contents(stored("podium.value", pack([1, inner]))) == [1, inner]


def test_only_the_wanted_kinds_are_read():
    value = [stored("str", b"t"), stored("bytes", b"b")]
    assert with_contents(value, ("str",)) == ["t", value[1]]
    assert with_contents([*value, value[0]], most_bytes=2) == ["t", b"b", value[0]]
    plain = {"n": [1]}
    assert with_contents(plain) is plain


def test_what_cannot_be_read_says_so():
    missing = Stored.under(BlobKey(b"d" * 32, 1, 1), "str", {}, is_packed=False)
    with pytest.raises(InvalidInput, match="is in the blob store, not at hand here"):
        with_contents([missing])
    missing.source = STORE
    with pytest.raises(BlobMissing):
        with_contents([missing])
    for codec in ("str", "podium.value"):
        with pytest.raises(InvalidInput, match=f"the content of a {codec} cannot be read: "):
            with_contents(stored(codec, b"\xc1\xc1"))
