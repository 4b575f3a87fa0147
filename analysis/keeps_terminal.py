"""A `KeepsReport` for a terminal: one row a keep, then what it means in a few plain sentences.

Owns: columns, sentences and digits of `keeps`. Strangers' text is shown literally and without
control characters. Does not own: any statistics (`keeps`, `keeps_noise`), printing (the CLI does).
"""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.keeps import Keep, KeepsReport
from analysis.keeps_noise import FEW_MEASUREMENTS, NoiseFloor
from analysis.wording import (
    count,
    one_line,
    show_bpb,
    show_change,
    show_gain,
    signed,
    supported_decimals,
    visible,
)

STYLES = {"real": "bold green", "unclear": "yellow", "noise": "dim", "not lower": "red"}
ASSUMED_AT_BPB = (0.9, 1.1)  # where scores start in the setup that the assumed floor comes from
MEANINGS = {
    "not lower": "not lower than the best before",
    "same code": "reruns of the same code, so all luck",
}


def keeps_view(report: KeepsReport) -> RenderableType:
    """The table and the sentences below it."""
    paragraphs = [Text(visible(p) + "\n") for p in keeps_sentences(report)]
    return Group(keeps_table(report), *paragraphs)


def keeps_table(report: KeepsReport) -> Table:
    """The start and every keep in order."""
    sd, rerun = report.noise_floor.sd_mbpb, any(_is_remeasured(k) for k in report.keeps)
    table = Table(
        title=Text(visible(f"Keeps of {report.source}")),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("where", no_wrap=True)
    table.add_column("commit", no_wrap=True, max_width=12)
    for name in ("val_bpb", "claimed,\nmbpb", *(["with\nreruns"] if rerun else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("label", no_wrap=True)
    table.add_column("reruns to\nsettle it", justify="right", no_wrap=True)
    table.add_column("description", overflow="fold", min_width=16)
    start = ["start", report.start_commit, show_bpb(report.start_bpb, sd), ""]
    table.add_row(*map(_literal, start), *([""] if rerun else []), "", "", "")
    for keep in report.keeps:
        table.add_row(*_row(keep, sd, rerun))
    return table


def keeps_sentences(report: KeepsReport) -> list[str]:
    """Noise floor, labels, drift, confirmation, advice, notes: one paragraph each."""
    found = [
        " ".join(_floor(report)),
        " ".join(_labels(report)),
        " ".join(_drift(report)),
        _confirmation(report),
        " ".join(_advice(report)),
        " ".join(report.notes),
    ]
    return [paragraph for paragraph in found if paragraph]


def _literal(text: str) -> Text:
    return Text(visible(one_line(text)))


def _is_remeasured(keep: Keep) -> bool:
    return keep.gain_mbpb != keep.claimed_gain_mbpb


def _row(keep: Keep, sd: float, rerun: bool) -> list[Text]:
    again = show_change(keep.gain_mbpb, sd) if _is_remeasured(keep) else ""
    needed = keep.trainings_to_settle
    return [
        _literal(keep.where),
        _literal(keep.commit),
        Text(show_bpb(keep.bpb, sd)),
        Text(show_change(keep.claimed_gain_mbpb, sd)),
        *([Text(again)] if rerun else []),
        Text(keep.label, style=STYLES.get(keep.label, "")),
        Text(f"{needed} each" if needed else ""),
        _literal(keep.description),
    ]


def _floor(report: KeepsReport) -> Iterator[str]:
    floor, own = report.noise_floor, report.own_repeats
    yield f"Noise floor: trainings of the same code scatter by {floor.sd_mbpb:.2g} mbpb (sd),"
    if floor.origin == "given":
        yield "as --noise-sd says."
    elif floor.origin == "assumed":
        yield (
            "by assumption: that is the published figure for the unchanged train.py in five "
            "minutes on H200s (204 runs in 33 groups), and wrong for other hardware and budgets. "
            "Measure yours with `metaresearch doctor --calibrate` and give it with --noise-sd."
        )
        yield from _strange(report)
    else:
        yield f"measured from {_measured(floor)}."
        yield from _few(floor)
    if own is not None:
        yield from _unused(own, floor)


def _strange(report: KeepsReport) -> Iterator[str]:
    low, high = ASSUMED_AT_BPB
    if not low < report.start_bpb < high:
        yield (
            f"These scores start at {report.start_bpb:.2f}, those of that setup at 0.99: expect "
            "another noise here."
        )


def _measured(floor: NoiseFloor) -> str:
    what = "this track's {}" if floor.origin == "baselines" else "the file's own {}"
    noun = "baseline" if floor.origin == "baselines" else "repeated training"
    return f"{what.format(count(floor.measurements, noun))}, 95 % interval {_interval(floor)}"


def _interval(floor: NoiseFloor) -> str:
    return f"[{floor.low_mbpb:.2g}, {floor.high_mbpb:.2g}]"


def _few(floor: NoiseFloor) -> Iterator[str]:
    if floor.measurements < FEW_MEASUREMENTS and floor.high_mbpb:
        yield (
            f"A floor from {floor.measurements} trainings is itself uncertain by a factor of up "
            f"to {floor.high_mbpb / floor.sd_mbpb:.2g}; five or more make a usable one."
        )


def _unused(own: NoiseFloor, floor: NoiseFloor) -> Iterator[str]:
    few = own.measurements < FEW_MEASUREMENTS
    why = f"too few to be used unasked ({FEW_MEASUREMENTS} are needed)" if few else "not used"
    hint = f"; --noise-sd {own.sd_mbpb:.2g} takes them" if floor.origin == "assumed" else ""
    yield f"Measured here: {_measured(own)}, sd {own.sd_mbpb:.2g} mbpb, {why}{hint}."


def _labels(report: KeepsReport) -> Iterator[str]:
    if not report.keeps:
        yield f"None of {count(report.experiments, 'experiment')} was kept."
        return
    rules = {
        "real": f"at least {report.real_from_mbpb:.2g} mbpb",
        "noise": f"under {report.noise_below_mbpb:.2g} mbpb",
    }
    counted = [
        f"{t.count} {t.label}" + (f" ({why})" if (why := (rules | MEANINGS).get(t.label)) else "")
        for t in report.totals
        if t.count or t.label in ("real", "unclear", "noise")
    ]
    yield f"{count(len(report.keeps), 'keep')}: {', '.join(counted)}."
    yield " ".join(_false_labels(report))


def _false_labels(report: KeepsReport) -> Iterator[str]:
    """What the labels are worth where no edit does anything; simulated in tests/test_keeps.py."""
    is_estimate = report.noise_floor.df is not None
    wider = ", widened since the floor is an estimate" if is_estimate else ""
    yield f"The limits are two and one sd of the difference of two trainings of one script{wider}."
    most, again = 6 if is_estimate else 4, any(k.retrained for k in report.keeps)
    one = " by its one training" if again else ""
    yield (
        f"Of 100 sessions in which no edit does anything, at most {most} have a keep labelled "
        f"real{one}."
    )
    if again:
        yield "Of 100 keeps that do nothing and were trained again, about 2 are labelled real."


def _drift(report: KeepsReport) -> Iterator[str]:
    if not report.keeps:
        return
    places = supported_decimals(report.noise_floor.sd_mbpb)
    parts = [f"{t.label} {signed(t.claimed_gain_mbpb, places)}" for t in report.totals if t.count]
    yield (
        f"From start to best the claim is {signed(report.claimed_gain_mbpb, places)} mbpb: "
        f"{', '.join(parts)}."
    )
    low, high = report.noise_alone_low_mbpb, report.noise_alone_high_mbpb
    yield (
        f"Had no edit done anything, keeping the lowest of {count(report.candidates, 'training')} "
        f"would still have claimed {signed(report.noise_alone_mbpb, places)} mbpb (95 % range "
        f"{signed(low, places)} to {signed(high, places)})."
    )
    yield from _truth(report)


def _truth(report: KeepsReport) -> Iterator[str]:
    low, high = report.true_gain_low_mbpb, report.true_gain_high_mbpb
    if low is None or high is None:
        return
    places = supported_decimals((high - low) / 2)
    none = " (so perhaps none at all)" if low <= 0 else ""
    yield (
        f"So the best line's true gain is between {signed(low, places)} and {signed(high, places)} "
        f"mbpb{none} as far as the noise of single trainings goes; how the machine drifted "
        "meanwhile is not in these numbers."
    )


def _confirmation(report: KeepsReport) -> str:
    c = report.confirmation
    if c is None:
        return ""
    audit = c.source == "audit shard"
    script = "final script on the audit shard, text no keep was chosen on" if audit else "best line"
    places = supported_decimals(report.noise_floor.sd_mbpb)
    less = "less" if c.shrinkage_mbpb >= 0 else "more"
    return (
        f"Confirmed: {show_gain(c.gain_mbpb, c.low_mbpb, c.high_mbpb)} mbpb over "
        f"{count(c.baseline_trainings, 'baseline')}, from {count(c.trainings, 'fresh training')} "
        f"of the {script}. That is {abs(c.shrinkage_mbpb):.{places}f} {less} than claimed; quote "
        "this number."
    )


def _advice(report: KeepsReport) -> Iterator[str]:
    counts = {t.label: t.count for t in report.totals}
    if counts["unclear"]:
        yield (
            "To settle the unclear ones, train each and the line it beat again on fresh seeds, as "
            f"often as the table says ({count(report.trainings_to_settle, 'training')} in all): "
            "a gain as large as claimed would then stand clear of zero."
        )
    if counts["noise"]:
        yield "Build nothing on a keep labelled noise: rerun it first, or drop it if it adds code."
    if report.confirmation is None and report.claimed_gain_mbpb > 0:
        yield (
            "Before you quote the total, train the first and the last script again, side by side "
            "and several times each."
        )
