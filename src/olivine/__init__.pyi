# What `import olivine` gives, for type checkers; `__init__.py` looks it up when it is asked for.
from olivine.api import Comparison as Comparison
from olivine.api import Evaluation as Evaluation
from olivine.api import Metric as Metric
from olivine.api import Pass as Pass
from olivine.api import Plan as Plan
from olivine.api import Result as Result
from olivine.api import System as System
from olivine.api import Workflow as Workflow
from olivine.api import evaluate as evaluate
from olivine.api import load_config as load_config
from olivine.api import parity as parity
from olivine.api import plan as plan
from olivine.api import run as run
from olivine.errors import ConfigError as ConfigError
from olivine.errors import GoalMissed as GoalMissed
from olivine.errors import Interrupted as Interrupted
from olivine.errors import OlivineError as OlivineError
from olivine.errors import RequestError as RequestError
from olivine.errors import StepFailed as StepFailed

__version__: str
