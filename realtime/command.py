"""The installed command `callmeter`: `python -m realtime`, its first statement included, by another name."""

import runpy


def main() -> None:
    runpy.run_module("realtime", run_name="__main__", alter_sys=True)
