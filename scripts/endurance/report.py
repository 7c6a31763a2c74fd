"""The samples as lines of blocks for the terminal, and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from scripts.endurance.samples import KINDS, Samples
from scripts.endurance.verdict import Trend

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 60
PANELS = {
    "memory, MiB": ("web memory", "worker memory", "PostgreSQL memory", "Redis memory"),
    "descriptors and tasks": ("web descriptors", "worker descriptors", "Redis descriptors", "web tasks"),
    "a second": ("debits", "messages"),
    "lag": ("due lag", "delivery lag"),
    "calls and tabs": ("calls", "tabs"),
    "CPU, % of a processor": ("web CPU", "worker CPU", "PostgreSQL CPU", "Redis CPU"),
}


def line(values: list[float], width: int = WIDTH) -> str:
    """A character for each of at most `width` stretches of the run, its height from nothing to the highest value."""
    highest = max(values, default=0) or 1
    count = min(width, len(values))
    parts = [values[n * len(values) // count : (n + 1) * len(values) // count] for n in range(count)]
    return "".join(BLOCKS[min(7, int(8 * sum(part) / len(part) / highest))] for part in parts)


def table(samples: Samples, trends: dict[str, Trend], title: str) -> Table:
    shown = Table(title=title, title_justify="left", box=None)
    for name in ("", "from start to end, from zero up", "highest", "first third", "last third", "a minute", ""):
        shown.add_column(name, justify="left" if name in {"", "from start to end, from zero up"} else "right")
    for name, kind in KINDS.items():
        found, values = trends[name], samples.series[name]
        verdict = "" if kind.allowed is None else "[green]flat[/green]" if found.flat else "[red]grew[/red]"
        numbers = (max(values), found.first_third, found.last_third)
        shown.add_row(
            f"{name} {kind.unit}", line(values), *(f"{number:,.1f}" for number in numbers),
            f"{found.slope_per_minute:+,.2f}", verdict,
        )  # fmt: skip
    return shown


def plot(samples: Samples, figures: dict[str, Any], path: Path) -> None:
    import matplotlib  # noqa: PLC0415  (takes a second to load)

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(3, 2, figsize=(12, 10), layout="constrained")
    figure.suptitle(figures["title"])
    for panel, (title, names) in zip(axes.flat, PANELS.items(), strict=True):
        for name in names:
            unit = f", {KINDS[name].unit}" if title == "lag" else ""
            panel.plot(samples.at_s, samples.series[name], label=name + unit)
        panel.axvline(figures["warm_up_s"], color="grey", linewidth=0.5, linestyle=":")
        panel.set(title=title, xlabel="seconds", ylim=(0, None))
        panel.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
