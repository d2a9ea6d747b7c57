"""Content keys: everything that a result depends on, hashed.

The input model's files, the data files and user scripts are hashed by their bytes; the input of a later step is the key
of the step before it, so nothing is hashed twice. Hashes are remembered by path, size, modification time and inode: a
second run does one `stat` a file, however large the checkpoint is.
"""

import functools
import importlib.metadata
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from blake3 import blake3

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.data import data_files, plugin_modules
from olivine.errors import ModelError, RequestError
from olivine.models import Model
from olivine.models.adapter import BASE_FILE
from olivine.models.materialize import COMPANIONS
from olivine.passes import UNCHANGED, passes
from olivine.workflow.code import code_digest
from olivine.workflow.steps import Plan, ScoreRows, Step

SCORE_LIBRARIES = ("torch", "transformers", "peft", "onnxruntime", "onnxruntime-genai")

# One library, published under a name for each kind of hardware.
_VARIANTS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"),
    "onnxruntime-genai": ("onnxruntime-genai", "onnxruntime-genai-cuda", "onnxruntime-genai-directml"),
}
_RACY_NS = 2_000_000_000  # coarsest step of a file system's clock: a file changed so recently may change again unseen
_LARGE_BYTES = 16 * 2**20


version = functools.cache(lazy.version)  # nothing is installed while a process runs


def digest(value: Any) -> str:
    """Hash of a JSON value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return str(blake3(text.encode("utf-8", errors="surrogatepass")).hexdigest())


def hash_file(path: Path) -> str:
    """blake3 of a file's bytes, in constant memory; large files on all cores."""
    hasher = blake3(max_threads=blake3.AUTO)
    if path.stat().st_size >= _LARGE_BYTES:
        hasher.update_mmap(path)
    else:
        hasher.update(path.read_bytes())
    return str(hasher.hexdigest())


@dataclass(frozen=True)
class Stamp:
    """What tells without reading that a file is the one that was hashed."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """The stamp of a file now; OSError when there is none."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


class Hashes:
    """Hashes of files, remembered across runs in `cache_dir/hashes.jsonl`: one line a file, the last one counts.

    A line is one append, so two runs may share the file; a line that a crash cut short only means hashing again.
    remember_only: a large file that is not remembered raises Unremembered instead of being hashed, and nothing is
      written: `plan` is quick and touches nothing, and what depends on a file that no run has hashed is hardly cached.
    """

    def __init__(self, cache_dir: Path, *, remember_only: bool = False) -> None:
        self._path, self._remember_only = cache_dir / "hashes.jsonl", remember_only
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._first: dict[str, str] = {}
        self.edited: dict[Path, None] = {}  # files that had other bytes when they were first asked for
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._read(line)

    def file(self, path: Path) -> str:
        """The hash of a file's bytes as they are now."""
        hashed = self.current(path)
        if self._first.setdefault(str(path.absolute()), hashed) != hashed:
            self.edited[path] = None
        return hashed

    def current(self, path: Path) -> str:
        """The same, of a file that no key depends on."""
        stamp = Stamp.of(path)
        if (known := self.remembered(path, stamp)) is not None:
            return known
        if self._remember_only and stamp.size > 256 * 2**20:
            raise Unremembered(str(path))
        hashed = hash_file(path)
        if not self._remember_only and time.time_ns() - stamp.mtime_ns > _RACY_NS and Stamp.of(path) == stamp:
            self.remember(path, hashed, stamp)
        else:
            self._known[str(path.absolute())] = (stamp, hashed)  # for this run only
        return hashed

    def remembered(self, path: Path, stamp: Stamp | None = None) -> str | None:
        """The hash of a file when it is known without reading it."""
        known = self._known.get(str(path.absolute()))
        return known[1] if known is not None and known[0] == (stamp or Stamp.of(path)) else None

    def remember(self, path: Path, hashed: str, stamp: Stamp | None = None) -> None:
        """Keep a file's hash.

        A cache_dir that does not exist is not made for that, and one that is full or read-only takes none: then the
        file is hashed again.
        """
        stamp = stamp or Stamp.of(path)
        self._known[str(path.absolute())] = (stamp, hashed)
        if self._path.parent.is_dir():
            record = {"path": str(path.absolute()), **vars(stamp), "blake3": hashed}
            with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def model(self, model: Model) -> str:
        """The content of a model record: its deciding files, what it was made from, and how it is to be loaded."""
        if not model.path.exists():
            raise ModelError(f"the model '{model.path}' does not exist")
        record = model.to_json() | {
            "path": {name: self.file(path) for name, path in sorted(_deciding_files(model))},
            "base": self.model(model.base) if model.base else None,
        }
        return digest(record)

    def data(self, config: DataConfig) -> Mapping[str, Any]:
        """What a data config reads: its settings without places, and the bytes of its files in the order of reading."""
        settings = config.model_dump(mode="json", exclude={"folder", "name"})
        files = data_files(config)
        if files:  # names decide how files are read and which split they are of; their place does not matter
            settings["load_dataset_config"] |= {"data_files": [path.name for path in files], "data_dir": None}
            name = settings["load_dataset_config"]["data_name"]
            settings["load_dataset_config"]["data_name"] = PurePath(name).name
        code = {"code": [code_digest(module) for module in modules]} if (modules := plugin_modules(config)) else {}
        return {"settings": settings, "files": [self.file(path) for path in files], **code}

    def compact(self) -> None:
        """Forget files that are gone or changed, and write the rest anew."""
        kept = {path: known for path, known in self._known.items() if _is_current(Path(path), known[0])}
        self._known = kept
        if self._path.is_file():
            lines = [
                json.dumps({"path": path, **vars(stamp), "blake3": value}) for path, (stamp, value) in kept.items()
            ]
            fresh = self._path.parent / "building" / "hashes"  # removed there if this process dies
            fresh.parent.mkdir(exist_ok=True)
            fresh.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            fresh.replace(self._path)

    def _read(self, line: str) -> None:
        try:
            record = json.loads(line)
            stamp = Stamp(record["size"], record["mtime_ns"], record["inode"])
            self._known[record["path"]] = (stamp, record["blake3"])
        except (ValueError, KeyError, TypeError):
            return


