"""What every plugin promises, of whatever kind."""

from collections.abc import Callable

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from olivine.errors import RequestError


def check_help(plugin: type) -> None:
    """Fail unless the first line of the docstring can stand in a list of plugins."""
    line = (plugin.__doc__ or "").strip().partition("\n")[0]
    assert line, f"{plugin.__name__} has no docstring; its first line is the plugin's help"
    assert len(line) <= 120, f"the first line of the docstring of {plugin.__name__} is longer than 120 characters"
    aliases = getattr(plugin, "aliases", ())
    assert isinstance(aliases, tuple), f"{plugin.__name__}.aliases is {aliases!r}, and not a tuple"
    assert len({alias.lower() for alias in aliases}) == len(aliases), f"an alias of {plugin.__name__} stands twice"


def give_name(plugin: type) -> None:
    """The name of its file to a plugin that no registry has loaded, and named, yet."""
    if not hasattr(plugin, "name"):
        plugin.name = plugin.__module__.rpartition(".")[2]  # type: ignore[attr-defined]


def check_params(params: type[BaseModel]) -> None:
    """Fail unless the params can be written in a config: described, closed, and the same after a turn through JSON."""
    for name, field in params.model_fields.items():
        assert _is_described(field), f"the param '{name}' of {params.__qualname__} has no description"
    assert params.model_config.get("extra") == "forbid", f"{params.__qualname__} takes keys that it does not know"
    assert params.model_config.get("frozen"), f"{params.__qualname__} can be changed after it was read"
    needed = [name for name, field in params.model_fields.items() if field.is_required()]
    if not needed:
        given = params()
        assert params.model_validate_json(given.model_dump_json()) == given


def refusal(act: Callable[[], object]) -> str:
    """The sentence with which a wrong request is refused; fail when it is not."""
    try:
        act()
    except RequestError as error:
        return str(error)
    raise AssertionError("a wrong request was taken")


def _is_described(field: FieldInfo) -> bool:
    return bool((field.description or "").strip())
