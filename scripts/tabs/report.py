"""The figures of a run, as a table and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.table import Table

from scripts.tabs.crowds import Figures
from scripts.tabs.processes import Cost
from scripts.tabs.timeline import Timeline


@dataclass(frozen=True)
class Phase:
    """How long a part of the run took, and what the server had spent before and after."""

    seconds: float
    before: Cost
    after: Cost

    @property
    def cpu_s(self) -> float:
        return self.after.cpu_s - self.before.cpu_s


def figures_of(counted: Figures, opening: Phase, acting: Phase, *, users: int) -> dict[str, Any]:
    tabs = len(counted.connect_s)
    known = opening.after.cpu_s > 0
    return {
        "users": users,
        "tabs": {"opened": tabs, "open_at_the_end": counted.opened, "closed": dict(counted.closed)},
        "connects_per_s": round(tabs / opening.seconds, 1),
        "connect_ms": counted.connect_s.percentiles_ms(),
        "cpu_ms_a_connect": round(1000 * opening.cpu_s / tabs, 3) if known and tabs else None,
        "memory_kib_a_tab": round((opening.after.memory_bytes - opening.before.memory_bytes) / tabs / 1024, 1)
        if known and tabs
        else None,
        "seconds": round(acting.seconds, 2),
        "messages": counted.events,
        "messages_per_s": round(counted.events / acting.seconds, 1),
        "messages_by_event": dict(counted.by_event.most_common()),
        "lost": counted.lost,
        "late": counted.late,
        "twice": counted.twice,
        "cpu_us_a_message": round(1e6 * acting.cpu_s / counted.events, 1) if known and counted.events else None,
        "cpu_share": round(acting.cpu_s / acting.seconds, 3) if known else None,
        "latency_ms": {what: found.percentiles_ms() for what, found in sorted(counted.latency_s.items())},
        "latency_curve_ms": {what: found.curve_ms() for what, found in sorted(counted.latency_s.items())},
        "done": dict(counted.done),
        "failures": dict(counted.failures),
    }


def table(figures: dict[str, Any]) -> Table:
    shown = Table(title=f"{figures['scenario']}: {figures['url']}", title_justify="left", show_header=False)
    shown.add_column(style="bold")
    shown.add_column()
    tabs = figures["tabs"]
    shown.add_row(
        "tabs", f"{tabs['opened']:,} of {figures['users']:,} users, {tabs['open_at_the_end']:,} open at the end"
    )
    for why, count in tabs["closed"].items():
        shown.add_row("", f"[red]{count:,} closed: {why}[/red]")
    shown.add_row("connects", f"{figures['connects_per_s']:,} /s · {_milliseconds(figures['connect_ms'])}")
    shown.add_row("CPU a connect", _known(figures["cpu_ms_a_connect"], "ms"))
    shown.add_row("memory a tab", _known(figures["memory_kib_a_tab"], "KiB (proportional set)"))
    shown.add_section()
    for what, count in figures["done"].items():
        shown.add_row(what, f"{count:,} in {figures['seconds']} s")
    for why, count in figures["failures"].items():
        shown.add_row("", f"[red]{count:,} failed: {why}[/red]")
    shown.add_row("messages", f"{figures['messages']:,} · {figures['messages_per_s']:,} /s")
    for event, count in figures["messages_by_event"].items():
        shown.add_row("", f"{event} {count:,}")
    bad = figures["lost"] or figures["twice"]
    verdict = f"{figures['lost']:,} lost, {figures['twice']:,} twice, {figures['late']:,} behind a younger one"
    shown.add_row("by version", f"[red]{verdict}[/red]" if bad else verdict)
    shown.add_row("CPU a message", _known(figures["cpu_us_a_message"], "µs (with the work that causes it)"))
    if figures["cpu_share"] is not None:
        shown.add_row("server", f"{figures['cpu_share']:.0%} of a processor · {figures['server']}")
    for what, found in figures["latency_ms"].items():
        shown.add_row(what, _milliseconds(found))
    return shown


def _milliseconds(found: dict[str, float]) -> str:
    return " · ".join(f"{name} {value:,.1f} ms" for name, value in found.items()) or "–"


def _known(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{value:,} {unit}"


def plot(figures: dict[str, Any], timeline: Timeline, path: Path) -> None:
    import matplotlib  # noqa: PLC0415  (takes a second to load)

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, ((opened, messages), (latency, server)) = pyplot.subplots(2, 2, figsize=(12, 8), layout="constrained")
    figure.suptitle(
        f"{figures['scenario']}: {figures['tabs']['opened']:,} tabs of {figures['users']:,} users, "
        f"{figures['messages']:,} messages, {figures['lost']:,} lost"
    )
    at_s = timeline.at_s
    opened.plot(at_s, timeline.opened)
    opened.set(title="tabs open", xlabel="seconds", ylim=(0, None))
    steps = [(b - a) or 1 for a, b in pairwise(at_s)]
    rates = [(b - a) / step for (a, b), step in zip(pairwise(timeline.events), steps, strict=True)]
    messages.plot(at_s[1:], rates)
    messages.set(title="messages a second", xlabel="seconds", ylim=(0, None))
    for what, points in figures["latency_curve_ms"].items():
        latency.step([x for x, _ in points], [100 * y for _, y in points], label=what, where="post")
    latency.set(title="took no longer than", xlabel="milliseconds", ylabel="% of deliveries", xscale="log")
    if figures["latency_curve_ms"]:
        latency.legend(loc="lower right")
    shares = [(b - a) / step for (a, b), step in zip(pairwise(timeline.cpu_s), steps, strict=True)]
    server.plot(at_s[1:], [100 * share for share in shares], label="CPU, % of a processor")
    server.set(title="server", xlabel="seconds", ylim=(0, None))
    memory = server.twinx()
    memory.plot(at_s, [size / 2**20 for size in timeline.memory_bytes], color="tab:orange", label="memory, MiB")
    memory.set(ylim=(0, 1.15 * max(*timeline.memory_bytes, 1) / 2**20))
    server.legend(handles=[*server.lines, *memory.lines], loc="lower right")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
