"""What `import olivine` gives: the commands as functions, and the classes that a config or a plugin is made of.

    workflow = olivine.load_config("olive-config.json", {"passes.lora.r": 8})
    print(olivine.plan(workflow).problems)
    result = olivine.run(workflow)

What is wrong is raised as the commands tell it: see `olivine.errors`.
"""

from olivine.api._lines import Lines
from olivine.api._results import Comparison, Evaluation, Plan, Result
from olivine.api._verbs import Config, evaluate, parity, plan, run
from olivine.api._workflow import Workflow, load_config
from olivine.evaluate import Metric
from olivine.passes import Pass
from olivine.systems import System

__all__ = [
    "Comparison",
    "Config",
    "Evaluation",
    "Lines",
    "Metric",
    "Pass",
    "Plan",
    "Result",
    "System",
    "Workflow",
    "evaluate",
    "load_config",
    "parity",
    "plan",
    "run",
]
