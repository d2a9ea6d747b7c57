"""Whether the hub of models answers; the one thing that the doctor looks at over the network, when asked."""

from olivine.models.hub import Unreachable, reach
from olivine.workflow.doctor._finding import Finding


def hub() -> Finding:
    """Whether it answers, and to whom."""
    try:
        place, user = reach()
    except Unreachable as error:
        fix = "Mend the network, or name another hub in HF_ENDPOINT; local models need none."
        return Finding("hub", "hub", False, f"gives no answer: {error}", fix)
    return Finding("hub", "hub", True, f"{place} answers{f' {user}' if user else ', to anybody: no token is set'}")
