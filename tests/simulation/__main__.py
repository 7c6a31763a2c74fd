"""Histories from a seed on, for some seconds: `scripts/simulate --seed 7 --seconds 60`. One that breaks is printed."""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.simulation.history import History, silence
from tests.simulation.rules import Broken


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first history (default: any); each next one has the next number")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to go on (default: 60)")
    parser.add_argument("--histories", type=int, help="how many, instead of how long; 1 replays a seed")
    parser.add_argument("--trace", action="store_true", help="print what happened in the last one")
    chosen = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if chosen.seed is None else chosen.seed
    began = time.monotonic()
    done = steps = 0
    history = History(seed)
    while done < chosen.histories if chosen.histories else time.monotonic() - began < chosen.seconds:
        history = History(seed + done)
        try:
            with silence():
                history.run()
        except Broken as broken:
            print("\n".join(history.trace[-80:]))
            print(f"\nbroken: {broken}\nreplay: scripts/simulate --seed {seed + done} --histories 1 --trace")
            return 1
        done, steps = done + 1, steps + history.steps
    if chosen.trace:
        print("\n".join(history.trace))
    took_s = time.monotonic() - began
    rate = done / took_s * 60
    print(f"{done} histories from seed {seed}, {steps} steps in {took_s:.1f} s: {rate:.0f} a minute, none broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
