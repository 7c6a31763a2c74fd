"""Whether the server stays as it is: `scripts/soak`.

`estate` starts what is soaked, `samples` looks at it every few seconds, `verdict` says what grew, `report` shows it.
What the tabs do meanwhile is `scripts.tabs.soak`.
"""
