"""`olivine schema`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from olivine.cli._common import print_json, write_file


@click.command("schema")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write it to a file instead.")
def command(output: Path | None) -> int:
    """Print the JSON schema of the config, for an editor's completion.

    The params of each pass and the settings of each system are in `$defs` under its name, plugins' included; the `type`
    that stands beside them decides which of them hold. A config names the file: "$schema": "olive-schema.json" in JSON,
    and in YAML a first line "# yaml-language-server: $schema=olive-schema.json".
    """
    schema = config_schema()
    if output is None:
        print_json(schema)
    else:
        write_file(output, json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
    return 0


def config_schema() -> dict[str, Any]:
    """The schema of a config, with what every pass and system that is installed takes."""
    from olivine.config import json_schema
    from olivine.data.strategies import spellings
    from olivine.passes import passes
    from olivine.systems import systems

    schema = json_schema()
    definitions = schema.setdefault("$defs", {})
    step, system = definitions.pop("PassConfig")["properties"], definitions.pop("System")["properties"]
    one = _by_type(definitions, passes.classes, step) | {"required": ["type"]}
    schema["properties"]["passes"] |= {"additionalProperties": one}
    schema["properties"]["systems"] |= {"additionalProperties": _by_type(definitions, systems.classes, system)}
    definitions["PreProcess"]["properties"]["strategy"] |= {"enum": [*spellings(), None]}
    return schema


def _by_type(definitions: dict[str, Any], plugins: Mapping[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The schema of a section whose `type` names a plugin. own: the keys that it has whatever its type."""
    names: list[str] = []
    rules = []
    for name, plugin in plugins.items():
        params = plugin.Params.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions |= {f"{name}.{key}": value for key, value in params.pop("$defs", {}).items()}
        definitions[name] = _arm(params, own) | _examples(plugin)
        known = [name, *plugin.aliases]
        asked = {"properties": {"type": {"enum": known}}, "required": ["type"]}
        rules.append({"if": asked, "then": {"$ref": f"#/$defs/{name}"}})
        names += known
    return {"type": "object", "properties": {"type": own["type"] | {"enum": names}}, "allOf": rules}


def _examples(plugin: Any) -> dict[str, Any]:
    """What an editor may offer as a section; nothing of a plugin that people do not write themselves."""
    example: Mapping[str, Any] | None = getattr(plugin, "example", None)
    if example is None or not (example or plugin.aliases):
        return {}
    return {"examples": [{"type": next(iter(plugin.aliases), plugin.name), **example}]}


def _arm(params: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The schema of a section of one type: its params, and the keys that every one has."""
    return params | {"properties": own | params.get("properties", {}), "additionalProperties": False}
