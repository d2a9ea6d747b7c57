"""A transformers model in an MLflow folder: which of its files make the Hugging Face folder that it was saved from.

Flavours `hftransformersv2` and `hftransformers` (of AzureML) hold `model`, `config` and `tokenizer` in a folder of
data; `transformers` (MLflow's own) holds `model` and, of each component, a folder in `components`.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from olivine.errors import ModelError

MARK = "MLmodel"  # the file that makes a folder one of MLflow
_FLAVOURS = ("hftransformersv2", "hftransformers", "transformers")


def layout(mark: bytes, root: PurePosixPath, names: Collection[str]) -> dict[str, str]:
    """The files of the model by the name that each has in a Hugging Face folder.

    mark: what stands in MLmodel. root: its folder. names: of all files that are there. Raises ModelError when none of
    them is a transformers model's.
    """
    flavours = _flavours(mark)
    flavour = next((name for name in _FLAVOURS if name in flavours), None)
    if flavour is None:
        told = ", ".join(flavours) or "none"
        raise ModelError(
            f"the MLflow folder has no transformers model: its flavours are {told}; read are {', '.join(_FLAVOURS)}"
        )
    files: dict[str, str] = {}
    for folder in _folders(flavour, flavours[flavour], root):
        for name in names:
            path = PurePosixPath(name)
            if path.is_relative_to(folder):  # of two of one name, that beside the weights counts
                files.setdefault(path.relative_to(folder).as_posix(), name)
    if "config.json" not in files:
        raise ModelError(f"the MLflow folder has no config.json where its flavour '{flavour}' has it")
    return files


def _folders(flavour: str, settings: Mapping[str, Any], root: PurePosixPath) -> Iterator[PurePosixPath]:
    if flavour == "transformers":
        yield root / str(settings.get("model_binary") or "model")
        for component in ("tokenizer", "processor"):
            yield root / "components" / component
        return
    data = root / str(settings.get("model_data") or "data")
    yield from (data / part for part in ("model", "config", "tokenizer"))


def _flavours(mark: bytes) -> dict[str, dict[str, Any]]:
    import yaml

    try:
        said = yaml.safe_load(mark)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f"the MLmodel file cannot be read: {str(error).splitlines()[0]}") from None
    flavours = said.get("flavors") if isinstance(said, dict) else None
    if not isinstance(flavours, dict):
        raise ModelError("the MLmodel file names no flavours")
    return {str(name): value if isinstance(value, dict) else {} for name, value in flavours.items()}
