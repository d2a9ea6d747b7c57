"""Accelerators as strings with `engine.execution_providers`, until 2024-03; `device` of a system before that."""

from olivine.config.dialects._edit import Findings, Note, drop, named, section_of
from olivine.config.nodes import Array, Object, Place, typed
from olivine.config.schema import provider_device


def translate(config: Object) -> Findings:
    """Write every accelerator as {device, execution_providers}."""
    for name, system in named(config, "systems"):
        yield from _device(system)
        yield from _accelerators(name, system)
    yield from _execution_providers(config)


def _device(system: Object) -> Findings:
    """`device: gpu`, the form before there were accelerators."""
    if isinstance(system.get("device"), str) and system.get("type") == "LocalSystem":
        device, place = system.take("device")
        if "accelerators" not in system:
            system.put("accelerators", typed([{"device": device.lower()}], place), place)
            yield Note(str(place), "device", "accelerators", f"'device: {device}' is an accelerator today.")
        else:
            yield Note(str(place), "device", "", "'device' is dropped: 'accelerators' says more.", warning=True)


def _accelerators(name: str, system: Object) -> Findings:
    accelerators = system.get("accelerators")
    if not isinstance(accelerators, Array):
        return
    for index, (item, place) in enumerate(zip(accelerators, accelerators.places, strict=True)):
        if isinstance(item, str):
            accelerators[index] = typed({"device": item.lower()}, place)
            message = f"The accelerator '{item}' of system '{name}' is written {{device: {item.lower()}}} today."
            yield Note(str(place), item, "device", message)
        elif isinstance(item, Object) and isinstance(item.get("device"), str):
            item["device"] = item["device"].lower()


def _execution_providers(config: Object) -> Findings:
    """The engine's list: a demand on accelerators that are written down, otherwise a list of preferences."""
    providers = config.get("execution_providers")
    if providers in (None, []):
        yield from drop(config, "execution_providers", "'execution_providers' is dropped: it asked for nothing.")
        return
    if not isinstance(providers, Array) or not all(isinstance(provider, str) for provider in providers):
        return  # the schema says what is wrong with it
    _, place = config.take("execution_providers")
    written = [item for _, system in named(config, "systems") for item in _mappings(system.get("accelerators"))]
    silent = [item for item in written if not item.get("execution_providers")]
    if silent:
        yield from _demand(silent, providers, place)
    elif written:
        message = "'execution_providers' is dropped: every accelerator names its own."
        yield Note(str(place), "execution_providers", "", message, warning=True)
    else:
        yield from _prefer(config, providers, place)


def _mappings(value: object) -> list[Object]:
    return [item for item in value if isinstance(item, Object)] if isinstance(value, Array) else []


def _demand(accelerators: list[Object], providers: Array, place: Place) -> Findings:
    """Each accelerator takes the providers of its device."""
    taken: set[str] = set()
    for accelerator in accelerators:
        fitting = [provider for provider in providers if provider_device(provider) == accelerator.get("device")]
        taken.update(fitting)
        if fitting:
            accelerator.put("execution_providers", typed(fitting, place), place)
    message = "'execution_providers' of the engine stands in the accelerators of the systems today."
    left = [provider for provider in providers if provider not in taken]
    if left:
        message += f" {', '.join(left)} runs on none of their devices and is dropped."
    yield Note(str(place), "execution_providers", "systems.*.accelerators", message, warning=bool(left))


def _prefer(config: Object, providers: Array, place: Place) -> Findings:
    target = config.get("target")
    systems = section_of(config, "systems", place)
    name = target if isinstance(target, str) and target in systems else _free_name(systems)
    system = section_of(systems, name, place)
    if not system:
        system.put("type", "LocalSystem", place)
        config.put("target", name, place)
    accelerator = {
        "device": provider_device(providers[0]),
        "execution_providers": list(providers),
        "preference": True,
    }
    system.put("accelerators", typed([accelerator], place), place)
    message = (
        f"'execution_providers' of the engine was a list of preferences and stays one: {', '.join(providers)} where it "
        f"is installed, else the CPU. To demand it, remove 'preference' from the accelerator of system '{name}'."
    )
    yield Note(str(place), "execution_providers", f"systems.{name}.accelerators", message)


def _free_name(systems: Object) -> str:
    candidates = ("local_system", "target_system", *(f"target_system_{number}" for number in range(2, 99)))
    return next(name for name in candidates if name not in systems)
