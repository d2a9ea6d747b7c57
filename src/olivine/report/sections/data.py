"""The data card: which rows were read, what became of them, and what is doubtful about them."""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from olivine.report.html import rendered
from olivine.report.run import Run
from olivine.report.section import Section
from olivine.report.values import plain

_READ = ("data_name", "data_files", "data_dir", "subset", "split", "revision")
_FORMED = (
    "text_template",
    "chat_template",
    "prompt_col",
    "answer_col",
    "text_cols",
    "strategy",
    "max_seq_len",
    "train_on",
)
_COUNTS = (
    ("n_rows", "rows"),
    ("n_samples", "samples"),
    ("n_tokens", "tokens"),
    ("n_trained_tokens", "trained tokens"),
    ("n_truncated", "cut"),
    ("n_dropped", "dropped"),
    ("n_empty_rows", "empty rows"),
)


class Data(Section):
    """A block for each data config, and the rows of each training step."""

    title = "Data"
    place = 85

    def draw(self, run: Run) -> Markup | None:
        """Sources and forms, counts, warnings."""
        configs = [_config(one) for one in _data_configs(run)]
        counts = list(_counts(run))
        if not configs and not counts:
            return None
        doubts = [event.message for event in run.warnings if event.step == "data" or event.step.startswith("rows:")]
        return rendered(
            "data.html", configs=configs, counts=counts, titles=[title for _, title in _COUNTS], doubts=doubts
        )


def _data_configs(run: Run) -> Iterator[Mapping[str, Any]]:
    given = run.started.workflow.get("data_configs") or []
    if isinstance(given, Mapping):
        given = [{"name": name, **one} for name, one in given.items() if isinstance(one, Mapping)]
    yield from (one for one in given if isinstance(one, Mapping))


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    load, form = (config.get(key) or {} for key in ("load_dataset_config", "pre_process_data_config"))
    told = [(name, plain(load[name])) for name in _READ if load.get(name) is not None]
    told += [(name, plain(form[name])) for name in _FORMED if form.get(name) is not None]
    return {"name": str(config.get("name", "")), "told": told}


def _counts(run: Run) -> Iterator[tuple[str, list[str]]]:
    """What became of the rows of each step that trains."""
    for step in run.passes:
        for key, what in (("data", "trained on"), ("eval_data", "held out")):
            if record := step.facts.get(key):
                yield f"{step.step}, {what}", [f"{record[name]:,}" if name in record else "" for name, _ in _COUNTS]
