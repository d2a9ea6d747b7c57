"""What a model takes on disk."""

from olivine.absent import whole_size
from olivine.models._model import Model
from olivine.models.deciding import deciding_files


def bytes_on_disk(model: Model) -> int | None:
    """Bytes of the model's files; None where its weights are computed from another's."""
    if model.format == "composite":
        sizes = [bytes_on_disk(part) for part in model.parts.values()]
        own = sum(file.stat().st_size for _, file in deciding_files(model))
        return None if None in sizes else own + sum(size for size in sizes if size is not None)
    if model.format == "hf" and model.base is not None:
        return model.base.path.stat().st_size if model.base.format == "gguf" else None
    if model.path.is_file():
        return model.path.stat().st_size
    if model.is_graph:  # anything may lie beside a user's graph
        return sum(file.stat().st_size for _, file in deciding_files(model))
    return sum(whole_size(file) for file in model.path.iterdir() if file.is_file())
