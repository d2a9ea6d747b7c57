"""Flags that are the params of passes: declared once, on their typed params."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin

import click

from olivine.cli._flags import value_of

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from olivine.passes import Pass

Command = TypeVar("Command", bound=Callable[..., Any])
_PREFIX = "of_pass_"  # of the arguments by which click hands such flags over


class Said(NamedTuple):
    """A value, and the flag that says it."""

    value: Any
    flag: str


def pass_options(
    plugins: Mapping[str, "type[Pass]"], *, without: frozenset[str] = frozenset()
) -> Callable[[Command], Command]:
    """A flag for each param of the passes that a flag can say; the command gets those that were given, as `params`.

    plugins: by the name by which help calls them, where not all of them have the param. without: params that the
    command sets by itself. What is wrong with a value is told by the plan, as of a config.
    """
    fields: dict[str, tuple[FieldInfo, list[str]]] = {}
    spellings: dict[str, list[str]] = {}
    for name, plugin in plugins.items():
        for spelling, key in plugin.spellings.items():
            if spelling not in plugin.Params.model_fields and spelling not in spellings.get(key, ()):
                spellings.setdefault(key, []).append(spelling)
        for key, field in plugin.Params.model_fields.items():
            if key not in without and _is_said_by_a_flag(field.annotation):
                fields.setdefault(key, (field, []))[1].append(name)

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def with_params(**given: Any) -> Any:
            of_pass = {key: given.pop(key) for key in list(given) if key.startswith(_PREFIX)}
            params = {
                name: Said(_read(text, field), _flag(name))
                for name, (field, _) in fields.items()
                if (text := of_pass[_PREFIX + name]) is not None
            }
            return function(params=params, **given)

        command: Any = with_params
        for name, (field, owners) in reversed(fields.items()):
            only = f" [{', '.join(owners)}]" if len(owners) < len(plugins) else ""
            command = _option([name, *spellings.get(name, ())], field, only)(command)
        return cast("Command", command)

    return decorate


def _option(names: list[str], field: "FieldInfo", only: str) -> Any:
    """The flag of a param. names: its own, and other spellings of it."""
    flags, key, description = [_flag(name) for name in names], _PREFIX + names[0], (field.description or "") + only
    if field.annotation is bool:
        return click.option(*(f"{flag}/--no-{flag[2:]}" for flag in flags), key, default=None, help=description)
    return click.option(*flags, key, metavar=_metavar(field.annotation), help=description)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _read(given: str | bool, field: "FieldInfo") -> Any:
    """The value of a flag; names with commas between them are a list where the param takes one."""
    if isinstance(given, bool):
        return given
    value = value_of(given)
    arms = [get_origin(arm) or arm for arm in _arms(field.annotation)]
    if list in arms and isinstance(value, str) and (str not in arms or "," in value):
        return [part.strip() for part in value.split(",")]
    return value


def _is_said_by_a_flag(annotation: Any) -> bool:
    """Whether a param is a value or a list of them, not a mapping."""
    arms = [get_origin(arm) or arm for arm in _arms(annotation)]
    return not any(isinstance(arm, type) and issubclass(arm, Mapping) for arm in arms)


def _arms(annotation: Any) -> Iterator[Any]:
    """The types of which a value may be, None left out."""
    if get_origin(annotation) in (Union, type(int | None)):
        for arm in get_args(annotation):
            yield from _arms(arm)
    elif annotation is not type(None):
        yield annotation


def _metavar(annotation: Any) -> str:
    arms = list(_arms(annotation))
    choices = [str(value) for arm in arms if get_origin(arm) is Literal for value in get_args(arm)]
    if choices:
        return f"[{'|'.join(choices)}]"
    names = {int: "INTEGER", float: "NUMBER", list: "A,B", bool: "true|false"}
    return next((names[kind] for arm in arms if (kind := get_origin(arm) or arm) in names), "TEXT")


def others(arguments: list[str]) -> Iterator[tuple[str, Said | None]]:
    """Flags that no option declares, by name; None where no value follows.

    Raises UsageError for an argument that is no flag's.
    """
    left = list(arguments)
    while left:
        word = left.pop(0)
        match = re.fullmatch(r"--([A-Za-z][\w-]*)(?:=(.*))?", word)
        if match is None:
            raise click.UsageError(f"unexpected argument '{word}'")
        name, text = match[1].replace("-", "_"), match[2]
        if text is None and left and not left[0].startswith("--"):
            text = left.pop(0)
        yield name, None if text is None else Said(value_of(text), word.partition("=")[0])
