"""What may stand in a record file, or in a suite: as JSON Schema, and as tables to read.

    python -m mdlbench.records.schema > record.schema.json

All of it is taken from the models of `mdlbench.records` and `mdlbench.suite`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from mdlbench.records.record import EvalRecord
from mdlbench.records.seal import CHECKSUM
from mdlbench.suite.suite import Suite

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def record_schema() -> Schema:
    """JSON Schema of a record file: an `EvalRecord` and the checksum that seals it."""
    schema = _schema_of(EvalRecord)
    seal = {"type": "string", "description": "SHA-256 of the canonical JSON of all other keys."}
    schema["properties"][CHECKSUM] = seal
    schema["required"] += ["schema_version", CHECKSUM]
    return schema


def suite_schema() -> Schema:
    """JSON Schema of a suite's YAML."""
    return _schema_of(Suite)


def _schema_of(model: type[BaseModel]) -> Schema:
    return {"$schema": DIALECT, **model.model_json_schema(mode="validation")}


def tables(schema: Schema) -> str:
    """A schema in Markdown: for every object a heading, what it is, and a table of its keys."""
    definitions = schema.get("$defs", {})
    parts = [_section(schema)]
    parts += [_section(definitions[name]) for name in _reached(schema, definitions)]
    return "\n\n".join(parts) + "\n"


def _reached(schema: Schema, definitions: dict[str, Schema]) -> list[str]:
    """Names of the definitions in the order in which a reader meets them."""
    names: dict[str, None] = {}
    waiting = [schema]
    while waiting:
        found = [n for n in _referred(waiting.pop(0).get("properties")) if n not in names]
        names |= dict.fromkeys(found)
        waiting += [definitions[name] for name in dict.fromkeys(found)]
    return [name for name in names if "properties" in definitions[name]]


def _referred(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield _name_of(node["$ref"])
        for child in node.values():
            yield from _referred(child)
    elif isinstance(node, list):
        for child in node:
            yield from _referred(child)


def _name_of(reference: str) -> str:
    return reference.removeprefix("#/$defs/")


def _section(schema: Schema) -> str:
    required = schema.get("required", [])
    rows = [
        f"| `{key}` | {_type(value)} | {'yes' if key in required else 'no'} | {_meaning(value)} |"
        for key, value in schema["properties"].items()
    ]
    head = ["| Key | Type | Required | Meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([f"## {schema['title']}", "", schema.get("description", ""), "", *head, *rows])


def _meaning(value: Schema) -> str:
    words = [" ".join(value.get("description", "").split()).replace("|", "\\|")]
    default = value.get("default")
    if default not in (None, [], {}):
        words.append(f"Default: `{json.dumps(default)}`.")
    return " ".join(word for word in words if word)


def _type(value: Schema) -> str:
    """A JSON type in words; a link where it is an object with a table of its own."""
    if "$ref" in value:
        name = _name_of(value["$ref"])
        return "any JSON" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if alternatives := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(_type(one) for one in alternatives if one.get("type") != "null")
    if choices := value.get("enum") or [value[key] for key in ("const",) if key in value]:
        return " or ".join(f"`{json.dumps(choice)}`" for choice in choices)
    return _plain_type(value)


def _plain_type(value: Schema) -> str:
    if value.get("type") == "array":
        items = value.get("prefixItems") or [value["items"]]
        many = "" if "prefixItems" in value else ", …"
        return f"\\[{', '.join(map(_type, items))}{many}\\]"
    if value.get("type") == "object":
        return f"object of {_type(value.get('additionalProperties') or {})}"
    return str(value.get("type", "any JSON"))


if __name__ == "__main__":
    print(json.dumps(record_schema(), indent=1))
