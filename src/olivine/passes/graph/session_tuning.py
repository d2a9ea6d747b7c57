"""Find the settings of an onnxruntime session that run a graph fastest."""

import itertools
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from olivine.config.schema import DataConfig
from olivine.errors import ModelError
from olivine.exporting.graph_files import open_graph
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.onnx_files import SESSION_FILE, graph_of
from olivine.passes.graph._graph import Counts, GraphPass, SavingParams
from olivine.runtimes.session import OnnxSession
from olivine.work import Context, Machine

if TYPE_CHECKING:
    import onnx_ir as ir

Settings = Mapping[str, Any]
_LEVELS = {"ORT_DISABLE_ALL": 0, "ORT_ENABLE_BASIC": 1, "ORT_ENABLE_EXTENDED": 2, "ORT_ENABLE_ALL": 99}
_MODES = {"ORT_SEQUENTIAL": 0, "ORT_PARALLEL": 1}


class SessionTuning(GraphPass):
    """Find the threads, the optimization level and the provider that run a graph fastest on this machine.

    Settings are timed in turns with onnxruntime's defaults, on rows of the model's inputs; one wins only where its
    median is lower beyond the noise of both. The winner is stored beside the graph and in it (ort_config), and used by
    whatever is measured after it.
    """

    class Params(SavingParams):
        """Names are those of Olive's OrtSessionParamsTuning and OrtPerfTuning."""

        data_config: str | None = Field(None, description="rows to run; else some that are made up")
        providers_list: list[str] | None = Field(None, description="execution providers to try; else the target's")
        execution_mode_list: list[Literal[0, 1]] | None = Field(None, description="0 node by node, 1 branches at once")
        opt_level_list: list[Literal[0, 1, 2, 99]] | None = Field(None, description="optimization levels to try")
        intra_thread_num_list: list[int | None] | None = Field(
            None, description="threads within a node to try; else 1, half of the cores and all"
        )
        inter_thread_num_list: list[int | None] | None = Field(None, description="threads for branches, in mode 1")
        io_bind: bool = Field(False, description="of sessions on a GPU; a CPU has nothing to bind")
        enable_cuda_graph: bool = Field(False, description="of sessions on a GPU; a CPU has none")
        extra_session_config: dict[str, str] | None = Field(None, description="session config entries of all sessions")
        device: str | None = Field(None, description="the target's; it follows from the provider")
        cpu_cores: int | None = Field(None, ge=1, description="threads at most")
        max_settings: int = Field(24, ge=1, description="settings that are timed at most")
        max_seconds: float = Field(60.0, gt=0, description="seconds for all of them")

        @field_validator("execution_mode_list", "opt_level_list", mode="before")
        @classmethod
        def _numbers(cls, value: Any) -> Any:
            values = value if isinstance(value, list | None) else [value]
            known: Mapping[Any, int] = {**_LEVELS, **_MODES}
            return None if values is None else [known.get(one, one) for one in values]

        @field_validator("providers_list", "intra_thread_num_list", "inter_thread_num_list", mode="before")
        @classmethod
        def _one_is_a_list(cls, value: Any) -> Any:
            return [value] if isinstance(value, str | int) else value

    aliases: ClassVar[tuple[str, ...]] = ("OrtSessionParamsTuning", "OrtPerfTuning")
    reads_inputs: ClassVar[bool] = True
    params: Params

    def data_names(self) -> list[str]:
        """The rows that are run, where some are named."""
        return [self.params.data_config] if self.params.data_config is not None else []

    def notes(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[str]:  # noqa: ARG002
        """What has no effect where the graph runs."""
        if machine.execution_provider == "CPUExecutionProvider" and (
            self.params.io_bind or self.params.enable_cuda_graph
        ):
            yield "io_bind and enable_cuda_graph have no effect on a CPU"

    def run(self, model: Model, context: Context) -> Model:
        """Time, choose, and store what was chosen."""
        result = super().run(model, context)
        chosen = {key: value for key, value in self._chosen.items() if value is not None}
        (context.output / SESSION_FILE).write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")
        return result

    def change(self, model: Model, context: Context) -> "tuple[ir.Model, Counts]":
        """The same graph, with what was chosen in its metadata where onnxruntime looks for it."""
        from olivine.evaluate import inputs_of

        config = context.data.get(self.params.data_config) if self.params.data_config else None
        rows = inputs_of(model, config, 4, whole=context.whole, part=context.part)
        timed = self._timed(model, rows, context)
        names = list(timed)
        best = fastest(timed)
        settings = self._settings(context.machine)
        self._chosen = dict(settings[names.index(best)])
        told = {name: round(1000 * statistics.median(seconds), 3) for name, seconds in timed.items()}
        context.report.record(milliseconds=told, chosen=best)
        context.report.note(
            f"fastest of {len(names)} settings: {best} ({told[best]:g} ms; defaults {told[names[0]]:g} ms)"
        )
        graph = open_graph(graph_of(model))
        if best != names[0]:
            graph.metadata_props["ort_config"] = json.dumps({"session_options": _for_runtime(self._chosen)})
        return graph, {"settings timed": len(names)}

    def _timed(self, model: Model, rows: Sequence[Any], context: Context) -> dict[str, list[float]]:
        """Seconds of all rows by the words for each setting, the defaults first."""
        from olivine.evaluate import TimingParams, in_turns, seconds_of

        sessions = {_words(one): self._open(model, one, context) for one in self._settings(context.machine)}
        requests = {
            name: lambda session=session: seconds_of(lambda: [session.run(row) for row in rows])
            for name, session in sessions.items()
            if session is not None
        }
        params = TimingParams(repeat_test_num=10, spread=0.01, max_seconds=self.params.max_seconds)
        return in_turns(requests, lambda seconds: seconds, params)

    def _open(self, model: Model, settings: Settings, context: Context) -> OnnxSession | None:
        """A session with the settings; None, which is told, for a provider that this machine lacks."""
        provider = str(settings.get("provider") or context.machine.execution_provider)
        try:
            return OnnxSession(graph_of(model), provider, settings)
        except ModelError as error:
            if not any(value is not None for value in settings.values()):
                raise
            context.report.warn(f"{_words(settings)} is left out: {error}")
            return None

    def _settings(self, machine: Machine) -> list[Settings]:
        """The defaults, then what is to be tried."""
        params, n_most = self.params, self.params.cpu_cores or machine.n_cores
        threads: list[int | None] = [1, max(1, n_most // 2), n_most]
        if params.intra_thread_num_list is not None:
            threads = params.intra_thread_num_list
        choices: list[Sequence[Any]] = [
            params.providers_list or [None],
            params.execution_mode_list or [None],
            params.opt_level_list or [None],
            [None, *(n for n in threads if n is None or n <= n_most)],
            params.inter_thread_num_list or [None],
        ]
        keys = (
            "provider",
            "execution_mode",
            "graph_optimization_level",
            "intra_op_num_threads",
            "inter_op_num_threads",
        )
        extra: Settings = {"config": params.extra_session_config} if params.extra_session_config else {}
        tried: list[Settings] = [
            {**dict(zip(keys, point, strict=True)), **extra} for point in itertools.product(*choices)
        ]
        unique = {_words(one): one for one in [dict.fromkeys(keys), *tried]}
        return list(unique.values())[: params.max_settings]


def fastest(timed: Mapping[str, Sequence[float]]) -> str:
    """Which setting wins; the first are the defaults, which are beaten only beyond the noise of both.

    That is, by intervals of the medians (95 %) that do not overlap.
    """
    from olivine.evaluate import spread

    names = list(timed)
    medians = {name: statistics.median(seconds) for name, seconds in timed.items()}
    noise = {name: spread(seconds) * medians[name] for name, seconds in timed.items()}
    base = names[0]
    faster = [name for name in names if medians[name] + noise[name] < medians[base] - noise[base]]
    return min(faster, key=lambda name: medians[name], default=base)


def _words(settings: Settings) -> str:
    """Settings for a sentence."""
    told = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None and key != "config")
    return told or ("defaults" if "config" not in settings else "extra_session_config")


def _for_runtime(settings: Settings) -> dict[str, Any]:
    """The settings that a graph itself can hold, as onnxruntime reads them."""
    held = ("execution_mode", "graph_optimization_level", "intra_op_num_threads", "inter_op_num_threads")
    return {key: settings[key] for key in held if settings.get(key) is not None}
