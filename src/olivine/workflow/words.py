"""A plan in words, for people and for programs."""

from typing import Any

from olivine.workflow.steps import Plan, Step


def to_json(plan: Plan) -> dict[str, Any]:
    """What `olivine plan --json` prints."""
    return {
        "steps": [
            {
                "name": step.name,
                "host": step.host,
                "pass": step.pass_name,
                "params": step.params,
                "cached": step.name in plan.cached,
                "implicit": step.implicit,
                "estimate": vars(step.estimate),
            }
            for step in plan.steps
        ],
        "problems": [problem.to_json() for problem in plan.problems],
        "translated": list(plan.translated),
        "estimate": vars(plan.estimate) | {"n_parameters": plan.n_parameters},
    }


def _in_words(n_parameters: int) -> str:
    if n_parameters < 1e6:
        return f"{n_parameters:,}"
    return f"{n_parameters / 1e6:,.0f} million"


def lines(plan: Plan) -> list[str]:
    """The plan for a person."""
    machine = plan.machine
    device = machine.device if machine.n_devices == 1 else f"{machine.n_devices} x {machine.device}"
    host = plan.steps[0].host if len({step.host for step in plan.steps}) == 1 else None
    there = f" on the system '{host}'" if host is not None else ""
    text = [f"runs on {device}{there}, {machine.n_cores} cores; the result is for {machine.execution_provider}"]
    name = plan.hub_name or (str(plan.input_model.path) if plan.input_model else "that cannot be used")
    text.append(f"model {name}" + (f", {_in_words(plan.n_parameters)} parameters" if plan.n_parameters else ""))
    text += [_step_line(plan, step) for step in plan.steps]
    needed = plan.estimate
    if plan.n_parameters:  # of a model that is not known, nothing else is
        text.append(f"needs about {size(needed.memory_bytes)} of memory and {size(needed.disk_bytes)} of disk at most")
    if needed.download_bytes:
        text.append(f"fetches about {size(needed.download_bytes)}")
    if needed.device_memory_bytes:
        which = "the GPU" if machine.n_devices == 1 else "each GPU"
        text.append(f"needs about {size(needed.device_memory_bytes)} on {which}")
    return text + [f"note: {note}" for note in plan.translated]


def _step_line(plan: Plan, step: Step) -> str:
    state = "cached" if step.name in plan.cached else "to run"
    asked = f"; memory {size(step.estimate.memory_bytes)}, disk {size(step.estimate.disk_bytes)}"
    is_known = state == "to run" and plan.n_parameters
    there = f" on '{step.host}'" if step.host is not None else ""
    return f"step {step.name} ({step.pass_name}){there}: {state}{asked if is_known else ''}"


def size(n_bytes: float) -> str:
    """Bytes in the unit that a person would choose."""
    if n_bytes >= 1e8:
        return f"{n_bytes / 1e9:.1f} GB"
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.0f} kB"
