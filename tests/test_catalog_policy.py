"""The rules of conduct the catalogue reads, and what they do to a run: verdicts, reruns, size."""

from __future__ import annotations

import random
import re
from collections import Counter
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import BASELINE, TRAIN, Outcome, Played, landscape, play

from inner_loop.catalog_knobs import read_description
from inner_loop.catalog_policy import Policy, read_policy
from inner_loop.literals import number
from inner_loop.program import parse_program


def policy(text: str) -> Policy:
    return read_policy(parse_program(text.encode(), "p"))


def flat(gain: float) -> Outcome:
    """Every changed train.py scores the base's score minus `gain`, exactly."""
    return lambda source, rng: BASELINE - (gain if source != TRAIN else 0.0)


def by(*values: float) -> Outcome:
    """The n-th training scores the n-th value, the last one from then on."""
    left = list(values)
    return lambda source, rng: left.pop(0) if len(left) > 1 else left[0]


def statuses(run: Played) -> str:
    """One letter an experiment: k, d, c, in capitals for reruns."""
    letters = [((e.status or "?")[0], e.kind) for e in run.history]
    return "".join(x.upper() if kind == "rerun" else x for x, kind in letters)


# --- what is read -----------------------------------------------------------------------------

NOTHING = Policy()


@pytest.mark.parametrize(
    ("text", "stride"),
    [
        ("Take small steps.", 0.5),
        ("Small, careful changes win.", 0.5),
        ("Avoid large jumps.", 0.5),
        ("Make bold changes.", 2.5),
        ("Don't be afraid of large changes.", 2.5),
        ("Prefer big steps over small ones.", 2.5),
        ("Step by a factor of four.", 2.0),
        ("Go several doublings at once.", 2.5),
        ("Change a rate by 50 %.", 0.585),
        ("Step by a factor of two.", 1.0),
        ("Smaller steps drown in the noise.", 1.0),
        ("The last step was too bold.", 1.0),
        ("Take small steps. Make bold changes.", 1.0),
        ("Train with a large batch.", 1.0),
        ("Try a larger batch, fewer steps.", 1.0),
        ("Try a smaller batch, more steps.", 1.0),
        ("Spend the first 20 % of the budget on the learning rate.", 1.0),
        ("Keep the last 10 percent of the experiments for reruns.", 1.0),
        ("Use the last 25% of the budget to fine-tune.", 1.0),
    ],
)
def test_the_size_of_steps(text: str, stride: float) -> None:
    found = policy(text)
    assert found.stride == pytest.approx(stride, abs=0.001)
    assert bool(found.stride_ids) == (stride != 1.0)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("Keep a change only if val_bpb is better by at least 0.01.", 0.01, "bpb"),
        ("Keep only what improves by more than 2 mbpb.", 0.002, "bpb"),
        ("Only improvements of at least 1 % count.", 0.01, "share"),
        ("Discard gains below 0.5 mbpb.", 0.0005, "bpb"),
        ("Keep an edit if it gains by more than the noise.", 1.0, "noise"),
        ("Keep only gains of more than two standard deviations.", 2.0, "noise"),
        ("A gain of less than twice the noise is discarded.", 2.0, "noise"),
        ("Keep it only if it beats the tip by 3 sigma.", 3.0, "noise"),
    ],
)
def test_the_gain_that_is_asked_for(text: str, value: float, unit: str) -> None:
    rule = policy(text).min_gain
    assert rule is not None
    assert (rule.value, rule.unit) == (pytest.approx(value), unit)


