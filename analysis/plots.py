"""The three figures of a report: staircase, forest plot, curves.

Owns: what is drawn and its text alternative. Marks differ in shape and fill as well as colour, so
they read in greyscale. Does not own: SVG text (`svg`) or any number (`curves`, `leaderboard`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from analysis import svg
from analysis.curves import MBPB_PER_BPB, Step, staircase
from analysis.wording import count, show_bpb, show_gain, signed
from inner_loop.records import Leaderboard, RunDetail, Standing

WIDTH = 7.6  # inches; a text column at 100 %
LABEL_LENGTH = 44
CURVE_COLUMNS = 3
_SIDES = ((-6, -9, "right"), (6, 9, "left"), (-6, 9, "right"), (6, -9, "left"))
_OFFSETS = [(dx, dy * level, side) for level in range(1, 9) for dx, dy, side in _SIDES]
"""Where a label may go, in points from its mark, nearest first. Below and to the left of a falling
staircase is always empty, and leaders there cross no earlier label."""


def staircase_svg(detail: RunDetail, noise_sd: float | None = None, name: str = "") -> str:
    """One run: grey discarded, green kept, running minimum as steps, a label per keep.

    Args:
        detail: the run.
        noise_sd: spread of single trainings in mbpb; decides digits.
        name: unique on the page; the run's id by default.
    """
    steps = staircase(detail)
    with svg.style():
        figure = svg.new_figure(WIDTH, 3.3)
        axes = figure.add_subplot()
        _draw_best(axes, steps, detail.baseline_search_bpb)
        _draw_marks(axes, steps)
        _frame_staircase(axes, steps, detail.baseline_search_bpb)
        _draw_crashes(axes, steps)
        _legend(axes, steps)
        _label_keeps(figure, axes, steps, detail.baseline_search_bpb)
        return svg.to_svg(figure, name or f"staircase-{detail.run.id}", _say_run(detail, noise_sd))


def forest_svg(board: Leaderboard, name: str = "forest") -> str:
    """Mean gains with their 95 % intervals, best on top; controls hollow."""
    rows = [s for s in board.standings if s.mean_gain is not None]
    with svg.style():
        figure = svg.new_figure(WIDTH, 1.1 + 0.34 * max(len(rows), 1))
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            _draw_interval(axes, row, place)
        axes.axvline(0, color=svg.INK, lw=0.8, ls=(0, (4, 3)), zorder=1)
        names = [svg.drawable(shorten(r.name, 28)) + f"  (n={r.n})" for r in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("gain over the baseline, mbpb, with 95 % interval (right is better)")
        _legend_forest(axes, rows)
        return svg.to_svg(figure, name, _say_forest(rows))


def curves_svg(details: Iterable[RunDetail], name: str = "curves") -> str:
    """Gain so far on the search shard by experiment; a panel per program, a line per run."""
    panels = _panels(details)
    columns = min(CURVE_COLUMNS, max(len(panels), 1))
    lines = math.ceil(len(panels) / columns) or 1
    with svg.style():
        figure = svg.new_figure(WIDTH, 0.5 + 1.9 * lines)
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        cells = list(grid.flat)
        for axes, (title, curves) in zip(cells, panels.items(), strict=False):
            _draw_curves(axes, title, curves)
        for axes in cells[max(len(panels) - columns, 0) : len(panels)]:
            axes.tick_params(labelbottom=True)
        for axes in cells[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel("experiment", fontsize=9)
        figure.supylabel("gain so far, mbpb", fontsize=9)
        return svg.to_svg(figure, name, _say_curves(panels))


def gain_so_far(detail: RunDetail) -> list[float]:
    """Search-shard mbpb, from 0 before the first experiment; empty without a baseline."""
    start = detail.baseline_search_bpb
    if start is None:
        return []
    best = [step.best_bpb for step in staircase(detail)]
    return [0.0, *(MBPB_PER_BPB * (start - b) for b in best if b is not None)]


def shorten(text: str, length: int) -> str:
    """`text` cut at a word to at most `length` characters."""
    flat = " ".join(text.split())
    if len(flat) <= length:
        return flat
    cut = flat[: length - 1]
    return (cut[: cut.rfind(" ")] if " " in cut[length // 2 :] else cut).rstrip(" ,;:") + "…"


# --- staircase --------------------------------------------------------------------------------


def _draw_best(axes: Any, steps: Sequence[Step], start: float | None) -> None:
    if start is None:
        return
    axes.axhline(start, color=svg.INK, lw=0.8, ls=(0, (4, 3)), zorder=1)
    best = [(s.index, s.best_bpb) for s in steps if s.best_bpb is not None]
    x = [0, *(i for i, _ in best)]
    y = [start, *(b for _, b in best)]
    axes.step(x, y, where="post", color=svg.KEEP, lw=1.6, alpha=0.75, zorder=2)


def _draw_marks(axes: Any, steps: Sequence[Step]) -> None:
    scored = [s for s in steps if s.search_bpb is not None]
    kept = [(s.index, s.search_bpb) for s in scored if s.status == "keep"]
    rest = [(s.index, s.search_bpb) for s in scored if s.status != "keep"]
    for points, mark in ((rest, _DISCARDED), (kept, _KEPT)):
        if points:
            axes.plot(*zip(*points, strict=True), zorder=3, **mark)


_MARK: dict[str, Any] = {"ls": ""}
_KEPT: dict[str, Any] = {
    **_MARK,
    "marker": "o",
    "ms": 6,
    "mfc": svg.KEEP,
    "mec": svg.INK,
    "mew": 0.7,
}
_DISCARDED: dict[str, Any] = {
    **_MARK,
    "marker": "o",
    "ms": 4.5,
    "mfc": "none",
    "mec": svg.FAINT,
    "mew": 1.1,
}
_CRASHED: dict[str, Any] = {**_MARK, "marker": "x", "ms": 6, "mec": svg.CRASH, "mew": 1.6}


def _frame_staircase(axes: Any, steps: Sequence[Step], start: float | None) -> None:
    axes.set_xlim(-0.4, max((s.index for s in steps), default=1) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = axes.get_ylim()
    room = (high - low) or 1.0
    axes.set_ylim(low - 0.5 * room, high + 0.25 * room)
    axes.set_xlabel("experiment (0 = the block's baselines)")
    axes.set_ylabel("val_bpb on the search shard\n(lower is better)")
    axes.ticklabel_format(axis="y", useOffset=False)


def _draw_crashes(axes: Any, steps: Sequence[Step]) -> None:
    crashed = [s.index for s in steps if s.status == "crash"]
    if crashed:
        edge = axes.get_xaxis_transform()
        tops = [0.985] * len(crashed)
        axes.plot(crashed, tops, transform=edge, clip_on=False, zorder=4, **_CRASHED)


def _legend(axes: Any, steps: Sequence[Step]) -> None:
    present = {s.status for s in steps}
    entries = [Line2D([], [], color=svg.INK, lw=0.8, ls=(0, (4, 3)), label="baseline")]
    entries.append(Line2D([], [], color=svg.KEEP, lw=1.6, alpha=0.75, label="best kept so far"))
    if "keep" in present:
        entries.append(Line2D([], [], label="kept", **_KEPT))
    if present & {"discard", None}:
        entries.append(Line2D([], [], label="not kept", **_DISCARDED))
    if "crash" in present:
        entries.append(Line2D([], [], label="crash (no score)", **_CRASHED))
    axes.legend(
        handles=entries, loc="lower left", bbox_to_anchor=(0, 1.01), ncols=5, borderaxespad=0
    )


def _label_keeps(figure: Figure, axes: Any, steps: Sequence[Step], start: float | None) -> None:
    """Place each label where it covers no mark and no other label; else only its number; else none.

    The table under the figure has every description, so leaving one out loses nothing.
    """
    figure.canvas.draw()
    figure.set_layout_engine("none")
    taken = _mark_boxes(axes, steps, start)
    for step in steps:
        if step.status == "keep" and step.search_bpb is not None:
            for text in (svg.drawable(shorten(step.label, LABEL_LENGTH)), f"#{step.index}"):
                if text and _place(figure, axes, (step.index, step.search_bpb), text, taken):
                    break


def _place(figure: Figure, axes: Any, at: tuple[int, float], text: str, taken: list[Bbox]) -> bool:
    frame = axes.get_window_extent()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for dx, dy, side in _OFFSETS:
        label = axes.annotate(
            text,
            at,
            (dx, dy),
            textcoords="offset points",
            ha=side,
            va="center",
            **_LABEL,
            arrowprops=_LEADER | {"relpos": (0 if side == "left" else 1, 0.5)},
        )
        label.update_positions(renderer)
        words = Text.get_window_extent(label, renderer)  # without the arrow
        inside = frame.x0 <= words.x0 and words.x1 <= frame.x1 + 4
        inside = inside and frame.y0 <= words.y0 and words.y1 <= frame.y1
        if inside and not any(words.overlaps(other) for other in taken):
            taken.append(words.padded(2))
            return True
        label.remove()
    return False


_LABEL: dict[str, Any] = {"fontsize": 8, "zorder": 5}
_LEADER: dict[str, Any] = {
    "arrowstyle": "-",
    "lw": 0.5,
    "color": svg.FAINT,
    "shrinkA": 0,
    "shrinkB": 4,
}


def _mark_boxes(axes: Any, steps: Sequence[Step], start: float | None) -> list[Bbox]:
    """Pixels of the marks and of the horizontal lines."""
    marks = [(s.index, s.search_bpb) for s in steps if s.search_bpb is not None]
    boxes = [_box(axes, (x, y), (x, y), 5) for x, y in marks]
    ends = [s.index for s in (*steps[1:], *steps[-1:])]
    for step, end in zip(steps, ends, strict=True):
        if step.best_bpb is not None:
            boxes.append(_box(axes, (step.index, step.best_bpb), (end, step.best_bpb), 2))
    if start is not None:
        boxes.append(_box(axes, (-1, start), (len(steps) + 2, start), 2))
    return boxes


def _box(axes: Any, a: tuple[float, float], b: tuple[float, float], pad: float) -> Bbox:
    (x0, y0), (x1, y1) = axes.transData.transform([a, b])
    return Bbox.from_extents(x0 - pad, y0 - pad, x1 + pad, y1 + pad)


def _say_run(detail: RunDetail, noise_sd: float | None) -> str:
    steps = staircase(detail)
    statuses = [s.status for s in steps]
    start = detail.baseline_search_bpb
    final = [s.best_bpb for s in steps if s.best_bpb is not None]
    said = f"Validation bits per byte of {count(len(steps), 'experiment')} in order"
    if start is None or not final:
        return f"{said}; there is no baseline to compare with."
    return (
        f"{said}: {statuses.count('keep')} kept, {statuses.count('crash')} crashed; the best kept "
        f"goes from {show_bpb(start, noise_sd)} at the baseline to {show_bpb(final[-1], noise_sd)}."
    )


# --- forest -----------------------------------------------------------------------------------


def _draw_interval(axes: Any, row: Standing, place: int) -> None:
    mean = row.mean_gain or 0.0
    if row.ci_low is not None and row.ci_high is not None:
        axes.plot([row.ci_low, row.ci_high], [place, place], color=svg.ENTRANT, lw=1.8, zorder=2)
    axes.plot([mean], [place], zorder=3, **_forest_mark(row.role))


def _forest_mark(role: str) -> dict[str, Any]:
    fill = svg.PAPER if role == "control" else svg.ENTRANT
    return {"ls": "", "marker": "o", "ms": 7, "mfc": fill, "mec": svg.ENTRANT, "mew": 1.6}


def _legend_forest(axes: Any, rows: Sequence[Standing]) -> None:
    roles = [role for role in ("entrant", "control") if any(r.role == role for r in rows)]
    handles = [Line2D([], [], label=role, **_forest_mark(role)) for role in roles]
    if handles:
        axes.legend(
            handles=handles, loc="lower right", bbox_to_anchor=(1, 1.0), ncols=2, borderaxespad=0
        )


def _say_forest(rows: Sequence[Standing]) -> str:
    said = [f"{r.name} {show_gain(r.mean_gain, r.ci_low, r.ci_high)}" for r in rows]
    return f"Gain over the baseline in mbpb with 95 % interval: {'; '.join(said) or 'none yet'}."


# --- curves -----------------------------------------------------------------------------------


def _panels(details: Iterable[RunDetail]) -> dict[str, list[list[float]]]:
    panels: dict[str, list[list[float]]] = {}
    for detail in details:
        if detail.run.role != "baseline" and (curve := gain_so_far(detail)):
            panels.setdefault(detail.run.program_name, []).append(curve)
    return panels


def _draw_curves(axes: Any, title: str, curves: Sequence[Sequence[float]]) -> None:
    for curve in curves:
        axes.step(range(len(curve)), curve, where="post", color=svg.ENTRANT, lw=1.1, alpha=0.85)
        axes.plot([len(curve) - 1], [curve[-1]], ls="", marker="o", ms=3.5, color=svg.ENTRANT)
    axes.axhline(0, color=svg.INK, lw=0.8, ls=(0, (4, 3)), zorder=1)
    axes.set_title(svg.drawable(shorten(title, 26)), fontsize=9, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))


def _say_curves(panels: dict[str, list[list[float]]]) -> str:
    said = [
        f"{name} ends at {' and '.join(signed(curve[-1], 0) for curve in curves)}"
        for name, curves in panels.items()
    ]
    return (
        "Gain so far on the search shard in mbpb, one line per run: "
        f"{'; '.join(said) or 'no run has a scored baseline yet'}."
    )
