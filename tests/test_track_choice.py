"""Words typed beside a track's name, and back."""

from __future__ import annotations

import pytest

from inner_loop.errors import UserError
from inner_loop.tracks import load_track
from outer_loop.track_choice import as_words, chosen_track


def test_what_is_not_typed_stays_the_tracks_own() -> None:
    assert chosen_track("tiny-cpu", {"model": None}, []) == load_track("tiny-cpu")


def test_every_word_lands_in_its_field() -> None:
    chosen = {"researcher": "openai", "model": "m", "base_url": "http://here/v1", "usd": 2.5}
    track = chosen_track("tiny-cpu", chosen, ["effort=high", "temperature=0.5", "max_retries=1"])
    assert (track.researcher, track.model, track.budget.usd) == ("openai", "m", 2.5)
    assert track.settings.base_url == "http://here/v1"
    assert (track.settings.effort, track.settings.temperature) == ("high", 0.5)
    assert track.settings.max_retries == 1
    assert track.budget.experiments == load_track("tiny-cpu").budget.experiments


def test_what_decides_answers_is_in_the_fingerprint_and_patience_is_not() -> None:
    plain = chosen_track("tiny-cpu", {}, []).fingerprint
    assert chosen_track("tiny-cpu", {}, ["effort=high"]).fingerprint != plain
    other = {"researcher": "openai", "model": "m"}
    here = chosen_track("tiny-cpu", other | {"base_url": "http://here"}, [])
    assert here.fingerprint != chosen_track("tiny-cpu", other, []).fingerprint
    assert chosen_track("tiny-cpu", {"tokens": 9}, []).fingerprint != plain
    assert chosen_track("tiny-cpu", {}, ["timeout_seconds=9", "concurrency=2"]).fingerprint == plain


def test_the_words_of_a_track_give_it_again() -> None:
    chosen = {"researcher": "command", "command": "claude -p {prompt_file}", "tokens": 1000}
    track = chosen_track("tiny-cpu", chosen, ["agent_paths=/a,/b", "agent_network=true"])
    words = as_words(track)
    settings = [words[n + 1] for n, word in enumerate(words) if word == "--set"]
    typed = {"researcher": words[words.index("--researcher") + 1], "tokens": 1000}
    assert chosen_track("tiny-cpu", typed, settings) == track


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("efort=high", "Did you mean 'effort'"),
        ("effort", "KEY=VALUE"),
        ("effort=", "has no value"),
        ("temperature=hot", "temperature cannot be 'hot'"),
        ("max_output_tokens=1", "max_output_tokens cannot be '1'"),
    ],
)
def test_a_word_that_fits_nothing_is_one_sentence(word: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        chosen_track("tiny-cpu", {}, [word])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"model": "m"}, "no use for --model; add --researcher anthropic or openai"),
        ({"base_url": "http://here"}, "no use for --base-url"),
        ({"command": "claude"}, "no use for --command; add --researcher command"),
        ({"researcher": "openai", "model": "m", "command": "x"}, "no use for --command"),
    ],
)
def test_what_the_researcher_would_ignore_is_refused(chosen: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        chosen_track("tiny-cpu", chosen, [])