@pytest.mark.parametrize(
    "text",
    [
        "Keep memory below 80 GB.",
        "Keep a change if val_bpb went down.",
        "Keep the learning rate above 0.01.",
        "Kill what runs more than 10 minutes.",
        "A gain far below the usual difference between runs is luck until shown otherwise.",
        "Never stop.",
        "Append the val_bpb, or 0.000000 after a crash.",
        "Two experiments in a row may share a seed.",
        "After two keeps in a row, relax.",
        "Never accept a worse result.",
        "Do not rerun anything.",
        "If it crashed, fix the typo and re-run.",
        "Confirm that the setup is complete.",
        "## Off limits\n\n- small steps\n- reruns of what you kept\n",
        "```\nTake small steps. Confirm each keep.\n```",
    ],
)
def test_in_doubt_there_is_no_rule(text: str) -> None:
    assert policy(text) == NOTHING


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("One change at a time.", "single_ids"),
        ("Never combine two changes.", "single_ids"),
        ("Combine the best two so far.", "combine_ids"),
        ("A simplification may be kept if the score is equal.", "simpler_ids"),
        ("Sometimes accept a worse result.", "worse_ids"),
        ("Accept by the Metropolis rule, and keep what is worse now and then.", "worse_ids"),
        ("Train the unchanged script twice.", "base_ids"),
        ("Try each category once before any a second time.", "breadth_ids"),
        ("Breadth-first.", "breadth_ids"),
        ("Stay with what works.", "follow_ids"),
        ("Search depth-first.", "follow_ids"),
    ],
)
def test_other_rules(text: str, field: str) -> None:
    found = policy(text)
    assert len(getattr(found, field)) == 1
    assert found == Policy.model_validate({field: getattr(found, field)})


@pytest.mark.parametrize(
    ("text", "times", "only_small"),
    [
        ("Confirm every keep before building on it.", 1, False),
        ("Re-run what you kept.", 1, False),
        ("Train each improvement with a second seed.", 1, False),
        ("Confirm each keep with two more seeds.", 2, False),
        ("Rerun a small gain before keeping it.", 1, True),
    ],
)
def test_a_request_for_reruns(text: str, times: int, only_small: bool) -> None:
    confirm = policy(text).confirm
    assert confirm is not None
    assert (confirm.times, confirm.only_small, len(confirm.ids)) == (times, only_small, 1)


@pytest.mark.parametrize(
    ("text", "after", "actions"),
    [
        ("After three discards in a row, switch the category.", 3, {"switch"}),
        ("After 4 consecutive failures, go back to an older commit.", 4, {"back"}),
        ("Two losses in a row on one part mean: go to another part.", 2, {"switch"}),
        ("When you are stuck, try something radical.", 3, {"jump"}),
        ("A plateau is five losses in a row. On a plateau, combine two ideas.", 5, {"combine"}),
        ("Three experiments without a gain: take smaller steps.", 3, {"refine"}),
    ],
)
def test_plateau_rules(text: str, after: int, actions: set[str]) -> None:
    (rule,) = policy(text).plateaus
    assert (rule.after, rule.actions) == (after, actions)


