"""The linear model against plain references, and the offline rewriter in a world with known
effects."""

from __future__ import annotations

import math
import time
from pathlib import Path
from random import Random
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewriter_world import SENTENCES, World, one_edit, program_of, recombine
from scipy import stats

from inner_loop.program import parse_program, read_program
from inner_loop.proposal import Evidence, Proposal
from inner_loop.records import Program
from inner_loop.roles import role_of_units
from outer_loop.rewriter.apply import apply
from outer_loop.rewriter.offline import (
    MAX_CHANGES,
    MAX_REFUSED,
    beliefs,
    consider,
)
from outer_loop.rewriter.pool import gather, same_wording, strategy_units
from outer_loop.rewriter.thompson import Belief, estimated_noise, fit
from outer_loop.rewriter.verify import rejection
from outer_loop.rewriter.words import effect, field_margins

PROGRAMS = Path(__file__).parent.parent / "programs"
NAMES = ("stock", "one-line", "optimizer-first", "architecture-first")
SHIPPED = [read_program(PROGRAMS / name) for name in NAMES]


def rows(gains: dict[str, list[float]]) -> list[Evidence]:
    """One run per program and block, from program -> gain in each block."""
    return [
        Evidence(program_id=program, block=block, gain=gain, run_id=f"{program}-{block}")
        for program, values in gains.items()
        for block, gain in enumerate(values)
    ]


def some_evidence(seed: int = 0) -> list[Evidence]:
    draw = Random(seed)
    return rows({p.id: [draw.gauss(5 * i, 4) for _ in range(3)] for i, p in enumerate(SHIPPED)})


def proposed(
    pool: list[Program],
    evidence: list[Evidence],
    champion: str,
    earlier: list[str],
    rng: Random,
    challengers: int = 1,
) -> list[Proposal]:
    return consider(pool, evidence, champion, earlier, rng, challengers).proposals


# --- the model --------------------------------------------------------------------------------


def test_the_posterior_is_that_of_the_whole_model_with_wide_blocks() -> None:
    """Against the joint normal of y and all effects, with blocks as N(0, 10^8) effects."""
    draw = np.random.default_rng(1)
    units, programs = ("u", "v", "w"), ("a", "b", "c", "d")
    held = {"a": ("u", "v"), "b": ("v", "w"), "c": ("u",), "d": ()}
    evidence = rows({p: list(draw.normal(0, 3, 4)) for p in programs})[:-2]
    noise, tau = 2.0, 0.7
    ours = fit(evidence, held, units, noise_sd=noise, tau=tau)

    x = np.array([[float(u in held[r.program_id]) for u in units] for r in evidence])
    z = np.array([[float(p == r.program_id) for p in programs] for r in evidence])
    b = np.array([[float(block == r.block) for block in range(4)] for r in evidence])
    y = np.array([r.gain for r in evidence])
    design, prior = np.hstack([x, z, b]), np.array([tau**2] * 7 + [1e8] * 4)
    covariance_y = (design * prior) @ design.T + noise**2 * np.eye(len(y))
    gain = (design * prior).T @ np.linalg.inv(covariance_y)
    mean, covariance = gain @ y, np.diag(prior) - gain @ (design * prior)
    assert np.allclose(ours.mean, mean[:7], atol=1e-4)
    assert np.allclose(ours.factor @ ours.factor.T, covariance[:7, :7], atol=1e-4)


def test_one_instruction_in_two_programs_has_the_closed_form() -> None:
    """Two programs that differ by one unit: d = y1 - y0 has variance 2 s^2, prior 3 tau^2."""
    evidence = rows({"with": [5.0], "without": [1.0]})
    held = {"with": ("u",), "without": ()}
    posterior = fit(evidence, held, ["u"], noise_sd=2.0, tau=1.0)
    assert posterior.unit("u").mean == pytest.approx(4.0 / (3 + 8))
    assert posterior.unit("u").sd == pytest.approx(math.sqrt(1 - 1 / 11))
    both = posterior.difference("with", "without", held)
    assert both.mean == pytest.approx(3 * 4.0 / 11)
    assert both.sd == pytest.approx(math.sqrt(3 - 9 / 11))
    assert posterior.difference("with", "with", held).mean == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.floats(-50, 50)), max_size=12))
@settings(deadline=None, max_examples=60)
def test_what_shifts_a_whole_block_changes_nothing(runs: list[tuple[int, int, float]]) -> None:
    held = {str(i): tuple("uvw"[: i + 1]) for i in range(4)}
    one = [
        Evidence(program_id=str(p), block=b, gain=g, run_id=str(n))
        for n, (p, b, g) in enumerate(runs)
    ]
    other = [row.model_copy(update={"gain": row.gain + 7.0 * int(row.block)}) for row in one]
    a, b = (fit(each, held, "uvw", noise_sd=3.0) for each in (one, other))
    assert np.allclose(a.mean, b.mean, atol=1e-6)
    assert np.allclose(a.factor, b.factor, atol=1e-6)
    assert np.isfinite(a.mean).all()


