"""How the offline catalogue tells a limit (not twice, one at a time) from a ban."""

from __future__ import annotations

import pytest

from inner_loop.catalog_reading import Reading, read
from inner_loop.program import parse_program


def reading(text: str) -> Reading:
    return read(parse_program(text.encode(), "p"))


@pytest.mark.parametrize(
    "text",
    [
        "Only change one hyperparameter at a time.",
        "Change only one learning rate per experiment.",
        "Never spend more than two experiments in a row on the learning rate.",
        "Do not change the depth and the width in the same experiment.",
        "Don't repeat a learning rate that was discarded.",
        "Do not try the same learning rate twice.",
        "Never leave the learning rate untested.",
        "You cannot go wrong with a larger embedding learning rate.",
        "There is no limit to depth changes.",
    ],
)
def test_a_limit_is_not_a_ban(text: str) -> None:
    found = reading(text)
    assert (found.banned, found.deferred, found.only) == ({}, {}, {})


@pytest.mark.parametrize(
    "text",
    [
        "Never touch the learning rate, not even twice.",
        "Keep the learning rate fixed at the same time.",
        "Leave the learning rate as it is to the end.",
        "Do not touch the learning rate that was tuned twice.",
        "Never touch the learning rate or spend more than two experiments in a row.",
    ],
)
def test_a_ban_with_the_words_of_a_limit_is_obeyed(text: str) -> None:
    assert set(reading(text).banned) == {"learning-rate"}


def test_only_with_one_edit_at_a_time_still_forbids_the_rest() -> None:
    assert set(reading("Only change the depth, one edit at a time.").only) == {"depth"}


def test_leaving_for_later_defers() -> None:
    found = reading("Leave the batch size for later.")
    assert (set(found.deferred), found.banned) == ({"batch"}, {})
