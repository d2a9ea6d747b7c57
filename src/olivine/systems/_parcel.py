"""A job without places: what it reads is named by content, so that any side finds it in its own store.

    here                                       there
    /home/me/base, /data/rows.jsonl   ──>      ${tree:DIGEST}, ${tree:DIGEST}/rows.jsonl     (names and hashes of files)
    output of the entry               <──      ${output}                                     (the same of the result)

A place of one machine stands in no job that is sent, and none of the other in a result that comes back.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from olivine.absent import absent
from olivine.config.schema import DataConfig
from olivine.data import data_files, locate, named_files
from olivine.data.sources import is_kind
from olivine.models import Model
from olivine.models.deciding import deciding_files
from olivine.store.hashes import Hashes, digest
from olivine.store.packing import OUTPUT
from olivine.store.transfer import Files, Tree
from olivine.systems._protocol import Job


@dataclass(frozen=True)
class Parcel:
    """A job to be sent. sources: where the files lie here, by hash. places: what the names in the job are here."""

    job: Job
    sources: Mapping[str, Path]
    places: Mapping[str, str]


def parcel(job: Job, hashes: Hashes) -> Parcel:
    """The job without places, and what has to be there for it. OSError when a file that it reads is not here."""
    data = {name: _absolute(config) for name, config in job.data.items()}
    params = dict(job.params)
    if job.kind == "score" and params["data"] is not None:
        params["data"] = _absolute(params["data"])
    whole = replace(job, data=data, params=params)
    trees: dict[str, Tree] = {}
    names: dict[str, str] = {}
    sources: dict[str, Path] = {}
    for root, files in _reads(whole).items():
        tree = {name: _content(path, hashes) for name, path in files.items()}
        sources |= {tree[name]: path for name, path in files.items()}
        name = f"${{tree:{digest(tree)}}}"
        trees[digest(tree)], names[root] = tree, name
    known = dict(sorted(names.items(), key=lambda item: -len(item[0])))  # the deepest folder goes first
    sent = Job(
        **{
            **_renamed({"params": params, "data": data, "model": job.model, "models": dict(job.models)}, known),
            "kind": job.kind,
            "step": job.step,
            "name": job.name,
            "machine": job.machine,
            "output": Path(OUTPUT),
            "scratch": Path(job.scratch.name),
            "log": job.log,
            "trees": trees,
        }
    )
    return Parcel(sent, sources, {name: root for root, name in reversed(names.items())})


def _content(path: Path, hashes: Hashes) -> str:
    """The hash of a file's bytes, wherever they lie."""
    elsewhere = absent(path)
    return elsewhere.blake3 if elsewhere is not None else hashes.current(path)


def unpacked(job: Job, store: Files, output: Path) -> tuple[Job, dict[str, str]]:
    """A job that was sent, with the places of this side, and the name of each place."""
    places = {f"${{tree:{name}}}": str(store.tree(tree)) for name, tree in job.trees.items()}
    fields = _renamed({"params": job.params, "data": job.data, "model": job.model, "models": dict(job.models)}, places)
    scratch = store.folder / "scratch" / job.scratch.name
    scratch.mkdir(parents=True, exist_ok=True)
    here = replace(job, **fields, output=output, scratch=scratch, trees={})
    told = {place: name for name, place in places.items()} | {str(output): OUTPUT}
    below = {place: Path(place).relative_to(Path.cwd()) for place in told if Path(place).is_relative_to(Path.cwd())}
    return here, told | {str(short): told[place] for place, short in below.items()}  # as sentences say them, too


def named(value: Any, places: Mapping[str, str]) -> Any:
    """JSON values with one name instead of another wherever it stands, inside of sentences too."""
    for old, new in places.items():
        pattern = re.compile(rf"(?<![\w.-]){re.escape(old)}(?![\w-])")
        value = _mapped(value, lambda text, pattern=pattern, new=new: pattern.sub(lambda _: new, text))
    return value


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """JSON values with names instead of places: strings that are a place, or lie in one; no others."""

    def rename(text: str) -> str:
        for old, new in names.items():
            if text == old or text.startswith((f"{old}/", f"{old}{os.sep}")):
                return new + text[len(old) :].replace(os.sep, "/")
        return text

    return _mapped(value, rename)


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _absolute(config: Mapping[str, Any]) -> dict[str, Any]:
    """A data config that names every file that it reads, by its absolute path."""
    read = DataConfig.model_validate(config)
    local, files = locate(read), data_files(read)
    if local is None or not files:
        return {**config, "folder": ""}  # its rows are fetched by whoever reads them
    load = read.load_dataset_config
    paths = {name: [str(file.path) for file in split if file.path in files] for name, split in local.splits.items()}
    by_split = {name: names for name, names in paths.items() if names}
    kind = load.data_name if is_kind(load.data_name) else str(files[0].parent)  # a folder says nothing of the kind
    settings = {"data_name": kind, "data_dir": None, "data_files": by_split}
    return {**config, "folder": "", "load_dataset_config": {**config["load_dataset_config"], **settings}}


def _reads(job: Job) -> dict[str, dict[str, Path]]:
    """What a job reads: the files of every folder, by their names below it."""
    found: dict[str, dict[str, Path]] = {}
    for record in (job.model, *job.models.values()):
        if record is not None:
            for model in _made_from(Model.from_json(record)):
                files = dict(deciding_files(model))
                if model.path.is_file():
                    if model.format == "composite":
                        continue  # it has no folder of its own, and its parts are sent
                    found.setdefault(str(model.path.parent), {})[model.path.name] = model.path
                else:
                    found.setdefault(str(model.path), {}).update(files)
    configs = [*job.data.values(), *([job.params["data"]] if job.kind == "score" and job.params["data"] else [])]
    read = [DataConfig.model_validate(config) for config in configs]
    paths = [path for config in read for path in (*data_files(config), *named_files(config))]
    paths += [Path(file) for file in job.files]
    for path in sorted(paths, key=lambda path: len(path.parts)):
        if path.is_dir():  # its own root, whether it holds files or only folders of them
            found.setdefault(str(path), {})
            continue
        root = next((root for root in found if Path(root) in path.parents), str(path.parent))
        found.setdefault(root, {})[path.relative_to(root).as_posix()] = path
    if previous := job.params.get("previous") if job.kind == "score" else None:
        below = [path for path in Path(previous).rglob("*") if path.is_file()]
        found.setdefault(previous, {}).update({path.relative_to(previous).as_posix(): path for path in below})
    return found


def _made_from(model: Model | None) -> Iterator[Model]:
    if model is None:
        return
    yield model
    yield from _made_from(model.base)
    for part in model.parts.values():
        yield from _made_from(part)


def result_files(output: Path, store: Files) -> dict[str, str]:
    """The files of a result, kept in the store of this side: hashes by name."""
    paths = sorted(path for path in output.rglob("*") if path.is_file())
    return {path.relative_to(output).as_posix(): store.keep(path) for path in paths}
