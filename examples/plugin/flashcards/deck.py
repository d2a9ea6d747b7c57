"""Deck: a workflow in four lines.

{"dialect": "deck", "model": "model", "cards": "rows.cards", "deviations": 3.0}
"""

from collections.abc import Iterator

from olivine.config import Note
from olivine.config.nodes import Object, typed
from olivine.errors import Problem


def translate(config: Object) -> Iterator[Note | Problem]:
    """Make a config of today's form; what stands beside the four keys stays as it is."""
    for key in ("model", "cards"):
        if key not in config:
            yield Problem("invalid-value", config.where(), f"a deck needs '{key}'.")
            return
    model, place = config.take("model")
    config.put("input_model", typed({"type": "HfModel", "model_path": model}, place), place)
    cards, place = config.take("cards")
    rows = {"name": "cards", "load_dataset_config": {"data_name": "cards", "data_files": cards}}
    config.put("data_configs", typed([rows], place), place)
    config.put("quality", typed({"data_config": "cards", "metrics": {"brevity": {}}}, place), place)
    deviations, place = config.take("deviations") if "deviations" in config else (4.0, config.place)
    config.put("passes", typed({"clip": {"type": "clip", "deviations": deviations}}, place), place)
    yield Note(str(place), "deck", "passes", "The deck is clipped, and scored on its cards.")
