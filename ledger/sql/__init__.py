"""SQL in files: each query of a `.sql` file begins with a line `-- name: what_it_is` and comments."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


@cache
def load(package: str, file: str) -> dict[str, str]:
    """The queries of `file` in `package`, by name. Raises ValueError for SQL without a name or a name used twice."""
    head, *parts = _NAME.split(files(package).joinpath(file).read_text(encoding="utf-8"))
    if any(line and not line.startswith("--") for line in head.splitlines()):
        raise ValueError(f"{package}/{file}: SQL before the first '-- name:'")
    names = parts[::2]
    if len(set(names)) < len(names):
        raise ValueError(f"{package}/{file}: a name is used twice")
    return {name: sql.strip().rstrip(";") for name, sql in zip(names, parts[1::2], strict=True)}
