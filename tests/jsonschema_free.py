"""A check of JSON against the part of JSON Schema that the API's document uses; needs no library."""

from __future__ import annotations

from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip
_KNOWN = {
    "$ref", "additionalProperties", "anyOf", "const", "default", "description", "enum", "examples", "items", "maximum",
    "minimum", "properties", "required", "title", "type",
}  # fmt: skip


def conforms(value: Any, schema: dict[str, Any], document: dict[str, Any], place: str = "$") -> None:
    """Fail with the place when a value is not what the schema says."""
    if "$ref" in schema:
        target: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        conforms(value, target, document, place)
        return
    assert set(schema) <= _KNOWN, f"{place}: this check does not know {set(schema) - _KNOWN}"
    if "anyOf" in schema:
        failures = []
        for option in schema["anyOf"]:
            try:
                conforms(value, option, document, place)
                return
            except AssertionError as failure:
                failures.append(str(failure))
        raise AssertionError(f"{place}: none of {failures}")
    if "type" in schema:
        fits = isinstance(value, _TYPES[schema["type"]]) and not (schema["type"] != "boolean" and value in (True, False)
                                                                  and isinstance(value, bool))  # fmt: skip
        assert fits, f"{place}: {value!r} is not {schema['type']}"
    if "enum" in schema:
        assert value in schema["enum"], f"{place}: {value!r} not in {schema['enum']}"
    if "const" in schema:
        assert value == schema["const"], f"{place}: {value!r} is not {schema['const']!r}"
    if "minimum" in schema:
        assert value >= schema["minimum"], f"{place}: {value} below {schema['minimum']}"
    if "maximum" in schema:
        assert value <= schema["maximum"], f"{place}: {value} above {schema['maximum']}"
    if isinstance(value, dict):
        _object(value, schema, document, place)
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            conforms(item, schema["items"], document, f"{place}[{index}]")


def _object(value: dict[str, Any], schema: dict[str, Any], document: dict[str, Any], place: str) -> None:
    properties = schema.get("properties", {})
    missing = [name for name in schema.get("required", []) if name not in value]
    assert not missing, f"{place}: missing {missing}"
    for name, item in value.items():
        if name in properties:
            conforms(item, properties[name], document, f"{place}.{name}")
        else:
            extra = schema.get("additionalProperties", True)
            assert extra is not False, f"{place}: {name} is not declared"
            if isinstance(extra, dict):
                conforms(item, extra, document, f"{place}.{name}")
