"""The model card of a result: README.md as the Hugging Face hub reads it, drawn from the events of the run."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from olivine import __version__
from olivine.report.run import Run
from olivine.report.values import plain
from olivine.workflow.columns import note_on, score_table, table_notes
from olivine.workflow.units import readable_bytes

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# of the hub's identifiers of licences those that are likely; any other is "other", with its name
_LICENCES = re.compile(
    r"apache-2\.0|mit|(bigscience-)?openrail(-m)?|bsd-3-clause|cc-by(-nc|-sa)?-4\.0|cc0-1\.0|[al]?gpl-3\.0|mpl-2\.0|"
    r"unlicense|gemma|llama[2-4](\.[1-3])?|other"
)
_METRICS = (
    ("accuracy", "label_accuracy", "label accuracy"),
    ("loss", "loss", "loss in nats a token"),
    ("kl_divergence", "kl", "KL divergence from the model before"),
)


ASKED = {"genai": "'What do you know?'", "whisper": "SOUND.wav"}
"""What `run.py` is given, by the format of the models that it lies beside."""


def model_card(run: Run, format_of_result: str) -> str:
    """The card of what a run delivers.

    format_of_result: "genai", "whisper", "onnx", "openvino", "hf", "adapter", or "bare adapter" for one that names no
    base.
    """
    return f"---\n{_metadata(run, format_of_result)}\n---\n\n{_text(run, format_of_result)}"


def base_on_hub(run: Run) -> str | None:
    """The name of the base on the hub; None where it is a path or lies elsewhere."""
    base = run.delivered.base if run.delivered is not None else None
    return base if base is not None and _HUB_NAME.fullmatch(base) else None


def _metadata(run: Run, format_of_result: str) -> str:
    """The front matter; what is not known is left out."""
    from huggingface_hub import ModelCardData

    base, licence = base_on_hub(run), run.delivered.licence if run.delivered is not None else None
    known = licence is not None and _LICENCES.fullmatch(licence) is not None
    runtime = dict.fromkeys(ASKED, "onnxruntime-genai")
    graphs = {"onnx": "onnxruntime", "openvino": "openvino"}
    libraries = {**runtime, **graphs, "hf": "transformers", "adapter": "peft", "bare adapter": "peft"}
    writes_text = any("loss" in row for row in run.scores)
    data = ModelCardData(
        base_model=base,
        base_model_relation=_relation(run, format_of_result) if base else None,
        license=None if licence is None else licence if known else "other",
        license_name=None if known else licence,
        library_name=libraries[format_of_result],
        pipeline_tag="automatic-speech-recognition"
        if format_of_result == "whisper"
        else "text-generation"
        if writes_text
        else None,
        datasets=sorted(set(_hub_data(run))) or None,
        tags=["olivine", *(["onnx"] if format_of_result in (*ASKED, "onnx") else [])],
        model_name=name_of(run),
        eval_results=_eval_results(run) or None,
    )
    text: str = data.to_yaml()
    return text.strip()


def name_of(run: Run) -> str:
    """What the model is called: as its output folder is."""
    return run.output_dir.resolve().name or "model"


def _relation(run: Run, format_of_result: str) -> str:
    if format_of_result.endswith("adapter"):
        return "adapter"
    return "finetune" if _trained(run) else "quantized"


def _trained(run: Run) -> list[str]:
    """The steps that trained."""
    return [step.step for step in run.passes if "loss_curve" in step.facts]


def _scored_data(run: Run) -> str:
    """The data config whose rows were scored."""
    configs = (event.params.get("data") for event in run.steps if event.step.startswith("score:"))
    named = next((config.get("name") for config in configs if isinstance(config, Mapping)), None)
    return str(named or "rows")


def _hub_data(run: Run) -> Iterator[str]:
    """Names of data sets on the hub that the config names."""
    for config in run.started.workflow.get("data_configs") or ():
        load = config.get("load_dataset_config") if isinstance(config, Mapping) else None
        name = load.get("data_name") if isinstance(load, Mapping) else None
        if isinstance(name, str) and _HUB_NAME.fullmatch(name):
            yield name


def _eval_results(run: Run) -> list[Any]:
    """A result for each number of each model, the delivered one first: the hub shows those at the top."""
    from huggingface_hub import EvalResult

    data = _scored_data(run)
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=data,
            dataset_name=f"{data} ({run.rows_in_words})",
            metric_type=kind,
            metric_name=f"{name}, {row['model']}",
            metric_value=round(row[key], 6),
        )
        for row in reversed(run.scores)
        for kind, key, name in _METRICS
        if isinstance(row.get(key), float)
    ]


def _text(run: Run, format_of_result: str) -> str:
    parts = [f"# {name_of(run)}", _opening(run), "## Use", *_use(format_of_result), *_results(run), *_making(run)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(run: Run) -> str:
    base = run.delivered.base if run.delivered is not None else None
    hub = base_on_hub(run)
    named = f"[{hub}](https://huggingface.co/{hub})" if hub else f"`{base}`" if base else "a model of its user"
    steps = ", ".join(f"{step.pass_name}" for step in run.passes)
    licence = run.delivered.licence if run.delivered is not None else None
    of_licence = f" The licence of the base is {licence}." if licence else " The files of the base name no licence."
    return f"Made from {named} by olivine {__version__}: {steps}.{of_licence}"


def _use(format_of_result: str) -> Iterator[str]:
    if format_of_result in ASKED:
        yield "`run.py` needs onnxruntime-genai and nothing else:"
        yield f"```sh\npip install onnxruntime-genai\npython run.py {ASKED[format_of_result]}\n```"
        return
    calls = {
        "onnx": 'onnxruntime.InferenceSession("model/model.onnx")',
        "openvino": 'openvino.Core().compile_model("model/ov_model.xml")',
        "hf": 'transformers.AutoModelForCausalLM.from_pretrained("model")',
        "adapter": 'peft.AutoPeftModelForCausalLM.from_pretrained("model")',
        "bare adapter": 'peft.PeftModel.from_pretrained(base, "model")',
    }
    if format_of_result == "bare adapter":
        yield "The adapter names no base that PEFT finds: load the model that it was trained on as `base` first."
    yield f"The model lies in `model/`: `{calls[format_of_result]}`."


def _results(run: Run) -> Iterator[str]:
    if not run.scores:
        return
    yield "## Results"
    yield f"Every model on the way on the same {run.rows_in_words}:"
    yield "\n".join(score_table(run.scores))
    notes = [note_on(run.scores) if len(run.scores) > 1 else "", *table_notes(run.scores)]
    yield "\n\n".join(filter(None, notes))
    if run.done is not None and run.done.missed:
        yield "Goals that it misses:\n\n" + _list(run.done.missed)
    if sentences := [f"{event.step}: {event.message}" if event.step else event.message for event in run.warnings]:
        yield "What to look at:\n\n" + _list(sentences)


def _list(lines: Sequence[str]) -> str:
    """Sentences as Markdown, in which they are text: what they quote of data is no markup."""
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def _making(run: Run) -> Iterator[str]:
    """Method, data, cost."""
    yield "## How it was made"
    lines = []
    for step in run.passes:
        counts = step.facts.get("data")
        rows = f" on {counts['n_rows']:,} rows" if isinstance(counts, Mapping) and "n_rows" in counts else ""
        trained = step.facts.get("n_trained_parameters")
        of = f", {trained:,} parameters trained" if trained else ""
        peak = f", peak memory {readable_bytes(step.peak_memory_bytes)}" if step.peak_memory_bytes else ""
        lines.append(f"- **{step.step}** ({step.pass_name}){rows}{of}: {step.seconds:,.1f} s{peak}")
    yield "\n".join(lines)
    names = ", ".join(f"{name} {version}" for name, version in run.started.versions.items() if version != "none")
    yield f"With {names}. `metrics.json` holds the numbers."
    if (search := run.done.search if run.done is not None else None) is not None:
        yield f"Chosen by a search: {plain(search.get('point', {}))}."
