"""A plan in the making: what is known so far, and what is wrong."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olivine.config import Loaded
from olivine.config.schema import InputModel, Workflow
from olivine.errors import Problem
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.work import Machine
from olivine.workflow.chain import Chain
from olivine.workflow.resources import Remote
from olivine.workflow.steps import Host, Step

N_SHOWN = 200  # characters of a name in a message


@dataclass
class Draft:
    """A plan in the making.

    facts, model: of the input; None where they are not known. template: the text of the model's chat template, empty
    where it has none, None where that is not known. unusable: keys of folders that nothing can be written to.
    machine: of the workflow's host. hosts: by the names of systems, each with the machine that the config asks for
    there; None is the workflow's host. remotes: what the config names elsewhere and has not come. has_model: the model
    is none that lies elsewhere and cannot be found, which is told. part: where, below input_model, the part stands of
    which this is a draft by itself.
    """

    loaded: Loaded
    workflow: Workflow
    machine: Machine
    scratch: Path
    problems: list[Problem] = field(default_factory=list)
    translated: list[str] = field(default_factory=list)
    facts: ModelFacts | None = None
    model: Model | None = None
    hub_name: str | None = None
    download_bytes: int = 0
    remotes: tuple[Remote, ...] = ()
    has_model: bool = True
    template: str | None = None
    unusable: set[str] = field(default_factory=set)
    hosts: dict[str | None, tuple[Host, Machine]] = field(default_factory=dict)
    part: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        self.chain = Chain(self.machine, None, None)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps so far."""
        return self.chain.steps

    def of_part(self, part: InputModel, *path: str | int) -> "Draft":
        """A draft of a part of the input model, which is planned as if it were the model. path: below input_model."""
        workflow = self.workflow.model_copy(update={"input_model": part})
        return Draft(self.loaded, workflow, self.machine, self.scratch, hosts=self.hosts, part=path)

    def where(self, *path: str | int) -> str:
        """File and line of a key of the config; keys of input_model are those of the part that this is about."""
        if self.part and path[:1] == ("input_model",):
            path = ("input_model", *self.part, *path[1:])
        return self.loaded.document.where(path)

    def problem(self, kind: Any, path: tuple[str | int, ...], message: str, fix: str = "") -> None:
        """Note what is wrong with a key of the config."""
        self.problems.append(Problem(kind, self.where(*path), message, fix))


def short(name: str) -> str:
    """A name as a message shows it."""
    return name if len(name) <= N_SHOWN else f"{name[:N_SHOWN]}..."
