"""The files of a pipeline of diffusers beside its parts."""

from pathlib import Path

from olivine.models.json_files import is_file

PIPELINE = "model_index.json"


def pipeline_files(folder: Path) -> list[tuple[str, Path]]:
    """What belongs to a pipeline and to no part of it that is exported: its index, tokenizers, scheduler."""
    if not is_file(folder / PIPELINE):
        return []
    inner = [folder / name for name in ("tokenizer", "tokenizer_2", "scheduler", "feature_extractor")]
    files = [folder / PIPELINE, *(path for one in inner for path in sorted(one.glob("*")) if path.is_file())]
    return [(path.relative_to(folder).as_posix(), path) for path in files]
