"""Jobs that a run has given to other systems and that are at work though its process is gone."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from olivine.config import load
from olivine.errors import ConfigError, OlivineError, RequestError
from olivine.systems import System
from olivine.workflow.detached import Detached
from olivine.workflow.events import RunStarted, Submitted
from olivine.workflow.hosts import Hosts, here
from olivine.workflow.journal import read_journal

_CLOCKS_SECONDS = 1.0  # that the start of a process and the time of day may be apart


def end_left_behind(run: Detached) -> list[str]:
    """End what a lost run has at work elsewhere; gives of each "SYSTEM: JOB", as the system calls it.

    Raises RequestError when the config of the run does not lead to its systems any more, and OlivineError when one of
    them cannot be reached.
    """
    submitted = list(_submitted(run))
    ended = list[str]()
    for name in dict.fromkeys(event.host for event in submitted if event.host is not None):
        system = _system(run, name)
        titles = dict.fromkeys(event.title for event in submitted if event.host == name)
        try:
            ended += [f"{name}: {job}" for title in titles if (job := system.end_job(title)) is not None]
        except OlivineError as error:
            raise OlivineError(
                f"the system '{name}' cannot be asked to end what {run.identity} has at work there: {error}"
            ) from None
    return ended


def _submitted(run: Detached) -> Iterator[Submitted]:
    """The jobs that it has given away, as its journal has them."""
    folder = Path(run.folder, run.output_dir)
    events = read_journal(folder) if (folder / "journal.jsonl").is_file() else []
    starts = [event for event in events if isinstance(event, RunStarted)]
    own = next((one.run for one in starts if one.time >= run.born - _CLOCKS_SECONDS), None)
    return (event for event in events if isinstance(event, Submitted) and event.run == own)


def _system(run: Detached, name: str) -> System:
    """A system of the run's config."""
    config, overrides = _config_of(run.command)
    try:
        loaded = load(Path(run.folder, config), overrides)
    except ConfigError as error:
        raise RequestError(f"the config of {run.identity} cannot be read any more: {error}") from None
    hosts = Hosts(loaded, loaded.workflow, here(None)) if loaded.workflow is not None else None
    system = hosts.system(name) if hosts is not None else None
    if system is not None:
        return system
    why = next((f": {problem}" for problem in (hosts.problems if hosts is not None else loaded.problems)), "")
    raise RequestError(f"the config of {run.identity} does not lead to its system '{name}' any more{why}")


def _config_of(command: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The file that a command line of a detached run names, and what it sets."""
    pairs = list(pairwise(command))
    return dict(pairs)["--config"], tuple(value for option, value in pairs if option == "--set")