def test_without_evidence_the_belief_is_the_prior() -> None:
    posterior = fit([], {"a": ("u",)}, ["u"], noise_sd=4.0, tau=1.5)
    assert posterior.unit("u") == Belief(0.0, 1.5)
    assert posterior.unit("u").p_positive == 0.5


def test_draws_have_the_posterior_s_mean_and_spread() -> None:
    posterior = fit(some_evidence(), gather(SHIPPED).held, list(gather(SHIPPED).families))
    draw, name = Random(3), posterior.units[0]
    values = [posterior.draw(draw)[name] for _ in range(600)]
    belief = posterior.unit(name)
    assert fmean(values) == pytest.approx(belief.mean, abs=4 * belief.sd / math.sqrt(600))
    assert float(np.std(values)) == pytest.approx(belief.sd, rel=0.15)


def test_a_belief_s_probability_and_interval_are_the_normal_s() -> None:
    belief = Belief(1.2, 0.8)
    normal = stats.norm(1.2, 0.8)
    assert belief.p_positive == pytest.approx(normal.sf(0))
    assert belief.interval == pytest.approx(normal.interval(0.9))


def test_the_noise_is_what_blocks_and_programs_leave_over() -> None:
    draw = np.random.default_rng(5)
    y = draw.normal(0, 3, (4, 10)) + 10 * np.arange(4)[:, None] + 20 * np.arange(10)
    left = y - y.mean(axis=0) - y.mean(axis=1, keepdims=True) + y.mean()
    sd = math.sqrt(float((left**2).sum()) / (3 * 9))  # two-way layout without interaction
    gains = {str(program): list(map(float, row)) for program, row in enumerate(y)}
    assert estimated_noise(rows(gains)) == pytest.approx(sd)
    assert estimated_noise(rows({"a": [1.0], "b": [3.0]})) == pytest.approx(math.sqrt(2))
    assert estimated_noise([]) == 1.0


def test_effects_that_are_there_are_found() -> None:
    world = World(Random(2))
    pool = [program_of(Random(i).sample(SENTENCES, 8), str(i)) for i in range(24)]
    world.run(pool, 20)
    found = beliefs(pool, world.rows)
    ids = {u.text: u.id for program in pool for u in program.instructions}
    inside = 0
    for sentence in SENTENCES:
        low, high = found[ids[sentence]].interval
        inside += low <= world.effect[sentence] <= high
    assert inside >= 12  # of 16 at 90 %
    best = max(world.effect, key=lambda s: world.effect[s])
    assert found[ids[best]].p_positive > 0.95


# --- the pool ---------------------------------------------------------------------------------


def test_near_equal_wordings_are_one_instruction_and_opposites_are_not() -> None:
    assert same_wording(
        "Try wider layers first, then deeper.", "Try wider layers first; then deeper"
    )
    assert not same_wording("Always change the learning rate.", "Never change the learning rate.")
    assert not same_wording(
        "Repeat each winner 2 times, please.", "Repeat each winner 3 times, please."
    )
    assert not same_wording(
        "Raise the learning rate if it helps.", "Lower the learning rate if it helps."
    )


def test_a_pool_knows_who_holds_what() -> None:
    a = parse_program(b"- Be bold.\n- Never stop.\n", "a")
    b = parse_program(b"- **Be bold.**\n- Go wide.\n", "b")
    pool = gather([a, b, a])
    assert gather(iter([a, b])) is pool
    assert gather([a, b.model_copy(update={"name": "c"})]).programs[b.id].name == "c"
    assert list(pool.programs) == [a.id, b.id]
    assert pool.held[a.id] == (a.instructions[0].id,)
    assert pool.held[b.id] == (a.instructions[0].id, b.instructions[1].id)


@given(st.lists(st.text("ab not1.", min_size=1, max_size=24), min_size=1, max_size=12))
@settings(max_examples=80, deadline=None)
def test_a_family_is_the_oldest_near_wording(texts: list[str]) -> None:
    program = parse_program("".join(f"- z{text}\n" for text in texts).encode(), "p")
    names = [unit.id for unit in program.instructions]
    expected: dict[str, list[str]] = {}
    for unit in strategy_units(program):
        first = {name: program.instructions[names.index(name)] for name in expected}
        same = (name for name, old in first.items() if same_wording(old.text, unit.text))
        name = unit.id if unit.id in expected else next(same, unit.id)
        expected.setdefault(name, []).append(unit.id)
    found = gather([program]).families
    assert {name: [m.unit.id for m in members] for name, members in found.items()} == expected


