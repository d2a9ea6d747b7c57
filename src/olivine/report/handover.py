"""What is handed over beside a model: the report, a model card, a script that runs the model, its numbers.

A file that a user has put there, or changed, stays as it is: `.handed-over.json` knows what was written.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olivine import __version__
from olivine.errors import RequestError
from olivine.report import REPORT, last_run, write_report
from olivine.report.card import model_card
from olivine.report.html import rendered
from olivine.report.run import Run
from olivine.workflow.deliver import alone_in, write_text, write_whole
from olivine.workflow.events import Event, Listener, RunStarted

CARD, SCRIPT, METRICS = "README.md", "run.py", "metrics.json"
RECORD = ".handed-over.json"


@contextmanager
def handing_over(output_dir: Path, listen: Listener, warn: Callable[[str], None]) -> Iterator[Listener]:
    """A listener for a run, that passes on to `listen`; when the run ends, however it does, `hand_over` follows.

    A run that has not begun, as its request was wrong, leaves nothing.
    """
    begun: list[Event] = []

    def tell(event: Event) -> None:
        if isinstance(event, RunStarted):
            begun.append(event)
        listen(event)

    try:
        yield tell
    finally:
        if begun:
            hand_over(output_dir, warn)


def hand_over(output_dir: Path, warn: Callable[[str], None]) -> None:
    """Write the report of the last run of an output folder, and beside a model that it delivered all that goes with it.

    warn: told what could not be written, and why; the run is what it is without it.
    """
    try:
        run = last_run(output_dir)
        with alone_in(output_dir):
            _try(lambda: write_report([run], output_dir / REPORT), warn, "the report is not written")
            if run.done is not None and run.done.model is not None:
                _try(lambda: _hand_over(run, output_dir, warn), warn, "what goes with the model is not written")
    except RequestError as error:
        warn(str(error))
    except OSError as error:  # no room, or no right, for a lock
        warn(f"the report is not written: {error.strerror or error}: {error.filename}")


def _try(write: Callable[[], None], warn: Callable[[str], None], fault: str) -> None:
    try:
        write()
    except RequestError as error:
        warn(str(error))
    except OSError as error:
        warn(f"{fault}: {error.strerror or error}: {error.filename}")


def _hand_over(run: Run, output_dir: Path, warn: Callable[[str], None]) -> None:
    before, digest = _read(output_dir), _digest(json.dumps(_told(run), sort_keys=True))
    if before.of == digest and all(before.has(output_dir / name) for name in before.files):
        return  # the card of the same run needs no library to be written again
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
    write_whole(output_dir / RECORD, {"of": "" if kept else digest, "files": written})


def _told(run: Run) -> dict[str, Any]:
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


def _files(run: Run, output_dir: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each file."""
    model = output_dir / "model"
    format_of_result = _format(model)
    yield METRICS, json.dumps(_told(run), indent=2, ensure_ascii=False) + "\n"
    yield CARD, model_card(run, format_of_result)
    if format_of_result == "genai":
        yield SCRIPT, f"{rendered('run.py.txt', is_chat=_is_chat(run, model))}\n"


def _format(model: Path) -> str:
    if (model / "genai_config.json").is_file():
        return "genai"
    if (model / "adapter_config.json").is_file():
        return "adapter"
    return "onnx" if any(model.glob("*.onnx")) else "hf"


def _is_chat(run: Run, model: Path) -> bool:
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
    """What was written before. of: digest of what it tells of. files: the digests that a file of ours may have."""

    of: str = ""
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def has(self, path: Path) -> bool:
        """Whether a file is there as it was written."""
        try:
            return _digest(path.read_text(encoding="utf-8")) in self.files.get(path.name, ())
        except (OSError, ValueError):
            return False


def _read(output_dir: Path) -> _Record:
    try:
        record = json.loads((output_dir / RECORD).read_text(encoding="utf-8"))
        files = {str(name): [str(digest) for digest in digests] for name, digests in record["files"].items()}
        return _Record(str(record["of"]), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _Record()  # nothing is known to be ours, so nothing will be written over


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()
