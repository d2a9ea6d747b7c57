"""What a config wants beside the folder of the result: archives of it, and its graph as a file of its own."""

import json
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from olivine.config.schema import Workflow
from olivine.errors import StepFailed
from olivine.models import ONNX_FILE
from olivine.models.onnx_files import header_of, onnx_model
from olivine.passes import UNCHANGED, passes
from olivine.paths import could_be
from olivine.store.files import sync_file
from olivine.store.hashes import Hashes
from olivine.workflow.deliver import KEPT, write_whole
from olivine.workflow.draft import Draft

RECORD = ".packed.json"  # hashes of what was written here, by name
ZIP, SUFFIX = "zipfile", ".onnx"
_DATE = (1980, 1, 1, 0, 0, 0)  # of every file in an archive: the same result is the same bytes


def check_packing(draft: Draft) -> None:
    """Packagings that are not served, names that are none, and a graph that is wanted of what has none."""
    workflow = draft.workflow
    for index, one in enumerate(workflow.packaging_config):
        here = ("packaging_config", index)
        if one.type.lower() != ZIP:
            message = f"the packaging '{one.type}' is not served."
            draft.problem("unsupported", (*here, "type"), message, "Use Zipfile, or the folder of the result itself.")
        elif not could_be(one.name) or Path(one.name).name != one.name:
            draft.problem("invalid-value", (*here, "name"), f"'{one.name}' is no name of a file.", "Choose another.")
    if workflow.output_file is None:
        return
    form: str | None = draft.model.form if draft.model is not None else None
    last: str | None = None
    for plugin in (passes.find(step.type) for step in workflow.passes.values()):
        if plugin is None or plugin.produces != UNCHANGED:
            last = form = plugin.gives(form) if plugin is not None else None
    if not could_be(workflow.output_file) or Path(workflow.output_file).suffix.lower() != SUFFIX:
        message = f"'{workflow.output_file}' is no name of an ONNX file."
        draft.problem("invalid-value", ("output_file",), message, "Let it end in .onnx.")
    elif last not in ("onnx", None):
        message = f"the result is to be the file '{workflow.output_file}', but what the last pass makes is {last}."
        draft.problem("invalid-value", ("output_file",), message, "Name a folder as output_dir.")


def check_parts(draft: Draft) -> None:
    """That a result of several parts, as the planned steps make it, is not wanted as one file."""
    facts, name = draft.chain.facts, draft.workflow.output_file
    if name is not None and facts is not None and facts.parts:
        message = f"the result is to be the file '{name}', but it has the parts {', '.join(facts.parts)}."
        draft.problem("invalid-value", ("output_file",), message, "Name a folder as output_dir.")


def packed_names(workflow: Workflow) -> list[str]:
    """The files that are written into output_dir."""
    archives = [f"{one.name}.zip" for one in workflow.packaging_config]
    return archives if workflow.output_file is None else [*archives, workflow.output_file]


def is_due(workflow: Workflow, output_dir: Path) -> bool:
    """Whether `pack` has anything to write, or to remove of what an earlier run wrote."""
    return bool(packed_names(workflow) or _read(output_dir))


def pack(workflow: Workflow, model: Path, output_dir: Path, hashes: Hashes, warn: Callable[[str], None]) -> None:
    """Write archives and the graph of the delivered folder `model`; what is not ours goes to `kept/`."""
    record = _read(output_dir)
    fresh: dict[str, str] = {}
    for one in workflow.packaging_config:
        _put(output_dir, f"{one.name}.zip", partial(_archive, model), record, hashes, warn, fresh)
    if workflow.output_file is not None:
        for name, source in _graph_files(model, workflow.output_file):
            _put(output_dir, name, partial(_copy, source), record, hashes, warn, fresh)
    for name in record.keys() - fresh.keys():
        if (output_dir / name).is_file() and hashes.current(output_dir / name) == record[name]:
            (output_dir / name).unlink()  # of an earlier run, and no result now
    if fresh or record:
        write_whole(output_dir / RECORD, fresh)


def _put(
    output_dir: Path,
    name: str,
    write: Callable[[Path], None],
    record: dict[str, str],
    hashes: Hashes,
    warn: Callable[[str], None],
    fresh: dict[str, str],
) -> None:
    target, written = output_dir / name, output_dir / f".{name}-{uuid.uuid4().hex}.partial"
    try:
        write(written)
        if target.exists() and hashes.current(target) not in (record.get(name), hashes.current(written)):
            kept = output_dir / KEPT / f"{uuid.uuid4().hex[:8]}-{name}"
            kept.parent.mkdir(exist_ok=True)
            target.rename(kept)
            warn(f"'{target}' was not of an earlier result; it lies in '{kept}' now")
        written.replace(target)
    finally:
        written.unlink(missing_ok=True)
    fresh[name] = hashes.current(target)


def _archive(model: Path, path: Path) -> None:
    """The folder, uncompressed: weights hold little that could be pressed out of them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(one for one in model.rglob("*") if one.is_file()):
            entry = zipfile.ZipInfo(f"{model.name}/{file.relative_to(model).as_posix()}", _DATE)
            entry.external_attr = 0o644 << 16
            with file.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 2**20)
    sync_file(path)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    sync_file(target)


def _graph_files(model: Path, name: str) -> Iterator[tuple[str, Path]]:
    """The graph under its new name, and the data that it refers to under theirs."""
    found = onnx_model(model, None, "")
    if ONNX_FILE not in found.attributes:
        graphs = sorted(model.glob("*.onnx"))
        if len(graphs) != 1:
            raise StepFailed("deliver", f"the result has {len(graphs)} graphs, and none is '{name}' alone")
        found = onnx_model(graphs[0], None, "")
    header = header_of(found)
    yield name, header.path
    yield from ((other, header.path.parent / other) for other in header.external_files)


def _read(output_dir: Path) -> dict[str, str]:
    try:
        record = json.loads((output_dir / RECORD).read_text(encoding="utf-8"))
        return {str(name): str(hashed) for name, hashed in record.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
