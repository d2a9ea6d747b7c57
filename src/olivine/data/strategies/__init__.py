"""How rows become samples; one strategy a file."""

from typing import TYPE_CHECKING

from olivine import lazy
from olivine.config.schema import PreProcess
from olivine.data.strategies._base import Strategy
from olivine.errors import DataError
from olivine.registry import Registry

if TYPE_CHECKING:
    from olivine.data.strategies._layout import Block, Layout, RowLayout, Source, StreamLayout

strategies: Registry[Strategy] = Registry(
    "olivine.data.strategies",
    Strategy,  # type: ignore[type-abstract]
    group="olivine.data.strategies",
)

__all__ = [
    "Block",
    "Layout",
    "RowLayout",
    "Source",
    "Strategy",
    "StreamLayout",
    "longest",
    "spellings",
    "strategies",
    "strategy_of",
]

__getattr__ = lazy.names(__name__, {"_layout": "Block Layout RowLayout Source StreamLayout"})


def spellings() -> list[str]:
    """Every strategy as configs write it."""
    return sorted(spelling for name, kind in strategies.classes.items() for spelling in kind.aliases or (name,))


def strategy_of(settings: PreProcess) -> type[Strategy]:
    """The strategy that the settings name, `join` where they name none. DataError for one that is not there."""
    name = settings.strategy or "join"
    found = strategies.find(name)
    if found is None:
        why = strategies.why_missing(name) or f"it must be {', '.join(spellings())}"
        raise DataError(f"'strategy' is '{name}', but {why}")
    return found


def longest(settings: PreProcess) -> int:
    """Tokens that a sample holds at most."""
    return strategy_of(settings).longest(settings)
