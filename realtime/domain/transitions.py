"""The call's state machine: one table. What is not in it is refused and changes nothing.

Each state lists the events it knows, and each event the state it leads to, with the reason an ended call carries.
The diagram in docs/architecture.md is generated from this table (`python -m realtime.domain.transitions`), and the
`calls` table's trigger refuses any other change of status, whoever writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    RINGING = "ringing"
    ACTIVE = "active"
    ENDED = "ended"


class EndReason(StrEnum):
    HANGUP = "hangup"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    MISSED = "missed"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    DISCONNECTED = "disconnected"
    FAILED = "failed"


class Event(StrEnum):
    ACCEPTED = "accepted"
    """The callee answered."""
    DECLINED = "declined"
    """The callee refused."""
    CANCELLED = "cancelled"
    """The caller stopped ringing."""
    HUNG_UP = "hung_up"
    """Either side ended the conversation."""
    RANG_OUT = "rang_out"
    """Nobody answered in time."""
    FUNDS_RAN_OUT = "funds_ran_out"
    """The caller's wallet cannot pay the next period."""
    PARTY_VANISHED = "party_vanished"
    """No tab of one side was connected for the whole reconnect grace."""
    TOKEN_OUTLIVED = "token_outlived"  # noqa: S105
    """The meter was away for longer than the grace the video token carries."""
    BILLING_FAILED = "billing_failed"
    """A debit was refused for a reason that no top-up mends (an account is closed)."""


class Transition(NamedTuple):
    status: Status
    end_reason: EndReason | None = None


TRANSITIONS: Mapping[Status, Mapping[Event, Transition]] = {
    Status.RINGING: {
        Event.ACCEPTED: Transition(Status.ACTIVE),
        Event.DECLINED: Transition(Status.ENDED, EndReason.DECLINED),
        Event.CANCELLED: Transition(Status.ENDED, EndReason.CANCELLED),
        Event.RANG_OUT: Transition(Status.ENDED, EndReason.MISSED),
        Event.PARTY_VANISHED: Transition(Status.ENDED, EndReason.DISCONNECTED),
    },
    Status.ACTIVE: {
        Event.HUNG_UP: Transition(Status.ENDED, EndReason.HANGUP),
        Event.FUNDS_RAN_OUT: Transition(Status.ENDED, EndReason.INSUFFICIENT_FUNDS),
        Event.PARTY_VANISHED: Transition(Status.ENDED, EndReason.DISCONNECTED),
        Event.TOKEN_OUTLIVED: Transition(Status.ENDED, EndReason.FAILED),
        Event.BILLING_FAILED: Transition(Status.ENDED, EndReason.FAILED),
    },
    Status.ENDED: {},
}


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> ringing: call started"]
    for status, events in TRANSITIONS.items():
        for event, (target, reason) in events.items():
            label = f"{event} / {reason}" if reason else str(event)
            lines.append(f"    {status} --> {target}: {label}")
    lines.append("    ended --> [*]")
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())  # noqa: T201