def test_a_large_pool_is_gathered_in_a_moment() -> None:
    text = "".join(f"- try x{n} y{n * 7 % 1000}\n" for n in range(800))
    program, begin = parse_program(text.encode(), "large"), time.process_time()
    for _ in range(5):
        gather([program])
    assert time.process_time() - begin < 3


# --- proposals --------------------------------------------------------------------------------


@pytest.mark.parametrize("base", SHIPPED, ids=lambda p: p.name)
def test_proposals_verify_and_keep_all_that_is_no_strategy(base: Program) -> None:
    earlier = [program.id for program in SHIPPED]
    outcome = consider(SHIPPED, some_evidence(), base.id, earlier, Random(4), 4)
    assert outcome.reason == ""
    assert len({p.program_id for p in outcome.proposals}) == len(outcome.proposals) == 4
    before = role_of_units(base)
    for proposal in outcome.proposals:
        assert proposal.rejection == ""
        assert rejection(base, proposal.operations, proposal.text, earlier) == ""
        made = parse_program(proposal.text.encode(), "made")
        assert made.id == proposal.program_id not in earlier
        assert apply(base, proposal.operations).text == proposal.text
        after = role_of_units(made)
        for name, role in before.items():
            assert role.role == "strategy" or after[name].role == role.role
        assert {operation.kind for operation in proposal.operations} <= {"ADD", "REMOVE", "MOVE"}
        kinds = [operation.kind for operation in proposal.operations]
        assert max(kinds.count("ADD"), kinds.count("REMOVE") - 1) <= MAX_CHANGES
        sources = [op.source_program_id for op in proposal.operations if op.kind == "ADD"]
        assert proposal.parents == tuple(dict.fromkeys([base.id, *sources]))
        for line in (
            proposal.focus,
            proposal.hypothesis,
            *(o.hypothesis for o in proposal.operations),
        ):
            assert line
            assert "\n" not in line


def test_the_same_arguments_give_the_same_proposals() -> None:
    one, two = (
        proposed(SHIPPED, some_evidence(), SHIPPED[2].id, [], Random("x"), 3) for _ in range(2)
    )
    assert one == two
    assert proposed(SHIPPED, some_evidence(), SHIPPED[2].id, [], Random("y"), 3) != one


def test_single_changes_drop_take_up_and_move() -> None:
    draw, kinds = Random(0), set[tuple[str, ...]]()
    for _ in range(3):
        for proposal in proposed(SHIPPED, some_evidence(), SHIPPED[2].id, [], draw, 12):
            kinds.add(tuple(op.kind for op in proposal.operations))
    assert {("ADD",), ("REMOVE",), ("MOVE",)} <= kinds


def test_an_instruction_that_clearly_hurts_goes_and_one_that_helps_comes() -> None:
    base = program_of(SENTENCES[:4], "base")
    pool = [base, *(program_of(set(SENTENCES[:5]) - {s}, s) for s in SENTENCES[:5])]
    effects = dict(zip(SENTENCES, (-30.0, 9.0, 9.0, 9.0, 30.0), strict=False))
    gains = {
        p.id: [sum(effects.get(u.text, 0.0) for u in p.instructions) + 0.1 * b for b in range(3)]
        for p in pool
    }
    outcome = consider(pool, rows(gains), base.id, [p.id for p in pool], Random(1), 3)
    texts = [p.text for p in outcome.proposals if len(p.operations) > 1]
    assert all(SENTENCES[0] not in text and SENTENCES[4] in text for text in texts)
    (adds,) = {o.hypothesis for p in outcome.proposals for o in p.operations if o.kind == "ADD"}
    assert adds.startswith("It seems to help: it is in ")


def test_near_duplicates_are_not_added() -> None:
    base = parse_program(b"# T\n\n- Try wider layers first, then deeper ones.\n", "base")
    other = parse_program(b"- Try wider layers first; then deeper ones!\n- Be bold.\n", "other")
    for seed in range(6):
        for proposal in proposed([base, other], [], base.id, [], Random(seed), 2):
            assert "deeper ones!" not in proposal.text


def test_what_makes_no_sense_elsewhere_stays_at_home() -> None:
    base = parse_program(b"- Be bold.\n", "base")
    text = "## Do not touch\n\n- the schedule\n\n## Ideas\n\n- Repeat the list above.\n- Go wide.\n"
    other = parse_program(text.encode(), "other")
    for seed in range(6):
        for proposal in proposed([base, other], [], base.id, [], Random(seed), 2):
            assert "schedule" not in proposal.text
            assert "above" not in proposal.text


