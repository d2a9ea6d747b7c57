"""Pages that the code itself writes: the config's keys, every pass with its params, metrics, the Python API.

They are made before each build, below docs/reference, and are no part of the repository.
"""

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import olivine
from olivine import api
from olivine.cli.schema import config_schema
from olivine.evaluate import metrics
from olivine.passes import Pass, passes
from olivine.systems import systems

WORDS = {"object": "mapping", "string": "text", "integer": "whole number", "boolean": "true, false", "array": "list"}
MODULE = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])")  # before the name of a type
# sections of the config in the order in which one writes them, and what each is called
SECTIONS = {
    "InputModel": "input_model",
    "LoadKwargs": "input_model.load_kwargs",
    "DataConfig": "data_configs[...]",
    "LoadDataset": "data_configs[...].load_dataset_config",
    "PreProcess": "data_configs[...].pre_process_data_config",
    "Accelerator": "systems.NAME.accelerators[...]",
    "Quality": "quality",
    "Evaluator": "evaluators.NAME",
    "Metric": "evaluators.NAME.metrics[...]",
    "SubType": "evaluators.NAME.metrics[...].sub_types[...]",
    "Goal": "goal of a metric",
    "SearchStrategy": "search_strategy",
}


def setup(app: Sphinx) -> Mapping[str, Any]:
    """Make the pages before Sphinx looks for them."""
    app.connect("config-inited", lambda app, _: write(Path(app.srcdir) / "reference"))
    return {"parallel_read_safe": True}


def write(folder: Path) -> None:
    """Every page; one that is as it was stays untouched, so that it is not built again."""
    folder.mkdir(exist_ok=True)
    pages = {
        "config": config_page(),
        "passes": passes_page(),
        "metrics": metrics_page(),
        "systems": systems_page(),
        "python": python_page(),
        "commands": commands_page(),
    }
    for name, lines in pages.items():
        text = "\n".join(lines) + "\n"
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def config_page() -> Iterator[str]:
    """Every key of a config that is served."""
    schema = config_schema()
    yield "# Keys of a config\n"
    yield "What each is for stands in [config](../config.md); params of passes are [apart](passes.md).\n"
    yield "## The top\n"
    yield from keys(schema["properties"], schema.get("required", ()))
    for name, called in SECTIONS.items():
        section = schema["$defs"][name]
        yield f"\n## `{called}`\n"
        yield from keys(section["properties"], section.get("required", ()))


def passes_page() -> Iterator[str]:
    """Every pass of ours with its params."""
    yield "# Passes\n"
    yield "Each as `olivine passes NAME` prints it. When to take which is said by [fine-tuning](../finetuning.md)"
    yield "and [quantization](../quantization.md).\n"
    for name, plugin in passes.own.items():
        yield from pass_section(name, plugin)


def pass_section(name: str, plugin: type[Pass]) -> Iterator[str]:
    """One pass: what it does, its names, an example, its params."""
    yield f"## {next(iter(plugin.aliases), name)}\n"
    yield escaped(inspect.cleandoc(plugin.__doc__ or "")) + "\n"
    names = ", ".join(f"`{one}`" for one in dict.fromkeys((*plugin.aliases, name)))
    yield f"*type*: {names}. Takes {' or '.join(sorted(plugin.accepts))}, gives {plugin.produces}.\n"
    example = {"type": next(iter(plugin.aliases), name), **plugin.example}
    yield f"```json\n{json.dumps(example, indent=2)}\n```\n"
    schema = plugin.Params.model_json_schema()
    if schema.get("properties"):
        yield from keys(schema["properties"], schema.get("required", ()), schema.get("$defs", {}))
    yield ""


def metrics_page() -> Iterator[str]:
    """Every metric of ours with its numbers."""
    yield "# Metrics\n"
    yield "What an evaluator measures and how goals are set stands in [evaluators](../evaluators.md).\n"
    yield from table(
        ("metric", "what it is", "numbers"),
        (
            (f"`{name}`", escaped(first(plugin)), ", ".join(f"`{number}`" for number in plugin.numbers) or " ")
            for name, plugin in metrics.own.items()
        ),
    )


