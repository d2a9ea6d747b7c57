"""Tasks of lm-eval, EleutherAI's harness (https://github.com/EleutherAI/lm-evaluation-harness): extra `lm-eval`."""

from pydantic import Field

from olivine.evaluate._base import Metric, MetricParams, Number, TaskEvidence

_SHARES = ("acc", "acc_norm", "exact_match")  # of 1
_LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "brier_score", "ter", "wer", "cer", "loss", "mse", "mae")


class LmEval(Metric):
    """Numbers of tasks of the lm-eval package: its own, or files of a folder. A sub type is called TASK.METRIC."""

    class Params(MetricParams):
        """Which tasks, and how they are asked."""

        tasks: list[str] = Field(min_length=1, description="names of tasks, groups or tags")
        include_path: str | None = Field(None, description="folder of task files of your own, from that of the config")
        limit: float | None = Field(None, gt=0, description="rows of each task; below 1, their share; else all")
        num_fewshot: int | None = Field(None, ge=0, description="solved examples in a prompt; else as the task says")
        batch_size: int = Field(8, ge=1, description="texts that are read at once")
        max_length: int | None = Field(None, ge=2, description="tokens that are read at most; else all of the context")
        apply_chat_template: bool = Field(False, description="whether prompts go through the model's chat template")
        bootstrap_iters: int = Field(100_000, ge=0, description="draws of standard errors that have no formula")

    params: Params
    aliases = ("lm-eval", "lm_evaluation_harness")
    reads = TaskEvidence
    only_when_asked = True

    @classmethod
    def number(cls, sub_type: str) -> Number | None:
        """TASK.METRIC of any task; perplexities and error rates are better when they are lower."""
        task, _, metric = sub_type.partition(".")
        if not task or not metric:
            return None
        is_lower = metric.split(".")[0].split("_")[-1] in _LOWER_IS_BETTER or metric.startswith(_LOWER_IS_BETTER)
        is_share = metric.split(".")[0] in _SHARES
        return Number(sub_type, higher_is_better=not is_lower, unit="share" if is_share else "")

    def compute(self, evidence: TaskEvidence) -> dict[str, float]:
        """All numbers of the tasks, by TASK.METRIC, and their standard errors."""
        return dict(evidence.numbers)