class Unremembered(RequestError):  # noqa: N818 - names what is so, like the others of the tree
    """A large file was not hashed before, and now is not the time."""


def _is_current(path: Path, stamp: Stamp) -> bool:
    try:
        return Stamp.of(path) == stamp
    except OSError:
        return False


def _deciding_files(model: Model) -> Iterator[tuple[str, Path]]:
    """The files that make a model what it is, by their names in it; a README or checkpoints beside them are not."""
    if model.path.is_file():
        yield "", model.path
        return
    pattern = "**/*" if model.format == "onnx" else "*"
    for path in [*model.path.glob(pattern), *model.path.glob("additional_chat_templates/*.jinja")]:
        name = path.relative_to(model.path)
        if path.is_file() and not any(part.startswith(".") for part in name.parts) and _decides(model, name):
            yield name.as_posix(), path


def _decides(model: Model, name: PurePath) -> bool:
    if model.format == "onnx":
        return name.suffix != ".md"
    return (
        name.name in COMPANIONS
        or name.name in ("adapter_config.json", BASE_FILE, "model.safetensors.index.json")
        or name.suffix in (".safetensors", ".jinja")
        or (name.suffix == ".py" and model.trust_remote_code)
    )


def step_key(step: Step, input_key: str, hashes: Hashes) -> str:
    """The key of a step's result: the pass, its code and params, its input, the bytes it reads, its libraries."""
    plugin = passes.find(step.pass_name)
    if plugin is None:
        raise LookupError(f"no pass '{step.pass_name}'")  # a plan with an unknown pass has a problem and is not run
    return digest(
        {
            "pass": plugin.name,
            "version": plugin.version,
            "code": code_digest(plugin.__module__),
            "params": step.params,
            "input": input_key,
            "data": {name: hashes.data(config) for name, config in step.data.items()},
            "files": [hashes.file(path) for path in step.files],
            "libraries": library_versions(plugin.libraries),
            "device": step.machine.device,
            **({"devices": step.machine.n_devices} if step.machine.n_devices > 1 and plugin.spreads else {}),
            # weights do not depend on what will run them; a graph and what is measured of it do
            "execution_provider": step.machine.execution_provider if plugin.produces in ("onnx", UNCHANGED) else None,
        }
    )


