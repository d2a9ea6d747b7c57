"""What one-step commands share: flags of model, output, machine and rows, and how the config that they make is run."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from olivine.cli._common import json_option, json_text, print_json, print_problems, print_refused, say, write_file
from olivine.cli._flags import Flags, config_text
from olivine.cli._rows import in_flags
from olivine.config.nodes import plain

if TYPE_CHECKING:
    from olivine.config import Loaded
    from olivine.workflow.events import Event
    from olivine.workflow.steps import Plan

Command = TypeVar("Command", bound=Callable[..., Any])
SETTINGS: Mapping[str, Any] = {"token_normalize_func": lambda name: name.replace("_", "-")}
"""Of each of these commands: flags are written with hyphens or with underscores."""

ROWS = "rows"  # name of the data config of --data
_SYSTEM = "local"
_MERGE, _ADAPTER = "merge_adapter", "--adapter-path"
_MODEL = (
    ("-t", "--task", ("task",), "What the model is for, by the hub's names; else as its config.json says."),
    ("-a", _ADAPTER, ("adapter_path",), "A PEFT adapter to start with."),
    ("--revision", None, ("load_kwargs", "revision"), "Commit, tag or branch on the hub."),
)


@dataclass(frozen=True)
class Request:
    """What a one-step command was asked for beside its own flags. flags: the config in the making, of that model.

    has_adapter: whether one is named that changes the model. names_machine: whether a device or an execution provider
    is named.
    """

    model: str
    has_adapter: bool
    names_machine: bool
    flags: Flags
    overrides: tuple[str, ...]
    save_config: Path | None
    dry_run: bool
    offline: bool
    as_json: bool

    def merge_adapter(self) -> None:
        """Let the adapter that is named be merged first, for a step that takes a whole model."""
        if self.has_adapter:
            self.flags.put(("passes", _MERGE, "type"), "merge", _ADAPTER)

    def plan(self) -> "Plan":
        """The plan of the config as far as it is made."""
        return self.plan_of(self.flags.loaded(self.overrides))

    def plan_of(self, loaded: "Loaded") -> "Plan":
        """The plan of a config that was read."""
        from olivine.workflow.plan import make_plan

        return make_plan(loaded, offline=self.offline)

    def carry_out(self, told: "Callable[[Event], Iterable[str]] | None" = None, *, tells_config: bool = True) -> int:
        """Plan the config; tell it, or save it; and run it, unless only the plan is wanted. told: as of run_and_show.

        tells_config: whether the config is printed where it is run.
        """
        from olivine.cli.run import run_and_show

        loaded = self.flags.loaded(self.overrides)
        plan = self.plan_of(loaded)
        if not self.as_json:
            self._show(loaded, plan, tells_config=tells_config or self.dry_run)
        if plan.problems:
            problems = [replace(one, fix=in_flags(one.fix)) for one in plan.problems]
            if self.as_json:
                print_refused(problems)
            print_problems(problems)
            return 2
        if self.save_config is not None:
            _save(config_text(loaded, self.save_config.absolute().parent), self.save_config)
        if not self.dry_run:
            return run_and_show(plan, shows="json" if self.as_json else "text", told=told)
        if self.as_json:
            from olivine.workflow.words import to_json

            print_json(to_json(plan) | {"config": plain(loaded.document.root)})
        return 0

    def _show(self, loaded: "Loaded", plan: "Plan", *, tells_config: bool) -> None:
        """The config, unless a file gets it, and what it would do, where that is all that is wanted."""
        from olivine.workflow.words import lines

        if self.save_config is None and tells_config:
            click.echo(json_text(plain(loaded.document.root), indent=2))
        if self.dry_run:
            for line in lines(plan):
                say(line)


def _save(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text)
    say(f"the config is in {path}: olivine run --config {path} repeats this", err=True)


def one_step_options(function: Command) -> Command:
    """Flags of model, output and machine; the command gets them as `request`, a Request."""
    name = function.__module__.rpartition(".")[2]

    @functools.wraps(function)
    def with_request(
        *,
        model: str,
        output: str | None,
        device: str | None,
        provider: str | None,
        trust_remote_code: bool,
        overrides: tuple[str, ...],
        save_config: Path | None,
        dry_run: bool,
        offline: bool,
        as_json: bool,
        **others: Any,
    ) -> Any:
        flags, has_adapter = Flags(name), others.get("adapter_path") is not None
        flags.put(("input_model", "model_path"), model, "--model")
        for short, long, path, _ in _MODEL:
            flag = long or short
            if (value := others.pop(flag[2:].replace("-", "_"))) is not None:
                flags.put(("input_model", *path), value, flag)
        if trust_remote_code:
            flags.put(("input_model", "load_kwargs", "trust_remote_code"), True, "--trust-remote-code")
        put_machine(flags, device, provider)
        flags.put(("passes",), {})
        flags.put(("output_dir",), output, "--output" if output is not None else "")
        is_named = device is not None or provider is not None
        request = Request(model, has_adapter, is_named, flags, overrides, save_config, dry_run, offline, as_json)
        return function(request=request, **others)

    command: Any = json_option(with_request)
    for option in (
        click.option("--offline", is_flag=True, help="Use the network for nothing."),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Set any other key of the config, as olivine run does.",
        ),
        click.option("--dry-run", is_flag=True, help="Show the config and what it would do; run nothing."),
        click.option(
            "--save-config",
            "--save-config-file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Write the config into this file, for olivine run, in place of printing it.",
        ),
        click.option("--trust-remote-code", is_flag=True, help="Let the model bring its own Python code."),
        click.option("--provider", metavar="NAME", help="Execution provider of the result, e.g. CUDA; else the CPU."),
        click.option("--device", metavar="cpu|gpu|npu", help="Where it runs; else what the provider runs on."),
        *(click.option(*filter(None, one[:2]), help=one[3]) for one in reversed(_MODEL)),
        click.option("-o", "--output", "--output-path", help="Folder of the result; else outputs."),
        click.option(
            "-m",
            "--model",
            "--model-name-or-path",
            required=True,
            help="Folder, .gguf or .onnx file, or name on the hub.",
        ),
    ):
        command = option(command)
    return cast("Command", command)


def put_machine(flags: Flags, device: str | None, provider: str | None) -> None:
    """The accelerator that flags ask for, as that of the one system of the config; none where none is."""
    if device is None and provider is None:
        return
    place = ("systems", _SYSTEM)
    flag = "--device" if device is not None else "--provider"
    flags.put((*place, "type"), "LocalSystem", flag)
    accelerator = {"device": device} if device is not None else {}
    providers = {"execution_providers": [provider_name(provider)]} if provider is not None else {}
    flags.put((*place, "accelerators"), [accelerator | providers], flag)
    for role in ("host", "target"):
        flags.put((role,), _SYSTEM)


def provider_name(name: str) -> str:
    """The whole name of an execution provider, which may be given without its last two words and in any case."""
    short = name.lower().removesuffix("executionprovider")
    known = {"cpu": "CPU", "cuda": "CUDA", "dml": "Dml", "directml": "Dml", "webgpu": "WebGpu", "qnn": "QNN"}
    known |= {"openvino": "OpenVINO", "tensorrt": "Tensorrt", "rocm": "ROCM", "vitisai": "VitisAI", "coreml": "CoreML"}
    return f"{known[short]}ExecutionProvider" if short in known else name
