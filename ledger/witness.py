"""What the audit log said before, kept where who alters the database cannot reach it.

The chain shows any change to a row, unless every row after it and the stream's head are written anew to match: whoever
owns the database can do that. A witness is a file elsewhere with the last hash of each stream; a chain written anew
does not lead through it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class BadWitness(ValueError):
    """The file is not a witness, or cannot be read or written; the message is one line for the operator."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last row of a stream, when it was looked at."""

    stream: int
    seq: int
    hash: bytes


def read(path: Path) -> tuple[Head, ...]:
    """The heads a run before this one wrote; none before the first. Raises BadWitness."""
    try:
        heads = json.loads(path.read_text(encoding="utf-8"))["heads"]
        return tuple(Head(int(head["stream"]), int(head["seq"]), bytes.fromhex(head["hash"])) for head in heads)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise BadWitness(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadWitness(f"{path} is not a witness of this ledger's") from error


def write(path: Path, heads: Sequence[Head]) -> None:
    """Replaces the file whole: a run killed here leaves the old one. Raises BadWitness."""
    said = [{"stream": head.stream, "seq": head.seq, "hash": head.hash.hex()} for head in heads]
    draft = path.with_name(path.name + ".new")
    try:
        draft.write_text(json.dumps({"heads": said}, indent=1) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise BadWitness(f"cannot write {path}: {error.strerror}") from error
