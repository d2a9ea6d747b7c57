"""What any job is handed, whatever it does: so far, how it speaks."""

from typing import Any, Protocol


class Reporter(Protocol):
    """How a running job speaks: progress for the screen, warnings for the user, facts for the journal."""

    def progress(self, done: float, total: float, **metrics: float | str) -> None:
        """Say how far the job is; metrics are short numbers such as loss=0.42."""

    def warn(self, message: str) -> None:
        """Tell the user one sentence; it also goes to the journal."""

    def record(self, **facts: Any) -> None:
        """Keep facts with the result (n_trained_parameters=..., loss=[...]); JSON values. Cached with the step."""
