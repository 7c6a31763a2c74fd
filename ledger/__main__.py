"""`python -m ledger migrate [up|down|status] | verify | trial-balance | export | reconcile stripe | detach YYYY-MM`:
1 comes with a line why."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ledger import database_url, months, report, witness
from ledger.embedded_postgres import EmbeddedPostgresError
from ledger.end_signals import Ended, end_on_signals
from ledger.export import FORMATS, export
from ledger.verify import CHECKS, verify


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; answers the exit status."""
    options = _parser().parse_args(arguments)
    try:
        with database_url.opened() as url:
            return int(options.run(url, options))
    except Ended as ended:
        return ended.exit_code
    except (database_url.BadDatabaseUrl, EmbeddedPostgresError, witness.BadWitness, months.MonthStays) as error:
        print(f"ledger: {error}", file=sys.stderr)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction):
        print("ledger: the database is not migrated: python -m ledger migrate", file=sys.stderr)
    except psycopg.Error as error:
        print(f"ledger: PostgreSQL: {str(error).strip().splitlines()[0]}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ledger", description="The ledger's schema, proof and reports.")
    commands = parser.add_subparsers(required=True, metavar="command")
    migrate = commands.add_parser("migrate", help="bring the schema up to date, take it down, or say where it stands")
    migrate.add_argument("direction", nargs="?", choices=["up", "down", "status"], default="up")
    migrate.set_defaults(run=_migrate)
    proof = commands.add_parser("verify", help="prove every invariant, or exit 1 naming the broken row")
    proof.add_argument(
        "--witness",
        type=Path,
        metavar="FILE",
        help="what the audit log must lead through, renewed once all is proved; keep it off the database's machine",
    )
    proof.set_defaults(run=_verify)
    reconciling = commands.add_parser("reconcile", help="compare with the payment provider; 1 and what differs")
    reconciling.add_argument("provider", choices=["stripe"])
    reconciling.set_defaults(run=_reconcile)
    trial = commands.add_parser("trial-balance", help="debits and credits by kind of account; 1 if they differ")
    trial.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    trial.set_defaults(run=_trial_balance)
    exporting = commands.add_parser("export", help="write every journal to standard output")
    exporting.add_argument("--format", choices=FORMATS, default="csv", help="csv is the default")
    exporting.set_defaults(run=_export)
    detaching = commands.add_parser(
        "detach", help="take an old month's journals and entries out, as tables of their own"
    )
    detaching.add_argument("month", type=_month, metavar="YYYY-MM", help="the oldest month there is, in UTC")
    detaching.set_defaults(run=_detach)
    return parser


def _month(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no month: YYYY-MM") from None


def _migrate(url: str, options: argparse.Namespace) -> int:
    # Alembic takes longer to import than the other commands take to start.
    from ledger import migrations  # noqa: PLC0415

    match options.direction:
        case "up":
            status = migrations.up(url)
        case "down":
            status = migrations.down(url)
        case _:
            status = migrations.status(url)
    print(f"at {status.current or 'base'}, newest {status.head}, pending: {', '.join(status.pending) or 'none'}")
    return 0


def _verify(url: str, options: argparse.Namespace) -> int:
    witnessed = witness.read(options.witness) if options.witness else ()
    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.completed}/{task.total} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(CHECKS))

        def show(check: str) -> None:
            progress.update(bar, completed=CHECKS.index(check), description=check.replace("_", " "))

        verdict = verify(url, show, witnessed)
    for finding in verdict.findings:
        print(finding)
    read = (
        f"{verdict.accounts} accounts, {verdict.journals} journals, {verdict.entries} entries,"
        f" {verdict.audit_rows} audit rows"
    )
    if verdict.findings:
        print(f"broken: {len(verdict.findings)} findings in {read}")
        return 1
    print(f"ok: {read}")
    if options.witness:
        witness.write(options.witness, verdict.heads)
    return 0


def _reconcile(url: str, _: argparse.Namespace) -> int:
    from ledger import reconcile  # noqa: PLC0415  (it loads the provider's large library)

    try:
        found = reconcile.reconcile(url, reconcile.account())
    except reconcile.NoStripe as error:
        print(f"ledger: {error}", file=sys.stderr)
        return 1
    for difference in found.differences:
        print(difference)
    if found.without_disputes:
        print("ledger: this provider cannot list disputes; they are left out", file=sys.stderr)
    since = f" since {found.since.astimezone(UTC):%Y-%m-%d}" if found.since else ""
    said = f"{found.payments} payments{since}, {found.in_flight} in flight"
    nets = f"Stripe holds {found.at_stripe_cents} cents, the ledger {found.in_ledger_cents}"
    print(f"{len(found.differences)} differences in {said}; {nets}" if found.differences else f"ok: {said}; {nets}")
    return 1 if found.differences else 0


def _trial_balance(url: str, options: argparse.Namespace) -> int:
    balance = report.trial_balance(url)
    if options.json:
        print(json.dumps(asdict(balance)))
    else:
        _print_trial_balance(balance)
    if not balance.is_even:
        print("ledger: debits and credits differ", file=sys.stderr)
    return 0 if balance.is_even else 1


def _print_trial_balance(balance: report.TrialBalance) -> None:
    table = Table("kind", "type", "unit")
    for column in ("accounts", "debit", "credit"):
        table.add_column(column, justify="right", no_wrap=True)
    for total in balance.totals:
        for line in (line for line in balance.lines if line.unit == total.unit):
            sides = (f"{side:,}" if side else "" for side in (line.debit, line.credit))
            table.add_row(line.kind, line.type, line.unit, f"{line.accounts:,}", *sides)
        table.add_section()
        table.add_row("total", "", total.unit, "", f"{total.debit:,}", f"{total.credit:,}", style="bold")
        table.add_section()
    # A pipe has no width: nothing is cut there.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _export(url: str, options: argparse.Namespace) -> int:
    try:
        for chunk in export(url, options.format):
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Whoever reads has had enough. Python would complain again when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _detach(url: str, options: argparse.Namespace) -> int:
    tables = months.detach(url, options.month)
    print(f"detached: {options.month:%Y-%m} is in {' and '.join(tables)} from now on")
    return 0


if __name__ == "__main__":
    end_on_signals()
    sys.exit(main())
