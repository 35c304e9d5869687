"""A field of a suite whose class is found by the `kind` that stands in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mdlbench.errors import MdlbenchError
from mdlbench.suite.kinds import built_in_kinds, config_class
from mdlbench.suite.source import SourceConfig


class OfKind:
    """Marks a `SourceConfig` field; its JSON Schema is that of the built-in kinds."""

    def __get_pydantic_core_schema__(
        self, source: type[SourceConfig], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_configured, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        kinds = {kind: config_class(kind).__pydantic_core_schema__ for kind in built_in_kinds()}
        return handler(core_schema.tagged_union_schema(kinds, discriminator="kind"))


def _configured(content: Any) -> Any:
    """The config of a source's kind. What its own class refuses is refused with the key's place."""
    if not isinstance(content, Mapping):
        return content
    kind = content.get("kind")
    if not isinstance(kind, str):
        known = ", ".join(map(repr, built_in_kinds()))
        raise _refusal(f"say its kind: one of {known}, or one that a package brings")
    try:
        config = config_class(kind)
    except MdlbenchError as error:
        raise _refusal(str(error)) from error
    return config.model_validate(content)


def _refusal(reason: str) -> PydanticCustomError:
    return PydanticCustomError("source_kind", "{reason}", {"reason": reason})
