"""Engine keys under `engine`: today they stand at the top of the config; both forms are read."""

from olivine.config.dialects._edit import Findings, Note, lift
from olivine.config.nodes import Object


def translate(config: Object) -> Findings:
    """Lift the keys of `engine` to the top."""
    if isinstance(config.get("engine"), Object):
        yield Note(config.where("engine"), "engine", "", "The keys of 'engine' stand at the top of the config today.")
        yield from lift(config, "engine")
