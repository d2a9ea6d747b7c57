"""The systems of a config where something runs: each is made of its settings, and asked once what it has."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from pydantic import ValidationError

from olivine import __version__, lazy
from olivine.config import Loaded, explain_params
from olivine.config.schema import System as SystemConfig
from olivine.config.schema import Workflow, provider_device
from olivine.errors import OlivineError, Problem, RequestError
from olivine.systems import CPU, CUDA, Probe, System, SystemParams, systems
from olivine.systems.local import Local
from olivine.workflow.accelerators import LOCAL, name_of
from olivine.workflow.steps import Host


class Hosts:
    """The hosts of a workflow by the names of its systems; every one that is this machine is the same.

    here: this machine, or what stands for it. asked: what was found out before, by name. problems: of systems that
    cannot be made, or asked; such a one has what this machine has, so that a plan can go on to look for more. notes:
    what should be known of the others.
    """

    def __init__(
        self, loaded: Loaded, workflow: Workflow, here: Host, asked: Mapping[str | None, Host] | None = None
    ) -> None:
        self._loaded, self._workflow, self._here = loaded, workflow, here
        self._asked = asked or {}
        self._by_name: dict[str | None, Host] = {}
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    @property
    def used(self) -> dict[str | None, Host]:
        """Those that were asked for, by name; None is this machine."""
        return {None: self._here, **self._by_name}

    def in_role(self, role: str) -> Host:
        """The system of the role `host` or `target`; this machine where none is named."""
        return self.of(name_of(self._workflow, role))

    def of(self, name: str | None) -> Host:
        """The system of that name."""
        config = self._workflow.systems.get(name) if name is not None else None
        if name is None or config is None or config.type == LOCAL:  # one that is not defined is told elsewhere
            return self._here
        if name not in self._by_name:
            self._by_name[name] = self._ask(name, config)
        return self._by_name[name]

    def system(self, name: str) -> System | None:
        """The system of that name, of which nothing is asked; None, and a problem, where there can be none."""
        config = self._workflow.systems.get(name)
        return self._made(name, config) if config is not None else None

    def _ask(self, name: str, config: SystemConfig) -> Host:
        before, stand_in = self._asked.get(name), replace(self._here, name=name)
        if before is not None and before.is_known:
            return before
        system = before.system if before is not None else self._made(name, config)
        if system is None:
            return stand_in
        system.n_gpus = _n_gpus(config)
        try:
            is_prepared = system.is_prepared()
        except OlivineError as error:
            self._unreached(name, error)
            return replace(stand_in, system=system)
        if not is_prepared:
            self.notes.append(f"the system '{name}' is made before the first step; what it has is not known until then")
            return Host(name, system, self._here.probe, is_known=False)
        return self._probed(name, config, system) or replace(stand_in, system=system)

    def _probed(self, name: str, config: SystemConfig, system: System) -> Host | None:
        """What a system says of itself; None, and told, where it says nothing."""
        try:
            host = Host(name, system, system.probe())
        except OlivineError as error:
            if isinstance(error, RequestError) and self._is_aim(name, config):
                self.notes.append(f"the target '{name}' is not here ({error}): results are measured on this machine")
                return self._here
            self._unreached(name, error)
            return None
        self.problems += [replace(one, where=self._where(name)) for one in _unfit(host)]
        return host

    def _is_aim(self, name: str, config: SystemConfig) -> bool:
        """Whether a system only says what results are for: providers on which no pass of ours runs, of a target."""
        hosts = {self._workflow.host, *(one.host for one in self._workflow.passes.values())}
        providers = [one for accelerator in config.accelerators for one in accelerator.execution_providers]
        return (
            name == self._workflow.target and name not in hosts and bool(providers) and not {CPU, CUDA} & {*providers}
        )

    def _made(self, name: str, config: SystemConfig) -> System | None:
        from olivine.azureml import client_of

        plugin = systems.find(config.type)
        if plugin is None:
            why = systems.why_missing(config.type)
            message = f"system '{name}' is of type {config.type}, where nothing can be run{f': {why}' if why else ''}."
            fix = f"There are: {', '.join(_types())}."
            self._problem(name, "unsupported", message, fix, "type")
            return None
        for module, extra in plugin.modules.items():
            if not lazy.installed(module):
                self._problem(name, "missing-extra", f"{lazy.missing_sentence(module, extra)}.", "", "type")
                return None
        try:
            context = {"folder": self._loaded.document.folder, "azureml_client": client_of(self._workflow)}
            return plugin(plugin.Params.model_validate(dict(config.config), context=context))
        except ValidationError as error:
            offered = [*plugin.Params.model_fields, *(key for key in SystemConfig.model_fields if key != "config")]
            told = explain_params(self._loaded.document, ("systems", name), error, offered)
            self.problems += [one for one in told if not _is_told(one, self._loaded)]
        except RequestError as error:
            self._problem(name, error.kind, f"system '{name}': {error}.", "")
        return None

    def _unreached(self, name: str, error: OlivineError) -> None:
        if isinstance(error, RequestError):  # it says itself what is wrong, and what to do
            self._problem(name, error.kind, f"system '{name}': {error}.", "")
        else:
            told = f"the system '{name}' gives no answer: {error}"
            self._problem(name, "network", told if told.endswith("?") else f"{told}.", "Or name another host.")

    def _problem(self, name: str, kind: str, message: str, fix: str, *key: str) -> None:
        self.problems.append(Problem(kind, self._where(name, *key), message, fix))  # type: ignore[arg-type]

    def _where(self, name: str, *key: str) -> str:
        return self._loaded.document.where(("systems", name, *key))


def here(probe: Probe | None) -> Host:
    """The host that is this machine. probe: what it has, where that is known."""
    local = Local(SystemParams())
    return Host(None, local, probe or local.probe())


def _n_gpus(config: SystemConfig) -> int:
    """How many GPUs a system is asked for."""
    asked = next(iter(config.accelerators), None)
    providers = asked.execution_providers if asked is not None else []
    device = (asked.device or (provider_device(providers[0]) if providers else "cpu")) if asked is not None else "cpu"
    return asked.devices if asked is not None and device == "gpu" else 0


def _unfit(host: Host) -> Iterator[Problem]:
    """Why nothing can be run on a host that gives an answer."""
    if host.probe.olivine != __version__:
        message = f"{host} has olivine {host.probe.olivine}, but this is {__version__}."
        yield Problem("missing-extra", "", message, f"Install olivine {__version__} there.")


def _types() -> list[str]:
    """Every kind of system, as a config writes it."""
    return [plugin.aliases[0] if plugin.aliases else name for name, plugin in systems.classes.items()]


def _is_told(problem: Problem, loaded: Loaded) -> bool:
    """Whether the check of the config alone has said it."""
    return any(other.where == problem.where and other.kind == problem.kind for other in loaded.problems)
