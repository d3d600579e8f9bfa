"""Plots without a display: the plane of quality and diversity, and figures as PNG bytes."""

import io
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


def png(figure: Any) -> bytes:
    """Return the figure as PNG bytes, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
