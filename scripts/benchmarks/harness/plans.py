"""The plans that a statement makes inside functions and triggers, on any server.

An embedded server has no auto_explain, and EXPLAIN does not look into functions. But every server can print each plan
when it is made (`debug_print_plan`). Plans are kept, so a connection says each once: ask on a new one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Any, NamedTuple

import asyncpg

# As the server prints the nodes of a plan, those above first, and as EXPLAIN names them.
NODES = {
    "MODIFYTABLE": "Modify Table",
    "APPEND": "Append",
    "MERGEAPPEND": "Merge Append",
    "NESTLOOP": "Nested Loop",
    "HASHJOIN": "Hash Join",
    "MERGEJOIN": "Merge Join",
    "SEQSCAN": "Seq Scan",
    "INDEXSCAN": "Index Scan",
    "INDEXONLYSCAN": "Index Only Scan",
    "BITMAPHEAPSCAN": "Bitmap Heap Scan",
    "FUNCTIONSCAN": "Function Scan",
    "CTESCAN": "CTE Scan",
    "SUBQUERYSCAN": "Subquery Scan",
    "NAMEDTUPLESTORESCAN": "Named Tuplestore Scan",
    "VALUESSCAN": "Values Scan",
    "PROJECTSET": "ProjectSet",
    "RESULT": "Result",
    "MATERIAL": "Materialize",
    "SORT": "Sort",
    "INCREMENTALSORT": "Incremental Sort",
    "AGG": "Aggregate",
    "GROUP": "Group",
    "WINDOWAGG": "WindowAgg",
    "UNIQUE": "Unique",
    "LOCKROWS": "LockRows",
    "LIMIT": "Limit",
}
_NODE = re.compile(rf"\{{({'|'.join(NODES)})\s")
_FUNCTION = re.compile(r"PL/pgSQL function (\w+)\(.*?\) line (\d+)")


class Plan(NamedTuple):
    """One statement's plan: which function runs it, at which of its lines, and its nodes from the top."""

    function: str
    line: int
    nodes: list[str]

    def __str__(self) -> str:
        return f"{self.function}:{self.line}: {' > '.join(self.nodes)}"


async def made_by(conn: asyncpg.Connection, work: Awaitable[object]) -> list[Plan]:
    """The plans that the connection makes in functions while `work` is done on it; plain expressions are left out."""
    plans: list[Plan] = []

    def hear(_conn: Any, message: Any) -> None:
        said = message.as_dict()
        function = _FUNCTION.search(said.get("context", ""))
        nodes = [NODES[name] for name in _NODE.findall(said.get("detail", ""))]
        if function and nodes and nodes != ["Result"]:
            plans.append(Plan(function[1], int(function[2]), nodes))

    conn.add_log_listener(hear)
    try:
        await conn.execute("SET debug_print_plan = on; SET client_min_messages = log")
        await work
    finally:
        await conn.execute("RESET debug_print_plan; RESET client_min_messages")
        conn.remove_log_listener(hear)
    return plans
