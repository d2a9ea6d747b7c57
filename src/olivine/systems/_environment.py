"""What the environment of a process that runs jobs says to libraries."""

from collections.abc import MutableMapping

# No bars between the lines of a log, the same sums in the same order on a GPU. A user's own settings win.
ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "warning",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
# How long threads of OpenMP that have nothing to do keep a core busy: 0.02 ms, about as long as it takes from one
# product to the next, where libgomp waits for milliseconds and Intel's library for 200 ms. Beside busy processes a
# thread that spins takes the time of the one that it waits for. Results are the same.
WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}


def prepare(environment: MutableMapping[str, str]) -> None:
    """Put in what nobody has set; before a library that reads it is loaded."""
    for name, value in ENVIRONMENT.items():
        environment.setdefault(name, value)
    if "OMP_WAIT_POLICY" not in environment:  # it says the same in the words of the standard
        for name, value in WAITING.items():
            environment.setdefault(name, value)
