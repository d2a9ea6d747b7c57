"""Every error that olivine raises on purpose, and the problems that `plan` reports.

    OlivineError
    ├── RequestError            the request was wrong: exit 2, one sentence, no traceback
    │   ├── ConfigError         the config cannot be read or does not hold; carries every Problem at once
    │   ├── DataError           a data file or row is wrong: file:line and field
    │   ├── ModelError          a model folder or file is wrong, incomplete or refused
    │   ├── Unsupported         a legal wish that this pass, model or machine does not serve
    │   └── MissingExtra        a package is missing: the install command
    ├── StepFailed              a step failed or its worker died: exit 1, step, cause, log
    ├── GoalMissed              the model exists but misses a goal of the config: exit 1
    └── Interrupted             Ctrl-C: exit 130; SIGTERM 143, SIGHUP 129

A signal that ends the process is raised as Stopped, a KeyboardInterrupt, and becomes Interrupted where a run ends.

Anything else that escapes is a bug and keeps its traceback.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self, get_args

ProblemKind = Literal[
    "unknown-key",
    "unknown-pass",
    "invalid-value",
    "unsupported",
    "missing-file",
    "missing-model",
    "missing-data",
    "missing-extra",
    "hardware",
    "network",
]
PROBLEM_KINDS: tuple[str, ...] = get_args(ProblemKind)


def sentence(message: object) -> str:
    """The message with a mark at its end, so that another sentence can follow."""
    text = str(message)
    return text if text.endswith((".", "?", "!")) else f"{text}."


STILL_AT_WORK = ", and is still at work"  # how a cause ends that leaves its process busy


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that keeps a workflow from running.

    kind: tells a program a wrong config from a right one on the wrong machine.
    where: "olive-config.json:12", a path, or the name of a step.
    message: one sentence with the offending value.
    fix: what to do, in one sentence; may be empty where the message says it.
    key: which key of the section that was checked it is about, e.g. ("training_args", "optim") of a pass; set by who
    finds the problem, and turned into `where` by who knows the file. Empty for the section as a whole.
    """

    kind: ProblemKind
    where: str
    message: str
    fix: str = ""
    key: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        message = sentence(self.message) if self.fix else self.message
        text = f"{self.where}: {message}" if self.where else message
        return f"{text} {self.fix}" if self.fix else text

    def to_json(self) -> dict[str, str]:
        """The four fields as `plan --json` prints them."""
        fields = asdict(self)
        del fields["key"]  # `where` says it in the user's own terms
        return fields


class OlivineError(Exception):
    """The root: something that olivine can explain in a sentence."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it in a notebook: the sentence, without the lines of our code."""
        return [f"{type(self).__name__}: {self}"]


class RequestError(OlivineError):
    """The request was wrong; nothing was started and nothing was written."""

    exit_code = 2
    kind: ProblemKind = "invalid-value"

    def problems(self, where: str = "") -> list[Problem]:
        """The same as problems of a plan."""
        return [Problem(self.kind, where, str(self))]


class ConfigError(RequestError):
    """The config does not hold. Carries every problem found, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self._problems))

    def problems(self, where: str = "") -> list[Problem]:  # noqa: ARG002 - every problem already says where
        """Every problem found, each with its own place."""
        return list(self._problems)


class DataError(RequestError):
    """A data file or a row of it is wrong; the message names file, line and field."""

    kind: ProblemKind = "missing-data"


class ModelError(RequestError):
    """A model is missing, incomplete, damaged or refused; the message names the file or tensor."""

    kind: ProblemKind = "missing-model"


class Unsupported(RequestError):  # noqa: N818 - reads as a sentence: raise Unsupported("gptq needs ...")
    """A legal wish that this pass, model or machine does not serve; the message says what would."""

    kind: ProblemKind = "unsupported"


class MissingExtra(RequestError):  # noqa: N818 - as above
    """A package is not installed; the message holds the install command."""

    kind: ProblemKind = "missing-extra"


class StepFailed(OlivineError):  # noqa: N818 - as above
    """A step failed or its worker died.

    step: name of the step in the workflow. log: the worker's log, with everything the libraries printed. is_refused:
    the worker refused what was asked of it, with a RequestError. is_lost: other nodes that did it, too, went away.
    Exit code 1, whatever the cause: 2 says that nothing was started.
    """

    def __init__(
        self,
        step: str,
        cause: str,
        log: Path | None = None,
        *,
        tail: str = "",
        is_refused: bool = False,
        is_lost: bool = False,
    ) -> None:
        self.step, self.cause, self.log, self.tail = step, cause, log, tail
        self.is_refused, self.is_lost = is_refused, is_lost
        text = f"step '{step}' failed: {cause}"
        super().__init__(f"{text} (log: {log})" if log else text)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.step, self.cause, self.log))


class GoalMissed(OlivineError):  # noqa: N818 - as above
    """The artifacts exist and stay, but a goal of the config does not hold; the message names the seam and numbers.

    result: what the run gave all the same (an olivine.workflow.engine.Result).
    """

    result: object = None


class Stopped(KeyboardInterrupt):
    """The process was asked to end by a signal (a stopped container, a closed terminal): handled wherever Ctrl-C is."""

    def __init__(self, signal_name: str, exit_code: int) -> None:
        self.signal_name, self.exit_code = signal_name, exit_code
        super().__init__(signal_name)


class Interrupted(OlivineError):  # noqa: N818 - as above
    """The user pressed Ctrl-C, or a signal ended the run; finished steps stay cached, the next run goes on from there.

    exit_code: 130, or 128 and the number of the signal.
    """

    exit_code = 130

    @classmethod
    def by(cls, stop: KeyboardInterrupt, where: str = "") -> Self:
        """The interruption by Ctrl-C or a signal; where: " in step 'lora'"."""
        error = cls(f"ended by {stop.signal_name}{where}" if isinstance(stop, Stopped) else f"interrupted{where}")
        error.exit_code = stop.exit_code if isinstance(stop, Stopped) else cls.exit_code
        return error
