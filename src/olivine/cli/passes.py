"""`olivine passes`."""

import inspect
import json
from typing import TYPE_CHECKING, Any

import click

from olivine.cli._common import json_option, print_json, say

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def _names(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Names of passes that begin so, for the completion of a shell."""
    from olivine.passes import passes

    known = [spelling for name, plugin in passes.classes.items() for spelling in (*plugin.aliases, name)]
    return [name for name in known if name.lower().startswith(incomplete.lower())]


@click.command("passes")
@click.argument("name", required=False, shell_complete=_names)
@json_option
def command(name: str | None, as_json: bool) -> int:
    """List the passes, or the params of one.

    Without NAME: every pass with its other names. With NAME: what the pass does, takes and gives, and its params.
    """
    return _show_all(as_json=as_json) if name is None else _show_one(name, as_json=as_json)


def _show_all(*, as_json: bool) -> int:
    from olivine.passes import first_line, passes

    rows: list[dict[str, Any]] = [
        {"name": name, "aliases": list(plugin.aliases), "help": first_line(plugin)}
        for name, plugin in passes.classes.items()
    ]
    if as_json:
        print_json(rows)
        return 0
    for row in rows:
        also = f", also {', '.join(others)}" if (others := row["aliases"][1:]) else ""
        first = f"{row['aliases'][0]} ({row['name']}{also})" if row["aliases"] else row["name"]
        say(first, bold=True)
        say(f"    {row['help']}")
    click.echo()
    say("A config takes either name as the 'type' of a pass; 'olivine passes NAME' shows the params of one.")
    return 0


def _show_one(name: str, *, as_json: bool) -> int:
    from olivine.passes import passes

    plugin = passes.find(name)
    if plugin is None and (why := passes.why_missing(name)) is not None:
        raise click.UsageError(f"the pass {why}; install a version of its package that fits, or uninstall it")
    if plugin is None:
        nearest = passes.nearest(name)
        hint = f"Did you mean '{nearest}'?" if nearest else f"There are: {', '.join(passes.names)}."
        raise click.UsageError(f"no pass '{name}'. {hint}")
    schema = plugin.Params.model_json_schema()
    if as_json:
        print_json(
            {
                "name": plugin.name,
                "aliases": list(plugin.aliases),
                "help": plugin.__doc__,
                "accepts": sorted(plugin.accepts),
                "produces": plugin.produces,
                "example": dict(plugin.example),
                "params": schema,
            }
        )
        return 0
    _show_text(inspect.cleandoc(plugin.__doc__ or ""))
    names = " or ".join(f'"{one}"' for one in (*plugin.aliases, plugin.name))
    say(f'\n"type": {names}\ntakes {" or ".join(sorted(plugin.accepts))}, gives {plugin.produces}')
    if plugin.example:
        say(f"for example {json.dumps({'type': next(iter(plugin.aliases), plugin.name), **plugin.example})}")
    click.echo("\nparams:")
    for key, field in plugin.Params.model_fields.items():
        default = "required" if field.is_required() else f"default {_as_written(field)}"
        text = f": {field.description}" if field.description else ""
        say(f"  {key} ({default}){text}")
    return 0


def _as_written(field: "FieldInfo") -> str:
    """A default as a config writes it."""
    return json.dumps(field.get_default(call_default_factory=True), default=str)


def _show_text(text: str) -> None:
    """Paragraphs, filled anew to the width of the terminal."""
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            click.echo()
        say(" ".join(paragraph.split()), indent=0)
