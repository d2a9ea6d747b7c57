"""What is handed over beside a model: the report, a model card, a script that runs the model, its numbers.

A file that a user has put there, or changed, stays as it is: `.handed-over.json` knows what was written. A run in which
no step had to work leaves the files of the run that made the same result, and draws nothing.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import __version__
from olivine.errors import RequestError
from olivine.models.json_files import read_object
from olivine.models.speech import hears, prompt_of, spelled
from olivine.report import REPORT, last_run, write_report
from olivine.workflow.deliver import alone_in, write_text, write_whole
from olivine.workflow.events import (
    Delivered,
    Event,
    Listener,
    RunDone,
    RunStarted,
    Sampled,
    Scored,
    SearchStarted,
    StepDone,
    StepFailed,
    StepStarted,
    Timed,
)

if TYPE_CHECKING:
    from olivine.report.run import Run

CARD, SCRIPT, METRICS = "README.md", "run.py", "metrics.json"
RECORD = ".handed-over.json"


@contextmanager
def handing_over(output_dir: Path, listen: Listener, warn: Callable[[str], None]) -> Iterator[Listener]:
    """A listener for a run, that passes on to `listen`; when the run ends, however it does, `hand_over` follows.

    A run that has not begun, as its request was wrong, leaves nothing.
    """
    heard: list[Event] = []

    def tell(event: Event) -> None:
        if event.is_kept and (heard or isinstance(event, RunStarted)):
            heard.append(event)
        listen(event)

    try:
        yield tell
    finally:
        if heard:
            hand_over(output_dir, warn, heard)


def hand_over(output_dir: Path, warn: Callable[[str], None], heard: Sequence[Event] = ()) -> None:
    """Write the report of the last run of an output folder, and beside a model that it delivered all that goes with it.

    warn: told what could not be written, and why; the run is what it is without it. heard: the events of that run;
    where they tell that no step worked, and what is written tells of the same result, it stays as it is.
    """
    result = _result(heard)
    if result and not _has_worked(heard) and _read(output_dir).tells_of(result, output_dir):
        return
    try:
        with alone_in(output_dir):
            run = last_run(output_dir)
            drawn = _try(lambda: write_report([run], output_dir / REPORT), warn, "the report is not written")
            of = result if drawn else ""
            if run.done is not None and run.done.model is not None:
                _try(lambda: _hand_over(run, output_dir, warn, of), warn, "what goes with the model is not written")
    except RequestError as error:
        warn(str(error))
    except OSError as error:  # no room, or no right, for a lock
        warn(f"the report is not written: {error.strerror or error}: {error.filename}")


def _has_worked(heard: Iterable[Event]) -> bool:
    """Whether anything but looking into the cache was done in a run. The times of a search's trials are its own."""
    return any(isinstance(event, (StepStarted, StepFailed, SearchStarted)) for event in heard)


def _result(heard: Sequence[Event]) -> str:
    """A digest of what was asked for and what came of it, the same whether steps worked or were cached.

    Empty where the run did not come to its end.
    """
    if not any(isinstance(event, RunDone) for event in heard):
        return ""
    told = sorted(json.dumps(part, sort_keys=True, default=str) for event in heard if (part := _part(event)))
    return _digest("\n".join([__version__, *told]))


def _part(event: Event) -> Any:
    """What of an event belongs to the result, without what another run of the same says otherwise."""
    match event:
        case RunStarted():
            return [event.workflow, event.versions, event.hosts, event.translated]
        case StepDone(step=step) if event.pass_name is not None and step != "prove":
            return [step, event.key]
        case RunDone():
            return [event.status, event.model, event.output_dir, event.scores, event.missed, event.measured]
        case Scored() | Sampled() | Timed() | Delivered():
            return {key: value for key, value in event.to_json().items() if key not in ("run", "time")}
        case _:
            return None


def _try(write: Callable[[], None], warn: Callable[[str], None], fault: str) -> bool:
    """Whether it could be written."""
    try:
        write()
    except RequestError as error:
        warn(str(error))
    except OSError as error:
        warn(f"{fault}: {error.strerror or error}: {error.filename}")
    else:
        return True
    return False


def _hand_over(run: "Run", output_dir: Path, warn: Callable[[str], None], result: str) -> None:
    before, digest = _read(output_dir), _digest(json.dumps(_told(run), sort_keys=True))
    report = _digest_of(output_dir / REPORT)
    if before.of == digest and all(before.has(output_dir / name) for name in before.files):
        # the card of the same run needs no library to be written again
        write_whole(output_dir / RECORD, before.to_json() | {"result": result, "report": report})
        return
    fresh = dict(_files(run, output_dir))
    kept = [name for name in fresh if (output_dir / name).exists() and not before.has(output_dir / name)]
    for name in kept:
        warn(f"'{output_dir / name}' is not as olivine wrote it, and stays as it is; remove it to get a new one")
    texts = {name: text for name, text in fresh.items() if name not in kept}
    # before anything is written: a run that is killed meanwhile must not take its own files for the user's
    both = {name: [*before.files.get(name, ()), _digest(text)] for name, text in texts.items()}
    write_whole(output_dir / RECORD, {"of": "", "files": {**before.files, **both}})
    for name, text in texts.items():
        write_text(output_dir / name, text)
    written = {**before.files, **{name: [_digest(text)] for name, text in texts.items()}}
    known = {} if kept else {"result": result, "report": report}
    write_whole(output_dir / RECORD, {"of": "" if kept else digest, "files": written, **known})


