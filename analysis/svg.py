"""matplotlib figures as inline SVG that suits any page.

Owns: the look all figures share, and turning a figure into SVG text that is the same every time,
inherits the page's text colour, has unique ids and a text alternative.
Does not own: what is drawn (`plots`).
"""

from __future__ import annotations

import hashlib
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#0a0b0c"  # stands for the page's text colour; replaced by `currentColor`
KEEP = "#009e73"  # Okabe and Ito's colour-blind safe green
CRASH = "#d55e00"  # and their vermilion
ENTRANT = "#2a7fba"
PAPER = "#fafbfc"  # stands for the page's background; replaced by its CSS variable
FAINT = "#8c8c8c"  # 3:1 on white and on near-black
FONT = "DejaVu Sans"  # ships with matplotlib, so label widths are equal on every machine

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "metaresearch",
    "font.family": [FONT],
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save inside this: the shared look, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches that never touches a display."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an inline `<svg>` element.

    Args:
        figure: what was drawn inside `style()`.
        name: unique on the page; prefixes every id.
        alt: one or two sentences for those who cannot see it.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(_without_prolog(stream.getvalue()))
    for tag in ("metadata", f"{{{_SVG}}}metadata"):
        for found in root.findall(tag):
            root.remove(found)
    _take_global_styles(root)
    _prefix_ids(root, _slug(name))
    _describe(root, alt)
    return _serialise(root)


def drawable(text: str) -> str:
    """`text` on one line, with a `?` for each character the figures' font lacks."""
    known = font_manager.get_font(font_manager.findfont(FONT)).get_charmap()
    flat = " ".join(text.split())
    return "".join(c if ord(c) in known and c.isprintable() else "?" for c in flat)


def _without_prolog(text: str) -> str:
    return text[text.index("<svg") :]


def _take_global_styles(root: ET.Element) -> None:
    """A `* {...}` rule would apply to the whole page; inherited attributes do not."""
    for defs in root.findall(f"{{{_SVG}}}defs"):
        for rule in defs.findall(f"{{{_SVG}}}style"):
            defs.remove(rule)
    root.set("stroke-linejoin", "round")
    root.set("stroke-linecap", "butt")


def _prefix_ids(root: ET.Element, prefix: str) -> None:
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{prefix}-{value}")
            elif key == f"{{{_XLINK}}}href" and value.startswith("#"):
                element.set(key, f"#{prefix}-{value[1:]}")
            else:
                renamed = re.sub(r"url\(#", f"url(#{prefix}-", value)
                renamed = renamed.replace(INK, "currentColor")
                element.set(key, renamed.replace(PAPER, "var(--paper, white)"))


def _describe(root: ET.Element, alt: str) -> None:
    width = float(root.attrib["viewBox"].split()[2])
    for fixed in ("width", "height", "version"):
        root.attrib.pop(fixed, None)
    root.set("style", f"width:100%;min-width:{min(width, 560):.0f}px;max-width:{width * 1.5:.0f}px")
    root.set("role", "img")
    root.set("aria-label", alt)
    title = ET.Element(f"{{{_SVG}}}title")
    title.text = alt
    root.insert(0, title)


def _serialise(root: ET.Element) -> str:
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    return ET.tostring(root, encoding="unicode")


def _slug(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9-]", "-", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