def score_key(model_key: str, rows: ScoreRows, previous_key: str | None, device: str, hashes: Hashes) -> str:
    """The key of a model's scores on those rows, compared with the model whose scores have `previous_key`."""
    return digest(
        {
            "score": code_digest("olivine.evaluate"),
            "metrics": [
                [entry.name, entry.value, code_digest(entry.module)]
                for entry in importlib.metadata.entry_points(group="olivine.evaluate")
            ],
            "model": model_key,
            "rows": score_params(rows) | {"data": hashes.data(rows.data)},
            "previous": previous_key,
            "device": device,
            "libraries": library_versions(SCORE_LIBRARIES),
        }
    )


def materialize_key(model_key: str) -> str:
    """The key of a model's weights written out."""
    return digest({"materialize": code_digest("olivine.models.materialize"), "model": model_key})


def addressed_key(adapter_key: str, base: str, revision: str | None) -> str:
    """The key of an adapter that names its base."""
    code = code_digest("olivine.models.adapter")
    return digest({"address": code, "adapter": adapter_key, "base": base, "revision": revision})


def fetch_key(plan: Plan) -> str:
    """The key of the place where an input model from the hub lies."""
    return digest(
        {
            "fetch": plan.hub_name,
            "revision": plan.hub_revision,
            "trusted": trusts_code(plan),
            "code": code_digest("olivine.models.materialize"),  # it says which files are part of a model
        }
    )


def trusts_code(plan: Plan) -> bool:
    """Whether the config lets the input model bring its own Python."""
    return bool(plan.workflow.get("input_model", {}).get("load_kwargs", {}).get("trust_remote_code", False))


def score_params(rows: ScoreRows) -> dict[str, Any]:
    """The params of a score job."""
    return {
        "data": absolute(rows.data).model_dump(mode="json"),
        "part": rows.part,
        "eval_size": rows.eval_size,
        "seed": rows.seed,
        "target": rows.target,
        "max_rows": rows.max_rows,
        "on_text": rows.on_text,
    }


def absolute(config: DataConfig) -> DataConfig:
    """The data config as it reads from any current folder."""
    return config.model_copy(update={"folder": str(Path(config.folder).absolute())})


@dataclass(frozen=True)
class Seam:
    """A model that is scored.

    name: what tables call it: "base", or the step's name. step: the step that made it; None for the input model. No two
    seams have one step, while a user's pass may be named as the program names things. previous: what it is compared
    with.
    """

    name: str
    step: str | None
    previous: "Seam | None"


def seams(plan: Plan) -> list[Seam]:
    """What is scored, in order: the input model (as inserted steps made it readable), then every step's result."""
    if plan.score is None or not plan.quality.enabled:
        return []
    implicit = [step.name for step in plan.steps if step.implicit and step.parent is None]
    base = Seam("base", implicit[0] if implicit else None, None)
    nearest: dict[str | None, Seam] = {None: base, base.step: base}
    found = [base]
    for step in plan.steps:
        if step.implicit:
            nearest[step.name] = nearest[step.parent]
            continue
        if step.produces != UNCHANGED:  # else its result was scored when it was made
            found.append(Seam(step.name, step.name, nearest[step.parent]))
            nearest[step.name] = found[-1]
    return found


@dataclass(frozen=True)
class Keys:
    """The keys of a whole plan, by step name, None for the input model. scores: by the step of their seam."""

    models: Mapping[str | None, str]
    scores: Mapping[str | None, str]


def plan_keys(plan: Plan, input_model: Model, hashes: Hashes) -> Keys:
    """Every key is known before anything runs: that of a step covers all steps before it."""
    models: dict[str | None, str] = {None: hashes.model(input_model)}
    for step in plan.steps:
        models[step.name] = step_key(step, models[step.parent], hashes)
    scores: dict[str | None, str] = {}
    for seam in seams(plan):
        if plan.score is not None:
            previous = scores[seam.previous.step] if seam.previous else None
            scores[seam.step] = score_key(models[seam.step], plan.score, previous, plan.machine.device, hashes)
    return Keys(models, scores)


def library_versions(libraries: Iterable[str]) -> dict[str, list[str]]:
    """Installed versions; a library that is published under several names counts with each of them."""
    return {name: [version(variant) for variant in _VARIANTS.get(name, (name,))] for name in libraries}
