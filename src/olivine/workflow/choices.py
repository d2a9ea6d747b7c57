"""What a config leaves open: passes that stand under one name, and lists of values where a pass takes one value.

    "quantize": [{"type": "gptq", "group_size": [32, 128]}, {"type": "rtn"}]

gives the dimensions `quantize` (gptq, rtn) and, with gptq alone, `quantize.gptq.group_size` (32, 128). A point of that
space makes of the config one that a plain run reads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, cast, get_args, get_origin

from pydantic import ValidationError

from olivine.config import Document, Loaded, changed
from olivine.config.nodes import Array, Object, Place, plain, typed
from olivine.config.schema import PassConfig, SearchStrategy
from olivine.config.shape import is_alternatives
from olivine.passes import Pass, passes
from olivine.search import Categorical, Dimension, Point, Sampler, SamplerParams, Space

FLOWS = "pass_flows"  # the dimension of orders of passes
WITHOUT = "none"  # the label of an alternative that is no pass
_MANY = 1_000_000  # faults of params that a validator cannot even look at
_OWN_KEYS = frozenset(PassConfig.model_fields) - {"params"}


class Site(NamedTuple):
    """Where the config leaves something open.

    name: of the pass. label: which of its alternatives, None where it has none. path: of a param; empty for the choice
    of an alternative. values: which there are, and places: where each stands. is_listed: the config or the pass names
    the values, of which each is meant to run; else they are all that the param's type has.
    """

    name: str
    label: str | None
    path: tuple[str, ...]
    values: Sequence[Any]
    places: Sequence[Place]
    is_listed: bool = True

    def place_of(self, value: Any) -> Place:
        """Where a value stands."""
        return next(place for one, place in zip(self.values, self.places, strict=True) if one is value or one == value)


@dataclass(frozen=True)
class Choices:
    """The space of a config that was read.

    sites: where each dimension stands in it. fixed: what has been chosen of it before. until: the pass from which on
    none is run; None: all are.
    """

    loaded: Loaded
    space: Space
    sites: Mapping[str, Site]
    fixed: Point = field(default_factory=dict)
    until: str | None = None

    @classmethod
    def of(cls, loaded: Loaded) -> "Choices":
        """Everything that the passes of a config leave open."""
        strategy = loaded.workflow.search if loaded.workflow is not None else None
        found = list(_choices(loaded.document, has_own=strategy is None or strategy.include_pass_params))
        dimensions = {name: dimension for name, dimension, _ in found}
        return cls(loaded, Space(dimensions), {name: site for name, _, site in found})

    @property
    def passes(self) -> list[str]:
        """The passes that leave something open, in the order of the config."""
        return list(dict.fromkeys(site.name for site in self.sites.values()))

    def of_pass(self, name: str, fixed: Point) -> "Choices":
        """What one pass leaves open, once the passes before it are fixed; the next one that does is not run."""
        dimensions = {key: one for key, one in self.space.dimensions.items() if self.sites[key].name == name}
        after = self.passes[self.passes.index(name) + 1 :]
        return replace(self, space=Space(dimensions), fixed=fixed, until=after[0] if after else None)

    def settled(self, point: Point) -> Loaded:
        """The config as a plain one: what the point chooses, and no search."""
        document, full = self.loaded.document.copy(), {**self.fixed, **point}
        document.root.take("search_strategy")
        configs: Object = document.root["passes"]
        if FLOWS in document.root:
            _order(configs, document.root.take(FLOWS)[0], full[FLOWS])
        for config in configs.values():
            for one in config if isinstance(config, Array) else [config]:
                if isinstance(one, Object):
                    one.pop("searched", None)
        names = list(configs)
        for name in names[names.index(self.until) :] if self.until is not None else ():
            configs.take(name)
        for name in list(configs):
            if is_alternatives(configs[name]):
                _choose(configs, name, full[name])
        for name, value in full.items():
            site = self.sites[name]
            if site.path and site.name in configs:
                _put(configs[site.name], site.path, value, site.place_of(value))
        return changed(self.loaded, document)


@dataclass(frozen=True)
class Search:
    """What a plan knows of a search before it runs.

    settings: of the sampler. n_trials: how many are run at most; None where only time ends it. n_looked_at: points that
    were planned, n_valid of them can run; those that cannot are in `refused`, by the first reason, counted. n_steps: of
    all those trials, of which n_own are distinct, and are made once. disk_bytes: what these write. n_parallel: how many
    trials run at once. rungs: names of the points that can run, where the config lists points.
    seconds: that all trials take by what such steps took before, without those of `unknown`; None: nothing is known.
    """

    choices: Choices
    strategy: SearchStrategy
    sampler: type[Sampler]
    settings: SamplerParams
    n_trials: int | None
    n_looked_at: int
    n_valid: int
    refused: Mapping[str, int]
    n_steps: int
    n_own: int
    disk_bytes: int
    n_parallel: int = 1
    rungs: tuple[str, ...] = ()
    seconds: float | None = None
    unknown: tuple[str, ...] = ()


def _choices(document: Document, *, has_own: bool) -> Iterator[tuple[str, Dimension, Site]]:
    configs: Mapping[str, Any] = document.root.mapping("passes") or {}
    flows = document.root.get(FLOWS)
    flows = flows if isinstance(flows, Array) else Array(document.root.place)
    orders = list(dict.fromkeys(map(_order_name, flows)))
    if orders:
        yield FLOWS, Categorical(orders), Site(FLOWS, None, (), orders, flows.places[: len(orders)])
    for name, value in configs.items():
        when = {FLOWS: tuple(dict.fromkeys(_order_name(flow) for flow in flows if name in flow))} if orders else {}
        if when.get(FLOWS) == ():  # no flow has the pass
            continue
        if isinstance(value, Array) and is_alternatives(value):
            names = labels(value)
            yield name, Categorical(names, when), Site(name, None, (), names, value.places)
            for label, item in zip(names, value, strict=True):
                if item is not None:
                    yield from _values(name, label, item, has_own=has_own, when=when | {name: (label,)})
        elif isinstance(value, Object):
            yield from _values(name, None, value, has_own=has_own, when=when)


def _order_name(flow: Sequence[str]) -> str:
    return " > ".join(map(str, flow))


def _order(configs: Object, flows: Array, order: str) -> None:
    """Leave the passes of one flow, in its order."""
    flow = next(one for one in flows if _order_name(one) == order)
    for name in [name for name in configs if name not in flow]:
        configs.take(name)
    configs.reorder(dict.fromkeys(flow))


def labels(alternatives: Sequence[Any]) -> list[str]:
    """What each alternative is called: its label or type, with a number from the second of a name on."""
    given: list[str] = []
    for item in alternatives:
        label = WITHOUT if item is None else str(item.get("label") or item.get("type", "unknown"))
        n_before = sum(other.split("#")[0] == label for other in given)
        given.append(f"{label}#{n_before + 1}" if n_before else label)
    return given


def _values(
    name: str, label: str | None, config: Object, *, has_own: bool, when: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, Dimension, Site]]:
    """A dimension for each list of a pass that stands where one value belongs, and each param with values of its own.

    has_own: whether these are searched; where the pass says otherwise, they are not. when: the pass is one of a trial.
    """
    plugin = passes.find(str(config.get("type")))
    if plugin is None:
        return
    params = {key: value for key, value in plain(config).items() if key not in _OWN_KEYS}
    for path, listed in _lists(config):
        if path[0] in _OWN_KEYS or not _stands_for_one(plugin, params, path, plain(listed)):
            continue
        _set(params, path, listed[0])
        distinct: dict[str, tuple[Any, Place]] = {}
        for value, place in zip(plain(listed), listed.places, strict=True):
            distinct.setdefault(repr(value), (value, place))
        values, places = [value for value, _ in distinct.values()], [place for _, place in distinct.values()]
        yield _called(name, label, path), Categorical(values, when), Site(name, label, path, values, places)
    own = searchable(plugin)
    for key in _searched(config, plugin):
        if key not in own and (values := values_of(plugin, key)):
            site = Site(name, label, (key,), values, [config.place] * len(values), is_listed=False)
            yield _called(name, label, (key,)), Categorical(values, when), site
    for key, values in own.items():
        is_set = any(plugin.spellings.get(spelling, spelling) == key for spelling in params)
        if has_own and not is_set and config.get("disable_search") is not True:
            site = Site(name, label, (key,), values, [config.place] * len(values))
            yield _called(name, label, (key,)), Categorical(values, when), site


def _searched(config: Object, plugin: type[Pass]) -> list[str]:
    """The params, by their own names, of which a config asks to try what there is."""
    listed = config.get("searched")
    named = [name for name in listed if isinstance(name, str)] if isinstance(listed, Array) else []
    return list(dict.fromkeys(plugin.spellings.get(name, name) for name in named))


def without_values(document: Document) -> Iterator[tuple[str, str]]:
    """Passes by their names with params that they are asked to search, and that have no end of values, or none."""
    for name, value in (document.root.mapping("passes") or {}).items():
        for config in value if isinstance(value, Array) else [value]:
            plugin = passes.find(str(config.get("type"))) if isinstance(config, Object) else None
            if plugin is None:
                continue
            known = searchable(plugin)
            yield from (
                (name, key) for key in _searched(config, plugin) if key not in known and not values_of(plugin, key)
            )


def values_of(plugin: type[Pass], key: str) -> list[Any]:
    """Every value that a param of a pass may have, where its type lists them; none for a number or a text."""
    field = plugin.Params.model_fields.get(key)
    return list(dict.fromkeys(_listed(field.annotation))) if field is not None else []


def _listed(annotation: Any) -> Iterator[Any]:
    if annotation is bool:
        yield from (False, True)
    elif get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _listed(one)


def searchable(plugin: type[Pass]) -> dict[str, list[Any]]:
    """Params of a pass that a search varies where they are not set, with the values that it tries."""
    extras = {name: field.json_schema_extra for name, field in plugin.Params.model_fields.items()}
    return {
        name: list(cast("Any", extra["searchable"]))
        for name, extra in extras.items()
        if isinstance(extra, dict) and "searchable" in extra
    }


def _called(name: str, label: str | None, path: tuple[str, ...]) -> str:
    return ".".join((name, *([label] if label is not None else []), *path))


def _lists(config: Object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Array]]:
    """Every list that is not empty, in the mapping and in the mappings in it."""
    for key, value in config.items():
        if isinstance(value, Object):
            yield from _lists(value, (*path, key))
        elif isinstance(value, Array) and value:
            yield (*path, key), value


def _stands_for_one(plugin: type[Pass], params: dict[str, Any], path: tuple[str, ...], listed: list[Any]) -> bool:
    """Whether a pass takes an element of the list where it does not take the list."""
    with_list = _n_faults(plugin, params)
    if not with_list:
        return False
    with_one = []
    for value in listed:
        _set(params, path, value)
        with_one.append(_n_faults(plugin, params))
    _set(params, path, listed)
    return min(with_one) < with_list


def _n_faults(plugin: type[Pass], params: Mapping[str, Any]) -> int:
    """How much a pass finds wrong with its params."""
    try:
        plugin.Params.model_validate(params)
        return plugin.Params.n_wrong_inside(params)
    except (ValueError, TypeError, AttributeError) as error:  # a validator of a pass may trip over a list
        n_wrong = error.error_count() if isinstance(error, ValidationError) else _MANY
        return n_wrong + plugin.Params.n_wrong_inside(params)


def _set(params: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        params = params[key]
    params[path[-1]] = value


def _choose(configs: Object, name: str, label: str) -> None:
    """Put one of the alternatives in the place of all; none: there is no such pass."""
    given, _ = configs[name], configs.places[name]
    number = labels(given).index(label)
    if given[number] is None:
        configs.take(name)
    else:
        configs.put(name, given[number], given.places[number])


def _put(config: Object, path: tuple[str, ...], value: Any, place: Place) -> None:
    for key in path[:-1]:
        config = config[key]
    config.put(path[-1], typed(value, place), place)
