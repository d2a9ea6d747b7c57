"""Passes as `{type, config: {...}}` or flat, one or a list of alternatives; switches of the old engine on a pass."""

from olivine.config.dialects._edit import Findings, Note, drop, lift, named
from olivine.config.nodes import Array, Object, typed
from olivine.errors import Problem

_DEFAULTS = {"DEFAULT_VALUE", "DEFAULT"}


def translate(config: Object) -> Findings:
    """Make every pass flat; a list of one pass is that pass."""
    passes = config.mapping("passes")
    if passes is None:
        return
    for name, value in passes.items():
        if isinstance(value, Array) and len(value) == 1 and isinstance(value[0], Object):
            passes[name] = value[0]
            yield Note(passes.where(name), name, name, f"The pass '{name}' is written without the list round it.")
    nested = list(
        dict.fromkeys(name for name, step in named(config, "passes") if isinstance(step.get("config"), Object))
    )
    if nested:
        names = ", ".join(f"'{name}'" for name in nested)
        message = f"The keys of 'config' stand beside 'type' today, in the passes {names}."
        yield Note(passes.where(nested[0]), "passes.*.config", "passes.*", message)
    last = list(passes)[-1] if passes else ""
    is_searched = bool(config.get("search_strategy"))
    for name, step in named(config, "passes"):
        yield from lift(step, "config")
        yield from lift(step, "params")
        yield from _switches(step, is_searched=is_searched, is_last=name == last)
        yield from _default_words(step, is_searched=is_searched)
        yield from _search_parameters(step)


def _switches(step: Object, *, is_searched: bool, is_last: bool) -> Findings:
    if not is_searched or step.get("disable_search") is not True:
        message = "'disable_search' is dropped: a pass is searched only where 'search_strategy' asks for it."
        yield from drop(step, "disable_search", message)
    if step.get("clean_run_cache") is True:
        message = "'clean_run_cache' is dropped: a step runs again when anything that it depends on has changed."
        yield from drop(step, "clean_run_cache", message)
    if is_last and isinstance(step.get("output_name"), str):
        message = "'output_name' of the last pass is dropped: its result is the one in output_dir."
        yield from drop(step, "output_name", message)
    for key in ("clean_run_cache", "output_name"):
        if key in step and step[key] in (None, False):
            yield from drop(step, key, f"'{key}' is dropped: it asked for nothing.")


def _default_words(step: Object, *, is_searched: bool) -> Findings:
    """A param whose value is the old word for "take the default"."""
    for key in list(step):
        if isinstance(step[key], str) and step[key] in _DEFAULTS:
            yield from drop(step, key, f"'{key}: {step[key]}' is dropped: the default is taken without it.")
        elif isinstance(step[key], str) and step[key] == "SEARCHABLE_VALUES":
            yield from _all_values(step, key, is_searched=is_searched)


def _all_values(step: Object, key: str, *, is_searched: bool) -> Findings:
    """A param whose value is the old word for "try what there is"."""
    if not is_searched:
        message = f"'{key}: {step[key]}' is dropped: without 'search_strategy', the default is taken."
        yield from drop(step, key, message, warning=True)
        return
    _, place = step.take(key)
    if not isinstance(step.get("searched"), Array):
        step.put("searched", Array(place), place)
    step["searched"].add(key, place)
    yield Note(str(place), key, "searched", f"'{key}' stands in 'searched' today: each value that it has is tried.")


def _search_parameters(step: Object) -> Findings:
    """The values of a param as Olive's own record of them: today a list."""
    for key, value in list(step.items()):
        if not isinstance(value, Object) or value.get("olive_parameter_type") != "SearchParameter":
            continue
        kind, place, support = str(value.get("type", "Categorical")), step.places[key], value.get("support")
        if kind == "Boolean":
            support = typed([True, False], place)
        if kind not in ("Boolean", "Categorical") or not isinstance(support, Array):
            yield Problem(
                "unsupported", str(place), f"values of the kind '{kind}' are not searched.", "List the values."
            )
            continue
        step.put(key, support, place)
        yield Note(str(place), key, key, f"The values of '{key}' are a list today.")
