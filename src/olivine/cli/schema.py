"""`olivine schema`."""

import click

from olivine.cli._common import print_json


@click.command("schema")
def command() -> int:
    """Print the JSON schema of the config, for an editor's completion.

    The params of each pass are in `$defs` under the pass's name, and `passes` refers to them by the pass's type.
    """
    from olivine.config import json_schema
    from olivine.passes import passes

    schema = json_schema()
    definitions = schema.setdefault("$defs", {})
    arms = []
    for name, plugin in passes.classes.items():
        params = plugin.Params.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions |= {f"{name}.{key}": value for key, value in params.pop("$defs", {}).items()}
        definitions[name] = params
        properties = {"type": {"enum": [name, *plugin.aliases]}, "host": {"type": ["string", "null"]}}
        arms.append(
            {
                "type": "object",
                "properties": properties | params.get("properties", {}),
                "required": ["type", *params.get("required", [])],
                "additionalProperties": False,
            }
        )
    schema["properties"]["passes"] = {"type": "object", "additionalProperties": {"oneOf": arms}}
    print_json(schema)
    return 0
