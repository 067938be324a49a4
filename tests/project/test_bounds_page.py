"""The table of bounds in docs/RELIABILITY.md says what the code does."""

from __future__ import annotations

import pytest

from tests.support.bounds import Bound, page, value


@pytest.mark.parametrize("bound", page(), ids=lambda bound: bound.what)
def test_a_number_of_the_page_is_a_constant_of_the_code(bound: Bound) -> None:
    said = [number for number in (bound.one, bound.all) if number is not None]
    assert said, "a bound is a number"
    assert said == [value(constant) for constant in bound.where]


def test_memory_is_bounded_for_all_together() -> None:
    """But for what only a session has, of which there is a number that the operator sets."""
    assert [bound.what for bound in page() if bound.one_holds and bound.all is None] == [
        "messages of a call that wait for its session"
    ]


def test_every_bound_says_what_becomes_of_it() -> None:
    assert len(page()) > 14
    assert [bound.what for bound in page() if len(bound.reached) < 8] == []
    assert len({bound.what for bound in page()}) == len(page())
