"""Plots of figures over a size, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    x: Sequence[float]
    y: Sequence[float]
    style: str = "-"


def lines(path: Path, drawn: Mapping[str, Line], *, title: str, x: str, y: str) -> Path:
    """Both axes are logarithmic; answers the path."""
    import matplotlib  # noqa: PLC0415  (half a second that no other benchmark needs)

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    for label, line in drawn.items():
        axes.plot(line.x, line.y, line.style, marker="o", markersize=3, label=label)
    axes.set(title=title, xlabel=x, ylabel=y, xscale="log", yscale="log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
