"""`python -m ledger migrate [up|down|status] | verify | trial-balance | reconcile stripe`: 1 comes with a line why."""

from __future__ import annotations

import argparse
import sys

import psycopg
from rich.console import Console
from rich.table import Table

from ledger import database_url, migrations, report
from ledger.embedded_postgres import EmbeddedPostgresError
from ledger.verify import CHECKS, verify


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; answers the exit status."""
    options = _parser().parse_args(arguments)
    try:
        with database_url.opened() as url:
            return int(options.run(url, options))
    except (database_url.BadDatabaseUrl, EmbeddedPostgresError) as error:
        print(f"ledger: {error}", file=sys.stderr)
    except psycopg.errors.UndefinedTable:
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
    proof.set_defaults(run=_verify)
    reconciling = commands.add_parser("reconcile", help="compare with the payment provider; 1 and what differs")
    reconciling.add_argument("provider", choices=["stripe"])
    reconciling.set_defaults(run=_reconcile)
    trial = commands.add_parser("trial-balance", help="debits and credits by kind of account")
    trial.set_defaults(run=_trial_balance)
    return parser


def _migrate(url: str, options: argparse.Namespace) -> int:
    match options.direction:
        case "up":
            status = migrations.up(url)
        case "down":
            status = migrations.down(url)
        case _:
            status = migrations.status(url)
    print(f"at {status.current or 'base'}, newest {status.head}, pending: {', '.join(status.pending) or 'none'}")
    return 0


def _verify(url: str, _: argparse.Namespace) -> int:
    console = Console(stderr=True)
    with console.status("") as progress:
        verdict = verify(
            url, lambda name: progress.update(f"{CHECKS.index(name) + 1}/{len(CHECKS)} {name.replace('_', ' ')}")
        )
    for finding in verdict.findings:
        print(finding)
    read = (
        f"{verdict.accounts} accounts, {verdict.journals} journals, {verdict.entries} entries,"
        f" {verdict.audit_rows} audit rows"
    )
    print(f"broken: {len(verdict.findings)} findings in {read}" if verdict.findings else f"ok: {read}")
    return 1 if verdict.findings else 0


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
    said = f"{found.payments} payments, {found.in_flight} in flight"
    nets = f"Stripe holds {found.at_stripe_cents} cents, the ledger {found.in_ledger_cents}"
    print(f"{len(found.differences)} differences in {said}; {nets}" if found.differences else f"ok: {said}; {nets}")
    return 1 if found.differences else 0


def _trial_balance(url: str, _: argparse.Namespace) -> int:
    lines = report.trial_balance(url)
    table = Table("kind", "type", "unit")
    for column in ("accounts", "debit", "credit"):
        table.add_column(column, justify="right")
    for line in lines:
        table.add_row(line.kind, line.type, line.unit, *(f"{n:,}" for n in (line.accounts, line.debit, line.credit)))
    even = True
    for unit in sorted({line.unit for line in lines}):
        debit = sum(line.debit for line in lines if line.unit == unit)
        credit = sum(line.credit for line in lines if line.unit == unit)
        table.add_section()
        table.add_row("total", "", unit, "", f"{debit:,}", f"{credit:,}")
        even = even and debit == credit
    Console().print(table)
    if not even:
        print("ledger: debits and credits differ", file=sys.stderr)
    return 0 if even else 1


if __name__ == "__main__":
    sys.exit(main())
