"""`scripts/bench NAME [--json]`: runs one benchmark; the table goes to stdout, or to stderr with `--json`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts import benchmarks

# Plots and anything else a benchmark leaves behind.
RESULTS = Path("bench-results")


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark named on the command line; answers the exit status."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else 140)
    options.results.mkdir(parents=True, exist_ok=True)
    figures = {"benchmark": options.benchmark, "machine": machine(), **options.run(options, console)}
    if options.json:
        print(json.dumps(figures))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures, side by side and repeatably.")
    commands = parser.add_subparsers(required=True, dest="benchmark", metavar="benchmark")
    for found in pkgutil.iter_modules(benchmarks.__path__):
        if found.ispkg or found.name.startswith("_"):
            continue
        module = importlib.import_module(f"{benchmarks.__name__}.{found.name}")
        summary, _, rest = (module.__doc__ or "").partition("\n")
        command = commands.add_parser(
            found.name,
            help=summary,
            description=f"{summary}\n{rest}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--json", action="store_true", help="one JSON object on stdout, the table on stderr")
        command.add_argument("--results", type=Path, default=RESULTS, help="where plots go (default: %(default)s)")
        module.arguments(command)
        command.set_defaults(run=module.run)
    return parser


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was before."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    sys.exit(main())
