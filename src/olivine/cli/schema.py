"""`olivine schema`."""

from typing import Any

import click

from olivine.cli._common import print_json


@click.command("schema")
def command() -> int:
    """Print the JSON schema of the config, for an editor's completion.

    The params of each pass are in `$defs` under the pass's name; the `type` of a step decides which of them hold.
    """
    from olivine.config import json_schema
    from olivine.data.strategies import spellings
    from olivine.passes import passes

    schema = json_schema()
    definitions = schema.setdefault("$defs", {})
    step = definitions.pop("PassConfig")["properties"]
    names: list[str] = []
    rules = []
    for name, plugin in passes.classes.items():
        params = plugin.Params.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions |= {f"{name}.{key}": value for key, value in params.pop("$defs", {}).items()}
        definitions[name] = _arm(params, step)
        known = [name, *plugin.aliases]
        rules.append({"if": {"properties": {"type": {"enum": known}}}, "then": {"$ref": f"#/$defs/{name}"}})
        names += known
    kind = step["type"] | {"enum": names}
    one = {"type": "object", "properties": {"type": kind}, "required": ["type"], "allOf": rules}
    schema["properties"]["passes"] |= {"additionalProperties": one}
    definitions["PreProcess"]["properties"]["strategy"] |= {"enum": [*spellings(), None]}
    print_json(schema)
    return 0


def _arm(params: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    """The schema of a step of one type: its params, and the keys that every step has."""
    return params | {"properties": step | params.get("properties", {}), "additionalProperties": False}
