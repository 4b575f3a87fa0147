"""The shipped programs: complete, different in what they ask for, and steering what they claim."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest
from scipy.stats import chi2_contingency
from simulated_run import landscape, play

from inner_loop.catalog_edits import CATEGORIES
from inner_loop.catalog_knobs import read_description
from inner_loop.catalog_policy import read_policy
from inner_loop.catalog_reading import read
from inner_loop.catalog_run import categories_of
from inner_loop.literals import number
from inner_loop.program import read_card, read_program

PROGRAMS = Path(__file__).parent.parent / "programs"
FOLDERS = sorted(path for path in PROGRAMS.iterdir() if path.is_dir())
STRATEGIES = [path for path in FOLDERS if read_card(path).role == "entrant"]
CONTRACT = {
    "what may be edited": r"train\.py",
    "what may not": r"prepare\.py",
    "no new packages": r"package|install|dependenc",
    "the start is measured": r"baseline|unchanged|unmodified|as it is|as you found|as it stands",
    "how to run": r"python train\.py > run\.log 2>&1",
    "what counts": r"val_bpb",
    "the log": r"results\.tsv",
    "its columns": r"memory",
    "keep or undo": r"reset|undo",
    "crashes": r"crash",
    "time limit": r"twice|hangs",
    "nobody answers": r"\bask|interrupt|answer|wait",
}


def body(folder: Path) -> str:
    return (folder / "program.md").read_text(encoding="utf-8")


def category_counts(folder: Path, seeds: int = 20) -> Counter[str]:
    """Categories of all edits of `seeds` simulated runs; the keep rule is the real one."""
    text = (folder / "program.md").read_bytes()
    runs = [play(text, seed, landscape(seed), 8) for seed in range(seeds)]
    return Counter(categories_of(e)[0] for r in runs for e in r.history if e.kind == "edit")


def p_value(one: Counter[str], other: Counter[str]) -> float:
    """Chi-squared test that both counts come from one distribution of categories."""
    seen = [c for c in CATEGORIES if one[c] + other[c]]
    table = [[one[c] for c in seen], [other[c] for c in seen]]
    return float(chi2_contingency(table).pvalue)


def test_there_are_two_controls_and_at_least_six_strategies() -> None:
    assert {f.name for f in FOLDERS} - {f.name for f in STRATEGIES} == {"stock", "one-line"}
    assert len(STRATEGIES) >= 6
    assert len({read_program(f).id for f in FOLDERS}) == len(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_a_card_says_who_and_what(folder: Path) -> None:
    card = read_card(folder)
    assert card.name == folder.name
    assert card.author
    assert card.license == "MIT"
    assert 20 < len(card.note) < 110


@pytest.mark.parametrize("folder", STRATEGIES, ids=lambda f: f.name)
def test_a_strategy_is_a_complete_program(folder: Path) -> None:
    text = body(folder)
    assert 25 <= text.count("\n") <= 80
    assert len(read_program(folder).instructions) >= 15
    for part, pattern in CONTRACT.items():
        assert re.search(pattern, text, re.IGNORECASE), part


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_no_program_carries_an_answer(folder: Path) -> None:
    """No value for a constant: what is good is for the run to find out."""
    text = re.sub(r"```.*?```", "", body(folder), flags=re.DOTALL)
    assert not re.search(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", text)
    assert not set(re.findall(r"\d+\.\d+|\d+e-?\d+", text)) - {"0.000000", "0.0"}


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("small-steps", {"stride_ids", "single_ids", "confirm", "simpler_ids", "follow_ids"}),
        ("bold-jumps", {"stride_ids", "combine_ids", "plateaus"}),
        ("plateau-rules", {"single_ids", "follow_ids", "plateaus"}),
        (
            "breadth-first",
            {"breadth_ids", "follow_ids", "single_ids", "simpler_ids", "combine_ids"},
        ),
        ("annealing", {"worse_ids", "base_ids", "single_ids", "simpler_ids", "plateaus"}),
        ("one-line", set()),
    ],
)
def test_the_catalogue_reads_the_rules_a_program_is_about(name: str, rules: set[str]) -> None:
    found = read_policy(read_program(PROGRAMS / name))
    assert {
        field for field, value in found if value and field not in ("stride", "cooling")
    } == rules
    assert {"small-steps": found.stride < 1, "bold-jumps": found.stride > 1}.get(name, True)


def test_no_shipped_program_forbids_all_but_a_few_edits() -> None:
    for folder in FOLDERS:
        assert not read(read_program(folder)).only


def test_opposite_strategies_choose_clearly_different_categories() -> None:
    optimizer = category_counts(PROGRAMS / "optimizer-first")
    architecture = category_counts(PROGRAMS / "architecture-first")
    assert p_value(optimizer, architecture) < 1e-10
    for a, b in itertools.combinations(range(4), 2):  # not by the seeds alone
        parts = [Counter[str](), Counter[str]()]
        for part, k in zip(parts, (a, b), strict=True):
            for seed in range(5 * k, 5 * k + 5):
                run = play(body(PROGRAMS / "one-line"), seed, landscape(seed), 8)
                part.update(categories_of(e)[0] for e in run.history)
        assert p_value(*parts) > 0.001


def test_small_and_bold_programs_move_by_different_amounts() -> None:
    def spread(name: str) -> float:
        runs = [play(body(PROGRAMS / name), seed, landscape(seed), 3) for seed in range(20)]
        changes = [c for r in runs for e in r.history for c in read_description(e.description)]
        pairs = [(number(c.old), number(c.new)) for c in changes if c.knob.endswith("_LR")]
        return fmean(max(a / b, b / a) for a, b in pairs if a and b)

    assert spread("small-steps") < 1.5 < spread("plateau-rules") < 4 <= spread("bold-jumps")


def test_a_written_ban_is_kept_to_in_every_run() -> None:
    early = [
        change
        for seed in range(20)
        for e in play(body(PROGRAMS / "architecture-first"), seed, landscape(seed), 8).history[:4]
        for change in e.categories
    ]
    assert "learning-rate" not in early