def test_a_list_that_is_gone_takes_its_introduction_along() -> None:
    parts = "## Parts\n\nQuestion each part:\n\n- the norms\n- the heads\n\n"
    base = parse_program(f"# T\n\n{parts}## Also\n\n- Be bold.\n".encode(), "base")
    better = parse_program(b"# U\n\n## Also\n\n- Be bold.\n- Go wide.\n", "better")
    gains = rows({base.id: [0.0] * 4, better.id: [60.0, 61.0, 60.0, 61.0]})
    found = proposed([base, better], gains, base.id, [], Random(0), 3)
    assert "# T\n\n## Also\n\n- Be bold.\n- Go wide.\n" in [p.text for p in found]
    assert all(("norms" in p.text or "heads" in p.text) == ("each part" in p.text) for p in found)


def test_nothing_new_is_an_empty_list_with_a_reason() -> None:
    alone = read_program(PROGRAMS / "one-line")
    outcome = consider([alone], [], alone.id, [], Random(0))
    assert outcome.proposals == []
    assert "no strategy instruction" in outcome.reason
    small = parse_program(b"- Be bold.\n- Go wide.\n", "small")
    every = [proposed([small], [], small.id, [], Random(i), 1) for i in range(12)]
    known = [p.program_id for found in every for p in found]
    outcome = consider([small], [], small.id, known, Random(0))
    assert outcome.proposals == []
    assert "gave too few that are new" in outcome.reason
    assert [p.rejection for p in outcome.refused] == [
        f"The rewrite equals an earlier program ({p.program_id})." for p in outcome.refused
    ]
    assert {p.program_id for p in outcome.refused} <= set(known)


@pytest.mark.parametrize("seed", range(4))
def test_refused_drafts_are_few_different_and_none_of_those_proposed(seed: int) -> None:
    small = parse_program("".join(f"- {s}\n" for s in SENTENCES[:3]).encode(), "small")
    found = consider([small], [], small.id, [], Random(seed), 9)
    assert 0 < len(found.refused) <= MAX_REFUSED
    assert len({(p.rejection, p.program_id) for p in found.refused}) == len(found.refused)
    assert not {p.id for p in found.refused} & {p.id for p in found.proposals}
    earlier = [p.program_id for p in found.proposals]
    for each in found.refused:
        assert each.rejection == rejection(small, each.operations, each.text, earlier)


def test_a_text_that_only_its_author_calls_strategy_stays_at_home() -> None:
    base = parse_program(b"<!-- role: strategy -->\n# T\n\n- Be bold.\n- Look back.\n", "base")
    text = b"<!-- role: strategy -->\n# U\n\n- Never stop.\n- Edit prepare.py too.\n- Go wide.\n"
    other = parse_program(text, "other")
    found = [p for s in range(6) for p in proposed([base, other], [], base.id, [], Random(s), 2)]
    assert any("Go wide." in p.text for p in found)
    assert not any("Never stop." in p.text or "prepare.py" in p.text for p in found)


def test_runs_of_programs_outside_the_pool_are_left_out() -> None:
    stray = Evidence(program_id="none", block=0, gain=1e6, run_id="x")
    assert beliefs(SHIPPED, [*some_evidence(), stray]) == beliefs(SHIPPED, some_evidence())


def test_a_champion_who_is_not_in_the_pool_is_an_error() -> None:
    with pytest.raises(KeyError):
        proposed(SHIPPED, [], "nobody", [], Random(0))


# --- words ------------------------------------------------------------------------------------


def test_no_digit_is_printed_that_the_interval_does_not_support() -> None:
    assert effect(Belief(3.21, 2.4)) == "+3 mbpb (90 % interval -1 to +7)"
    assert effect(Belief(-0.314, 0.12)) == "-0.3 mbpb (90 % interval -0.5 to -0.1)"
    assert effect(Belief(-0.2, 31)) == "0 mbpb (90 % interval -51 to +51)"


def test_the_field_s_margins_are_taken_within_blocks() -> None:
    evidence = rows({"a": [10.0, 2.0], "b": [0.0, 0.0]})
    assert field_margins(evidence) == {"a": 3.0, "b": -3.0}


# --- over many rounds -------------------------------------------------------------------------


def test_recombination_raises_the_champion_and_beats_one_edit_per_file() -> None:
    """Means over planted worlds, 4 programs, then 4 rounds of a champion and 3 challengers."""
    seeds = range(10)
    ours = np.array([recombine(seed, 4, 3, 5) for seed in seeds])
    theirs = np.array([one_edit(seed, 4, 3, 5) for seed in seeds])
    gain, plain = ours[:, -1] - ours[:, 0], theirs[:, -1] - theirs[:, 0]
    assert gain.mean() > 2 * gain.std(ddof=1) / math.sqrt(len(gain))
    assert gain.mean() > plain.mean() + 0.3  # mbpb
    assert (np.diff(ours.mean(axis=0)) > -0.3).all()
