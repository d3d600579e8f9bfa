"""Plots without a display: the plane of quality and diversity, panels side by side, and figures as PNG bytes."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def plain_figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a matplotlib figure and its axes, without the box's upper and right sides."""
    from matplotlib.figure import Figure  # late: it takes half a second

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plane() -> tuple[Any, Any]:
    """Return figure and axes of quality (BLEU-4, to the right) against diversity (1 - Self-BLEU-4, upwards)."""
    figure, axes = plain_figure(7, 5)
    axes.set_xlabel("quality: BLEU-4 against references")
    axes.set_ylabel("diversity: 1 - Self-BLEU-4")
    return figure, axes


@dataclass(frozen=True)
class Panel:
    """One of several plots side by side that share their vertical axis."""

    across: str
    places: Sequence[float] | Sequence[str]
    values: Sequence[float]
    log: bool = False
    """Whether the horizontal axis is logarithmic."""
    lowest: bool = False
    """Whether a line follows the lowest value so far."""


def panels(shown: Sequence[Panel], *, up: str) -> Any:
    """Return a matplotlib figure of the panels, four in a row; `up` names the vertical axis."""
    from matplotlib.figure import Figure

    rows, columns = -(-len(shown) // 4), min(4, len(shown))
    figure = Figure(figsize=(3 * columns, 2.8 * rows), layout="constrained")
    for place, (panel, axes) in enumerate(
        zip(shown, figure.subplots(rows, columns, sharey=True, squeeze=False).flat, strict=False)
    ):
        axes.scatter(panel.places, panel.values, s=18)
        if panel.lowest:
            lowest = [min(panel.values[: n + 1]) for n in range(len(panel.values))]
            axes.step(panel.places, lowest, where="post", color="grey", linewidth=1)
        axes.set(xlabel=panel.across, ylabel="" if place % columns else up)
        if panel.log:  # any other call of set_xscale would take the names of choices away
            axes.set_xscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in figure.axes[len(shown) :]:
        axes.remove()
    return figure


def png(figure: Any) -> bytes:
    """Return the figure as PNG bytes, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
