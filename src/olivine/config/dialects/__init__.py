"""Old forms of a workflow config, one file each: they edit a config towards today's form and note what they did.

A dialect is a function from a config to findings; it edits the copy that it is given, does nothing to what is already
in today's form, and never drops or changes anything without a note.

A dialect of another package is an entry point of the group `olivine.dialects`, a function of the same kind. It is asked
only where a config names it under `dialect`, and before ours: what it makes of a config may be in any of our forms.
"""

from collections.abc import Callable

from olivine.config.dialects import _foreign as foreign
from olivine.config.dialects import (
    composite,
    data_forms,
    data_tasks,
    data_text,
    engine_section,
    engine_switches,
    evaluator_types,
    hf_config,
    inline_systems,
    lora_names,
    metric_forms,
    pass_forms,
    pass_params,
    resources,
    script_data,
    search_names,
    string_accelerators,
    type_names,
    unmerged_adapters,
)
from olivine.config.dialects._edit import Finding, Findings, Note
from olivine.config.nodes import Object, copy
from olivine.errors import Problem

DIALECT = foreign.KEY

# The order matters: layout before names, names before values.
DIALECTS: tuple[Callable[[Object], Findings], ...] = (
    engine_section.translate,
    engine_switches.translate,
    inline_systems.translate,
    metric_forms.translate,
    evaluator_types.translate,
    composite.translate,
    type_names.translate,
    hf_config.translate,
    resources.translate,
    string_accelerators.translate,
    data_forms.translate,
    data_tasks.translate,
    data_text.translate,
    pass_forms.translate,
    pass_params.translate,
    script_data.of_passes,
    lora_names.translate,
    search_names.translate,
    unmerged_adapters.translate,
)


def translate(config: Object) -> tuple[Object, list[Finding]]:
    """The config in today's form, and a note or problem for every translation; the input stays as it is."""
    config = copy(config)
    findings: list[Finding] = list(foreign.translate(config))
    for dialect in DIALECTS:
        findings.extend(dialect(config))
    return config, findings


__all__ = ["DIALECT", "DIALECTS", "Finding", "Note", "Problem", "translate"]
