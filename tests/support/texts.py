"""Texts that people and attackers type, for searches."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st


def any_text(injections: Sequence[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.text(),
        st.text(alphabet=st.characters()),  # with lone surrogates
        st.text(alphabet='"*^:(){}-+_ aNEARORAND\0'),
        st.lists(st.sampled_from(injections)).map(" ".join),
    )
