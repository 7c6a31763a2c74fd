"""docs/reference.md: the settings and the two documents for people. `python -m realtime reference` prints it."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

Schema = Mapping[str, Any]

HEAD = """# Reference

Made from the server's own tables by `python -m realtime reference`; a test keeps it so. For machines the same is at
`/openapi.json` and `/asyncapi.json`.
"""


def reference(settings: type[BaseModel], openapi: Schema, asyncapi: Schema) -> str:
    """The settings and both documents in Markdown."""
    schemas = {**openapi["components"]["schemas"], **asyncapi["components"]["schemas"]}
    parts = [HEAD, *_settings(settings), *_http(openapi), *_sockets(asyncapi), *_shapes(schemas)]
    return "\n".join(parts)


def _settings(settings: type[BaseModel]) -> Iterator[str]:
    yield "## Settings\n"
    yield "Environment variables, or lines of `.env`. A bad value stops the start with one line that names it.\n"
    said = _attribute_docstrings(settings)
    rows = []
    for name, schema in settings.model_json_schema()["properties"].items():
        default = schema.get("default")
        text = default if isinstance(default, str) else json.dumps(default)
        rows.append((f"`{name.upper()}`", "" if default in (None, []) else f"`{text}`", said[name]))
    yield _table(("setting", "default", ""), rows)


def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The text below each field, read here and not by pydantic, which would read it at every start."""
    [definition] = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: text
        for field, below in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(text := below.value.value, str)
    }


def _http(openapi: Schema) -> Iterator[str]:
    yield "## HTTP\n"
    yield (
        "Who: `user` has a token, or a session and for unsafe methods its CSRF token; `admin` the role too;\n"
        "`bearer` needs a token, `session` a session.\n\nErrors are RFC 9457 documents: [Problem](#problem).\n"
    )
    rows = []
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            parameters = [f"`{one['name']}`" for one in operation.get("parameters", ()) if one["in"] != "path"]
            asked = " ".join([_content(operation.get("requestBody", {})), *parameters]).strip()
            rows.append(
                (
                    f"`{method.upper()} {path}`",
                    operation["summary"],
                    str(operation["x-who"]),
                    asked,
                    _answers(operation),
                )
            )
    yield _table(("route", "what it does", "who", "body, query and headers", "answers"), rows)


def _answers(operation: Schema) -> str:
    good = [
        f"{status} {_content(answer)}".strip() for status, answer in operation["responses"].items() if status[0] in "23"
    ]
    bad = [status for status in operation["responses"] if status[0] in "45"]
    return ", ".join(good) + (f"; {' '.join(bad)}" if bad else "")


def _content(part: Schema) -> str:
    for media in part.get("content", {}).values():
        return _type(media.get("schema", {}))
    return ""


def _sockets(asyncapi: Schema) -> Iterator[str]:
    messages = asyncapi["components"]["messages"]
    received: list[tuple[str, ...]] = []
    sent: list[tuple[str, ...]] = []
    for operation in asyncapi["operations"].values():
        name = _last(operation["messages"][0]["$ref"])
        payload = _type(messages[name]["payload"])
        if operation["action"] == "receive":
            answer = messages[_last(operation["reply"]["messages"][0]["$ref"])]
            rows, shape = received, _type(answer["payload"])
        else:
            rows, shape = sent, operation.get("description", "")
        rows.append((f"`{name}`", operation["summary"], payload, shape))
    yield "## Socket events from the client\n"
    yield _table(("event", "what it does", "payload", "acknowledgement"), received)
    yield "## Socket events from the server\n"
    yield _table(("event", "what it says", "payload", "to"), sent)


def _shapes(schemas: Schema) -> Iterator[str]:
    yield "## Shapes\n"
    for name, schema in sorted(schemas.items()):
        yield f"### {name}\n"
        if description := schema.get("description"):
            yield f"{_line(description)}\n"
        if "properties" not in schema:
            yield f"{_type(schema)}\n"
            continue
        required = schema.get("required", ())
        rows = [
            (f"`{field}`" + ("" if field in required else " (optional)"), _type(of), _line(of.get("description", "")))
            for field, of in schema["properties"].items()
        ]
        yield _table(("field", "type", ""), rows)


_BOUNDS = {
    "minimum": "≥ {}", "maximum": "≤ {}", "minLength": "at least {} characters", "maxLength": "at most {} characters",
    "pattern": "`{}`",
}  # fmt: skip


def _type(schema: Schema) -> str:
    """What a value is, in a few words."""
    if "$ref" in schema:
        name = _last(schema["$ref"])
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " ".join(f"`{value}`" for value in schema["enum"])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[several]))
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    bounds = [text.format(schema[bound]) for bound, text in _BOUNDS.items() if bound in schema]
    return ", ".join([schema.get("format", kind), *bounds])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _last(reference: str) -> str:
    return reference.rpartition("/")[2].replace("~1", "/")


def _line(text: str) -> str:
    return " ".join(text.split())
