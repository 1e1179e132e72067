"""Sizes as people read them."""

from __future__ import annotations

import pytest

from podium.cluster.sizes import size_text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_950, "10 kB"),
        (32_981, "33 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (8_000_128, "8.0 MB"),
        (123_456_789_012, "123 GB"),
        (5 * 10**18, "5,000 PB"),
    ],
)
def test_a_size_has_the_unit_that_makes_it_short(size_bytes, text):
    assert size_text(size_bytes) == text
