"""Benchmarks: one module each, named as its command. A module says in its docstring what it measures, and has

    arguments(parser)              its own options; `--seconds` and `--json` are everyone's
    run(options, console) -> dict  measures, prints a readable table on `console`, and answers all figures

A benchmark starts what it needs, is bounded in time, and stops what it started. What several share is in `harness/`.
"""
