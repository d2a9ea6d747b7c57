"""From a config file to a workflow: read, override, translate, validate; every problem at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from olivine.config._overrides import override
from olivine.config.check import check, known_keys
from olivine.config.dialects import DIALECT, Finding, Note, translate
from olivine.config.explain import line_of, nearest, to_problems
from olivine.config.nodes import Object, plain
from olivine.config.read import Document, read
from olivine.config.schema import DataConfig, PassConfig, SearchStrategy, System, Workflow
from olivine.config.shape import shape
from olivine.config.unserved import unsupported
from olivine.config.user import complete, user_file
from olivine.errors import ConfigError, Problem
from olivine.paths import of_user

_OF_DATA, _OF_MODEL = ("user_script", "script_dir"), ("model_script", "script_dir")  # keys that name scripts
_SECTIONS = frozenset({"input_model", "systems", "data_configs", "passes", "engine"})


@dataclass(frozen=True)
class Loaded:
    """What became of a config file.

    workflow: the config in typed form; with problems, what remains of it when the wrong keys are mended or left out,
      and None when too little remains. document: the config in today's form, which knows the line of every key.
    notes: what was translated. problems: all that keeps the workflow from running, as far as the config alone tells.
    found: those of them that were met before the document was checked.
    """

    workflow: Workflow | None
    document: Document
    notes: tuple[Note, ...]
    problems: tuple[Problem, ...]
    found: tuple[Problem, ...] = ()


def load(path: Path, overrides: Sequence[str] = (), user: Path | None = None) -> Loaded:
    """Read a config, apply `--set` overrides, translate old forms and validate.

    user: the user's own file, which defines systems that the config only names; else the one that `user_file` finds.
    Raises ConfigError only when the file cannot be read as a mapping.
    """
    return load_document(read(Path(path)), overrides, user)


def load_document(document: Document, overrides: Sequence[str] = (), user: Path | None = None) -> Loaded:
    """The same of a config that is no file: its parts say where they come from, relative names start from its path."""
    document = document.copy()
    problems = [*override(document.root, overrides), *_misspelt_sections(document.root)]
    if (own := user or user_file()) is not None:
        problems += complete(document.root, own)
    root, findings = translate(document.root)
    problems += [finding for finding in findings if isinstance(finding, Problem)]
    return _checked(Document(document.path, root), _notes(findings), tuple(problems))


def changed(loaded: Loaded, document: Document) -> Loaded:
    """The config with another document in today's form, checked as one that was read."""
    return _checked(document, loaded.notes, loaded.found)


def _checked(document: Document, notes: tuple[Note, ...], found: tuple[Problem, ...]) -> Loaded:
    workflow, mistakes = check(shape(document.root))
    problems = [*found, *to_problems(document, mistakes)]
    if workflow is not None:
        problems += unsupported(workflow, document)
        workflow = _in_folder(workflow, document.folder)
    problems = sorted(dict.fromkeys(problems), key=lambda problem: line_of(problem.where))
    return Loaded(workflow, document, notes, tuple(problems), found)


def migrate(document: Document) -> tuple[dict[str, Any], list[Note]]:
    """The config in today's form, and a note for everything that was translated; today's form stays as it is.

    Raises ConfigError when the config contradicts itself. What cannot be done any more becomes a note with a warning.
    """
    root, findings = translate(document.root)
    problems = [finding for finding in findings if isinstance(finding, Problem)]
    contradictions = [problem for problem in problems if problem.kind != "unsupported"]
    if contradictions:
        raise ConfigError(contradictions)
    lost = [Note(item.where, "", "", f"{item.message} {item.fix}", warning=True) for item in problems]
    return plain(root), [*_notes(findings), *lost]


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of today's form, for an editor; params of passes are left open."""
    schema = Workflow.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["$schema"] = {"type": "string", "description": "where an editor finds this schema"}
    schema["properties"][DIALECT] = {"type": "string", "description": "form of another package, see docs/extending.md"}
    definitions = schema["$defs"]
    definitions[SearchStrategy.__name__] = SearchStrategy.model_json_schema()
    arms = schema["properties"]["search_strategy"]["anyOf"]
    arms[[arm.get("type") for arm in arms].index("object")] = {"$ref": f"#/$defs/{SearchStrategy.__name__}"}
    for hidden in ("folder", "content"):
        definitions[DataConfig.__name__]["properties"].pop(hidden)
    for name, nested in ((PassConfig.__name__, "params"), (System.__name__, "config")):
        definitions[name]["properties"].pop(nested)
        definitions[name]["additionalProperties"] = True
    definitions[PassConfig.__name__]["properties"].pop("alternatives")
    one = schema["properties"]["passes"]["additionalProperties"]
    alternatives = {"type": "array", "items": {"anyOf": [one, {"type": "null"}]}}
    schema["properties"]["passes"]["additionalProperties"] = {"anyOf": [one, alternatives]}
    return schema


def _misspelt_sections(root: Object) -> Iterator[Problem]:
    """Read a misspelt section under its right name, so that what stands in it is translated and checked as well."""
    if DIALECT in root:  # its sections have names of their own
        return
    known = known_keys(Workflow, ())
    for key in [key for key in root if key not in known]:
        near = nearest(key, known)
        if near in _SECTIONS and near not in root and isinstance(root[key], dict | list):
            value, place = root.take(key)
            root.put(near, value, place)
            yield Problem("unknown-key", str(place), f"unknown key '{key}'; did you mean '{near}'?")


def _notes(findings: list[Finding]) -> tuple[Note, ...]:
    notes = [finding for finding in findings if isinstance(finding, Note)]
    return tuple(sorted(notes, key=lambda note: line_of(note.where)))


def _in_folder(workflow: Workflow, folder: Path) -> Workflow:
    """Relative data files and scripts start from the folder of the config, unless it names another itself."""
    data = [
        config.model_copy(update={"folder": config.folder or str(folder), **_placed(config, _OF_DATA, folder)})
        for config in workflow.data_configs
    ]
    passes = {
        name: step.model_copy(update={"params": {**step.params, **_scripts_of(step.params, folder)}})
        for name, step in workflow.passes.items()
    }
    model = workflow.input_model
    model = model.model_copy(update=_placed(model, _OF_MODEL, folder))
    if model.model_components is not None:
        parts = [part.model_copy(update=_placed(part, _OF_MODEL, folder)) for part in model.model_components]
        model = model.model_copy(update={"model_components": parts})
    return workflow.model_copy(update={"data_configs": data, "input_model": model, "passes": passes})


def _scripts_of(params: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Whole paths of the scripts that the params of a pass name."""
    given = {key: params[key] for key in _OF_DATA if isinstance(params.get(key), str) and params[key]}
    return {key: str((folder / of_user(name)).absolute()) for key, name in given.items()}


def _placed(section: BaseModel, keys: Sequence[str], folder: Path) -> dict[str, str]:
    """Whole paths of what a section names by these keys."""
    given = {key: getattr(section, key) for key in keys}
    return {key: str((folder / of_user(name)).absolute()) for key, name in given.items() if name is not None}
