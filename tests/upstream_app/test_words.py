"""What search compares."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from upstream_app.customers.model import words


@given(st.text(max_size=200))
def test_words_are_bounded_and_stable(text: str) -> None:
    found = words(text)
    assert len(found) == len(set(found)) <= 24
    assert all(0 < len(word) <= 32 for word in found)
    assert words(" ".join(found)) == found
