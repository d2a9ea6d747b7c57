"""Which files make a model what it is: those that its key is made of, and that go where it is used."""

from collections.abc import Iterator
from pathlib import Path, PurePath

from olivine.models import Model
from olivine.models.adapter_files import BASE_FILE
from olivine.models.companions import COMPANIONS
from olivine.models.diffusion_files import pipeline_files
from olivine.models.onnx_files import SESSION_FILE, files_of_adapter, header_of
from olivine.models.openvino_files import context_of, ir_of


def deciding_files(model: Model) -> Iterator[tuple[str, Path]]:
    """The files that make a model what it is, by their names in it; a README or checkpoints beside them are not."""
    if model.format == "composite":
        yield from _of_all_parts(model)
        return
    if model.path.is_file():
        yield "", model.path
        return
    if model.format == "onnx" and model.packaging == "plain":
        yield from _of_graph(model)
        return
    if model.format == "openvino":
        yield from _of_ir(model)
        return
    pattern = "**/*" if model.format == "onnx" else "*"
    for path in [*model.path.glob(pattern), *model.path.glob("additional_chat_templates/*.jinja")]:
        name = path.relative_to(model.path)
        if path.is_file() and not any(part.startswith(".") for part in name.parts) and _decides(model, name):
            yield name.as_posix(), path


def _of_graph(model: Model) -> Iterator[tuple[str, Path]]:
    """A graph, its weights, and what tells how it is fed; the folder may hold anything else."""
    header, wrapped = header_of(model), context_of(model)
    inside = [wrapped.name, wrapped.with_suffix(".bin").name] if wrapped is not None else []
    files = [*header.external_files, *inside, *COMPANIONS, SESSION_FILE, *files_of_adapter(model.path)]
    for name in [header.path.name, *files]:
        if (model.path / name).is_file():
            yield name, model.path / name


def _of_all_parts(model: Model) -> Iterator[tuple[str, Path]]:
    """What lies in the folder of a composite and belongs to no part of it alone; a part's own files are the part's."""
    if not any(part.path == model.path for part in model.parts.values()):
        for name in COMPANIONS:
            if (model.path / name).is_file():
                yield name, model.path / name
        yield from pipeline_files(model.path)


def _of_ir(model: Model) -> Iterator[tuple[str, Path]]:
    """The two files of an IR, and what tells how it is fed."""
    file = ir_of(model)
    for path in [file, file.with_suffix(".bin"), *(model.path / name for name in COMPANIONS)]:
        if path.is_file():
            yield path.relative_to(model.path).as_posix(), path


def _decides(model: Model, name: PurePath) -> bool:
    if model.format == "onnx":
        return name.suffix != ".md"
    return (
        name.name in COMPANIONS
        or name.name in ("adapter_config.json", BASE_FILE, "model.safetensors.index.json")
        or name.suffix in (".safetensors", ".jinja")
        or (name.suffix == ".py" and model.trust_remote_code)
    )