@given(st.text(max_size=300) | st.text("-#>* \n:.keepgain0.1boldsmrun", max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_text_has_a_policy(text: str) -> None:
    found = read_policy(parse_program(text.encode("utf-8", "ignore"), "p"))
    assert 0.1 < found.stride <= 3


# --- what it does -----------------------------------------------------------------------------


def test_a_small_gain_is_discarded_where_more_is_asked_for() -> None:
    text = "Keep a change only if it is better by at least 0.01."
    strict = play(text, 1, flat(0.005), 4)
    assert statuses(strict)[:3] == "ddd"
    verdicts = [m for m in strict.moves if m.verdict]
    assert {m.verdict for m in verdicts} == {"discard"}
    assert all(m.kind == "return" and len(m.cites) == 1 for m in verdicts)
    assert {e.parent_commit for e in strict.history} == {"base"}
    assert {e.reason for e in strict.history[:3]} == {"the program's verdict"}
    assert statuses(play(text, 1, flat(0.02), 1)) == "k"
    assert statuses(play("Go.", 1, flat(0.005), 1)) == "k"


def test_a_gain_within_the_noise_is_judged_after_a_rerun() -> None:
    text = "Keep only what gains by more than the noise."
    run = play(text, 3, by(0.99, 1.01, 1.0), 3)
    assert [e.kind for e in run.history][:2] == ["edit", "rerun"]
    assert statuses(run)[1] == "D"
    assert run.moves[1].cites == run.moves[2].cites == run.history[1].cites != ()
    assert run.history[2].parent_commit == "base"
    sure = play(text, 3, by(0.9, 0.901, 1.0), 3)
    assert statuses(sure)[:2] == "kK"
    assert sure.history[2].parent_commit == "c1"


def test_reruns_that_show_no_noise_do_not_eat_the_budget() -> None:
    text = "Keep only what gains by more than the noise."
    equal = play(text, 3, flat(0.01), 6)
    assert statuses(equal)[:4] in ("kKKd", "kKKk")
    trained: set[str] = set()

    def crashing_again(source: str, rng: random.Random) -> float | None:
        first = source not in trained
        trained.add(source)
        return 0.99 if first else None

    crashed = play(text, 3, crashing_again, 6)
    assert [e.kind for e in crashed.history][:4] == ["edit", "rerun", "rerun", "edit"]


def test_a_keep_that_does_not_show_again_is_undone() -> None:
    text = "Confirm each keep on a second seed."
    run = play(text, 5, by(0.99, 1.02, 1.0), 3)
    assert statuses(run)[:2] == "kD"
    assert run.history[2].parent_commit == "base"
    real = play(text, 5, by(0.99, 0.985, 1.0), 3)
    assert statuses(real)[:2] == "kK"
    assert real.history[2].parent_commit == "c1"
    assert real.moves[1].cites == real.history[1].cites != ()


def test_two_confirmations_are_two() -> None:
    run = play("Confirm each keep with two more seeds.", 5, flat(0.01), 4)
    assert [e.kind for e in run.history] == ["edit", "rerun", "rerun", "edit"]


def test_the_unchanged_script_is_trained_again_first() -> None:
    run = play("Train the unchanged script twice before anything else.", 2, flat(0.0), 3)
    assert (run.history[0].kind, run.history[0].commit) == ("rerun", "base")
    assert [e.kind for e in run.history[1:]] == ["edit", "edit"]


def test_an_equal_simplification_is_kept() -> None:
    only = "Change only the depth. Never go deeper. Avoid parallel attention."
    equal = play(f"{only} A simplification is kept if the score is equal.", 1, flat(0.0), 2)
    assert statuses(equal)[0] == "k"
    assert equal.moves[1].verdict == "keep"
    assert equal.history[1].parent_commit == "c1"
    assert statuses(play(only, 1, flat(0.0), 2))[0] == "d"
    wider = "Change only the width. Never go narrower. If equal, the simpler version is kept."
    assert statuses(play(wider, 1, flat(0.0), 1)) == "d"


def test_a_worse_result_is_sometimes_accepted() -> None:
    def kept(text: str, loss: float) -> int:
        runs = [play(text, seed, flat(-loss), 2) for seed in range(40)]
        return sum(run.history[0].status == "keep" for run in runs)

    assert kept("Go.", 0.0005) == 0
    assert 10 < kept("Sometimes accept a worse result.", 0.0005) < 38
    assert kept("Sometimes accept a worse result.", 0.02) == 0


def test_what_was_accepted_by_chance_is_not_confirmed() -> None:
    text = "Keep only gains of at least 0.01. Sometimes accept a worse result. Confirm each keep."
    runs = [play(text, seed, flat(0.0095), 3) for seed in range(20)]
    assert any("k" in statuses(run) for run in runs)
    assert all(statuses(run).islower() for run in runs)


def test_a_verdict_is_given_once() -> None:
    for seed in range(10):
        run = play("Sometimes accept a worse result. Confirm each keep.", seed, landscape(seed), 10)
        assert len(run.history) == 10
        for before, after in zip(run.moves, run.moves[1:], strict=False):
            assert not (before.verdict and after.verdict)


def factors(text: str, seeds: int = 40) -> list[float]:
    """How many times larger or smaller each first edit makes a number."""
    found = []
    for seed in range(seeds):
        run = play(text, seed, flat(0.0), 1)
        for change in read_description(run.history[0].description):
            old, new = number(change.old), number(change.new)
            if old and new:
                found.append(max(old / new, new / old))
    return found


def test_bold_programs_move_further_than_careful_ones() -> None:
    rates = "Change only EMBEDDING_LR, UNEMBEDDING_LR and MATRIX_LR"
    small, plain, bold = (
        fmean(factors(f"{rates}. {how}")) for how in ("Take small steps.", "", "Make bold jumps.")
    )
    assert small < 1.5 < plain <= 2.0 < 4 <= bold


def test_bold_programs_change_two_things_at_once_unless_told_not_to() -> None:
    def doubles(text: str) -> int:
        runs = [play(text, seed, flat(0.0), 1) for seed in range(60)]
        return sum(len(read_description(r.history[0].description)) > 1 for r in runs)

    single = doubles("Make bold jumps, but one change at a time.")
    assert doubles("Make bold jumps.") > 12 > 3 >= single
    assert doubles("Take small steps.") <= 3  # value embeddings take two lines


def test_the_two_smallest_losses_are_combined() -> None:
    text = "Combine the two changes that lost by the least."
    found = [run for seed in range(20) for run in [play(text, seed, landscape(seed, 0.0), 9)]]
    joined = [m for run in found for m in run.moves if len(m.categories) > 1 and m.cites]
    assert len([m for m in joined if len(m.cites) == 1]) > 10
    plain = [play("Go.", seed, landscape(seed, 0.0), 9) for seed in range(5)]
    assert all(
        m.description.count(" -> ") < 2 or "VALUE" in m.description for r in plain for m in r.moves
    )


def test_after_losses_in_a_row_the_category_changes() -> None:
    text = "Learning rates matter most. Learning rates first. Tune each learning rate."
    rule = "After two discards in a row, switch to another category."

    def third(program: str) -> Counter[str]:
        runs = [play(program, seed, flat(-0.01), 3) for seed in range(60)]
        same = [r for r in runs if all(e.categories == ("learning-rate",) for e in r.history[:2])]
        return Counter(r.history[2].categories[0] for r in same)

    stubborn, switching = third(text), third(f"{text}\n\n{rule}")
    assert stubborn["learning-rate"] > 10
    assert switching["learning-rate"] <= 1
    assert sum(switching.values()) > 10


def test_after_losses_in_a_row_it_goes_back() -> None:
    rule = "After three discards in a row, go back to the commit before."
    run = play(rule, 1, by(0.99, 1.0, 1.0, 1.0, 1.0), 6)
    assert statuses(run) == "kddddd"
    (back,) = [m for m in run.moves if m.kind == "return"]
    assert (back.commit, len(back.cites), back.verdict) == ("base", 1, None)
    assert [e.parent_commit for e in run.history] == ["base", "c1", "c1", "c1", "base", "base"]


def test_breadth_first_tries_every_category_once() -> None:
    for seed in range(10):
        run = play("Try each category once before any a second time.", seed, flat(-0.01), 12)
        counts = Counter(e.categories[0] for e in run.history)
        assert set(counts.values()) == {1}
        assert all(len(e.cites) == 1 for e in run.history)


def test_depth_first_stays_where_it_gained() -> None:
    def stays(text: str) -> int:
        runs = [play(text, seed, flat(0.01), 2) for seed in range(100)]
        return sum(r.history[0].categories[0] == r.history[1].categories[0] for r in runs)

    assert stays("Stay with what works.") > 2 * stays("Go.")


def test_every_citation_is_an_instruction_of_the_program() -> None:
    text = (
        "- Make bold jumps.\n- Tune the learning rates first.\n- Confirm each keep.\n"
        "- After two losses in a row, go to another part.\n- Sometimes accept a worse result.\n"
        "- If the depth helped, try the width.\n- Try each kind once, then stay with what works.\n"
    )
    ids = {i.id for i in parse_program(text.encode(), "p").instructions}
    cited: set[str] = set()
    for seed in range(20):
        for move in play(text, seed, landscape(seed), 12).moves:
            assert len(move.cites) <= 3
            assert set(move.cites) <= ids
            cited |= set(move.cites)
    assert cited == ids


@given(
    st.integers(0, 10_000), st.sampled_from(["Be bold.", "Confirm keeps. Go back if stuck.", ""])
)
@settings(max_examples=15, deadline=None)
def test_equal_briefs_get_equal_runs(seed: int, text: str) -> None:
    one, two = (play(text, seed, landscape(seed), 6) for _ in range(2))
    assert one.moves == two.moves
    assert re.fullmatch(r"[kdKD]{6}", statuses(one))


def test_crashes_do_not_stop_a_run() -> None:
    def outcome(source: str, rng: random.Random) -> float | None:
        return None if rng.random() < 0.5 else 1.0

    text = "Confirm each keep. Combine the best two. After two losses in a row, go back."
    for seed in range(5):
        assert len(play(text, seed, outcome, 10).history) == 10
