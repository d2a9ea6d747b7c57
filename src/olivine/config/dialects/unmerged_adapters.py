"""An adapter that reaches ModelBuilder: Olive builds a graph of base and adapter, here they are merged first."""

from collections.abc import Sequence

from olivine.config.dialects._edit import Findings, Note, text_of
from olivine.config.nodes import Array, Object, typed

_TRAINING = ("lora", "qlora", "dora", "loftq", "loha", "lokr")
_BUILDERS = ("modelbuilder", "build")
_MERGES = ("mergeadapterweights", "merge")
_APART = ("extractadapters", "extract_adapters")  # which takes adapters out of a graph again


def translate(config: Object) -> Findings:
    """Put a merge before each ModelBuilder that an adapter reaches, unless one takes the adapter out after it."""
    passes = config.mapping("passes")
    if passes is None:
        return
    kinds = {name: text_of(step, "type") for name, step in passes.items() if isinstance(step, Object)}
    model = config.mapping("input_model")
    has_adapter = model is not None and bool(model.get("adapter_path"))
    given = config.get("pass_flows")
    flows = [flow for flow in given if isinstance(flow, Array)] if isinstance(given, Array) else []
    orders: list[Sequence[str]] = [*flows] or [list(passes)]
    builders = {builder for order in orders if (builder := _reached(order, kinds, is_adapter=has_adapter)) is not None}
    for builder in [name for name in passes if name in builders]:
        yield from _merged(passes, flows, builder)


def _reached(order: Sequence[str], kinds: dict[str, str], *, is_adapter: bool) -> str | None:
    """The builder that an adapter reaches; None where there is none, or the adapter is wanted apart."""
    known = [name for name in order if isinstance(name, str)]
    if any(kinds.get(name) in _APART for name in known):
        return None
    for name in known:
        kind = kinds.get(name, "")
        if kind in _BUILDERS:
            return name if is_adapter else None
        if kind in _TRAINING:
            is_adapter = True
        elif kind in _MERGES:
            is_adapter = False
    return None


def _merged(passes: Object, flows: Sequence[Array], builder: str) -> Findings:
    name, place = "merge", passes.places[builder]
    while name in passes:
        name = f"{name}-adapter"
    order = list(passes)
    passes.put(name, typed({"type": "MergeAdapterWeights"}, place), place)
    order.insert(order.index(builder), name)
    passes.reorder(order)
    for flow in flows:
        if builder in flow:
            index = flow.index(builder)
            flow.insert(index, name)
            flow.places.insert(index, place)
    message = f"'{name}' (MergeAdapterWeights) is put before '{builder}': the adapter is merged, no part of the graph."
    yield Note(str(place), "", name, message, warning=True)