def _told(run: "Run") -> dict[str, Any]:
    """The numbers of a run, for machines; what decides all files but the report."""
    done = run.done
    scores = [dict(row) for row in run.scores]
    steps = [
        {
            "step": step.step,
            "pass": step.pass_name,
            "seconds": step.seconds,
            "peak_memory_bytes": step.peak_memory_bytes,
        }
        for step in run.passes
    ]
    return {
        "status": run.status,
        "model": "model",
        "base": run.delivered.base if run.delivered is not None else None,
        "licence": run.delivered.licence if run.delivered is not None else None,
        "scores": scores,
        "measured": list(done.measured) if done is not None else [],
        "missed": list(done.missed) if done is not None else [],
        "search": done.search if done is not None else None,
        "steps": steps,
        "versions": dict(run.started.versions) | {"olivine": __version__},
    }


def _files(run: "Run", output_dir: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each file."""
    from olivine.report.card import model_card
    from olivine.report.html import rendered

    model = output_dir / "model"
    format_of_result = _format(model)
    yield METRICS, json.dumps(_told(run), indent=2, ensure_ascii=False) + "\n"
    yield CARD, model_card(run, "whisper" if format_of_result == "genai" and hears(model) else format_of_result)
    if format_of_result == "genai" and hears(model):
        prompt = spelled(model, prompt_of(model).tokens)
        yield SCRIPT, f"{rendered('transcribe.py.txt', prompt=json.dumps(prompt))}\n"
    elif format_of_result == "genai":
        yield SCRIPT, f"{rendered('run.py.txt', is_chat=_is_chat(run, model))}\n"


def names_base(adapter: Path) -> bool:
    """Whether an adapter says of which model it is, by which PEFT loads both."""
    return bool(read_object(adapter / "adapter_config.json").get("base_model_name_or_path"))


def _format(model: Path) -> str:
    if (model / "genai_config.json").is_file():
        return "genai"
    if (model / "adapter_config.json").is_file():
        return "adapter" if names_base(model) else "bare adapter"
    if any(model.glob("*.onnx")):
        return "onnx"
    return "openvino" if any(model.glob("*.xml")) else "hf"


def _is_chat(run: "Run", model: Path) -> bool:
    """Whether the model is asked in a chat: it has a template, and its rows were not other text."""
    if any(_is_text(step.params.get("data")) for step in run.steps if step.step.startswith("score:")):
        return False
    if (model / "chat_template.jinja").is_file():
        return True
    try:
        config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, Mapping) and bool(config.get("chat_template"))


def _is_text(config: Any) -> bool:
    form = config.get("pre_process_data_config") if isinstance(config, Mapping) else None
    return isinstance(form, Mapping) and form.get("text_template") is not None and not form.get("chat_template")


@dataclass(frozen=True)
class _Record:
    """What was written before.

    of: digest of what it tells of. files: the digests that a file of ours may have. result: see `_result`; empty where
    it is not known. report: digest of the report of that result.
    """

    of: str = ""
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    result: str = ""
    report: str = ""

    def has(self, path: Path) -> bool:
        """Whether a file is there as it was written."""
        return _digest_of(path) in self.files.get(path.name, ())

    def tells_of(self, result: str, output_dir: Path) -> bool:
        """Whether all that was written, the report too, tells of a result and is there as it was written."""
        if self.result != result or not self.of or _digest_of(output_dir / REPORT) != self.report:
            return False
        return all(self.has(output_dir / name) for name in self.files)

    def to_json(self) -> dict[str, Any]:
        """The record as it is written."""
        return {"of": self.of, "files": self.files, "result": self.result, "report": self.report}


def _read(output_dir: Path) -> _Record:
    try:
        record = json.loads((output_dir / RECORD).read_text(encoding="utf-8"))
        files = {str(name): [str(digest) for digest in digests] for name, digests in record["files"].items()}
        return _Record(str(record["of"]), files, str(record.get("result", "")), str(record.get("report", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _Record()  # nothing is known to be ours, so nothing will be written over


def _digest_of(path: Path) -> str:
    """Digest of a file of text; that of nothing where it cannot be read."""
    try:
        return _digest(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()