def systems_page() -> Iterator[str]:
    """Every kind of system of ours with its settings."""
    yield "# Systems\n"
    yield "Where passes run and models are measured: see [systems](../systems.md).\n"
    for name, plugin in systems.own.items():
        yield f"## {next(iter(plugin.aliases), name)}\n"
        yield escaped(first(plugin)) + "\n"
        schema = plugin.Params.model_json_schema()
        if schema.get("properties"):
            yield from keys(schema["properties"], schema.get("required", ()), schema.get("$defs", {}))
        yield ""


def python_page() -> Iterator[str]:
    """What `import olivine` gives."""
    yield "# The Python API\n"
    yield "How it is used stands in [from Python](../api.md).\n"
    for name in olivine.__all__:
        value = getattr(api, name, None) or getattr(olivine, name)
        yield f"## `{name}`\n"
        yield f"```python\n{signature(name, value)}\n```\n"
        yield escaped(inspect.cleandoc(value.__doc__ or "")) + "\n"
        for method, function in vars(value).items() if inspect.isclass(value) else ():
            if not method.startswith("_") and (told := inspect.getdoc(function)) and callable_of(function):
                yield f"`{method}`: {escaped(told)}\n"


def callable_of(member: Any) -> bool:
    """Whether a member of a class is one that is called or read, and no plain value."""
    return callable(member) or isinstance(member, property | classmethod)


def commands_page() -> Iterator[str]:
    """The command line, by sphinx-click."""
    yield "# Commands\n"
    yield "```{click} olivine.cli:olivine\n:prog: olivine\n:nested: full\n```"


def signature(name: str, value: Any) -> str:
    """How it is called, with the names of types alone."""
    kind = "class" if inspect.isclass(value) else "def"
    try:
        told = inspect.signature(value)
    except ValueError:
        return f"{kind} {name}(...)"
    parts = [str(one) for one in told.parameters.values()]
    named = [place for place, one in enumerate(told.parameters.values()) if one.kind is one.KEYWORD_ONLY]
    if named:
        parts.insert(named[0], "*")
    gives = "" if kind == "class" else f" -> {inspect.formatannotation(told.return_annotation)}"
    line = f"{kind} {name}({', '.join(parts)}){gives}"
    if len(line) > 100:
        line = f"{kind} {name}(\n    {f',{chr(10)}    '.join(parts)},\n){gives}"
    return MODULE.sub("", line)


def keys(
    properties: Mapping[str, Any], required: Iterable[str], definitions: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """Keys with what they take, their default and what they are for; those that are refused are left out."""
    needed = set(required)
    rows = (
        (
            f"`{key}`",
            kind(value, definitions or {}),
            "needed" if key in needed else default(value),
            escaped(value.get("description", "")),
        )
        for key, value in properties.items()
        if not value.get("deprecated")
    )
    yield from table(("key", "takes", "default", "what it is"), rows)


def default(value: Mapping[str, Any]) -> str:
    """The default as a config writes it; nothing where it says nothing."""
    told = value.get("default")
    return f"`{json.dumps(told, ensure_ascii=False)}`" if told not in (None, {}, []) and len(str(told)) < 40 else " "


def kind(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a key takes, in a word or two."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return kind(definitions[name], definitions) if name in definitions else "mapping"
    if "enum" in value:
        return ", ".join(f"`{json.dumps(one)}`" for one in value["enum"])
    if "anyOf" in value:
        told = (kind(one, definitions) for one in value["anyOf"] if one.get("type") != "null")
        return " or ".join(dict.fromkeys(told))
    words = {
        "object": "mapping",
        "string": "text",
        "integer": "whole number",
        "boolean": "true, false",
        "array": "list",
    }
    return words.get(str(value.get("type", "")), str(value.get("type", "any")))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table of Markdown."""
    titles = list(head)
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in row)} |"


def first(plugin: type) -> str:
    """The first line of a docstring."""
    return (plugin.__doc__ or "").strip().partition("\n")[0]


def escaped(text: str) -> str:
    """Text of a docstring in which Markdown reads nothing but words, and code between backticks."""
    parts = text.split("`")
    for place in range(0, len(parts), 2):
        for sign in ("\\", "*", "_", "<", "[", "{", "#", "$"):
            parts[place] = parts[place].replace(sign, f"\\{sign}")
    return "`".join(parts)
