"""Two models compared outside of a run, as the pass `parity_check` does it in one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olivine.evaluate.parity import open_model
from olivine.workflow.alone import run_alone
from olivine.workflow.events import Listener

_MACHINE = {"execution_provider": "", "memory_bytes": 0, "disk_bytes": 0, "n_cores": 1}  # only the device counts here


def compare_models(
    reference: Path,
    candidate: Path,
    listen: Listener,
    *,
    base: Path | None = None,
    data: Path | None = None,
    device: str | None = None,
    **params: Any,
) -> Mapping[str, Any]:
    """How far the candidate is from the reference: the record of an `olivine.evaluate.parity.Parity`, and "missed".

    base: of an adapter, where its own record is wrong. data: what both read, else the reference writes it. device:
    "cpu" or "cuda" for models in transformers, else a GPU if any. params: others of `parity_check`. RequestError when
    the two cannot be compared.
    """
    open_model(reference, base)
    model = open_model(candidate, base)
    facts = run_alone(
        "parity",
        f"{model.path} with {reference}",
        listen,
        kind="pass",
        name="parity_check",
        params={
            "reference": str(reference.absolute()),
            "base": str(base.absolute()) if base else None,
            "text": str(data.absolute()) if data else None,
            **params,
        },
        model=model.to_json(),
        machine=_MACHINE | {"device": device},
    )["facts"]
    return {**facts["parity"], "missed": facts["missed"]}
