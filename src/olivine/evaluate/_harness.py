"""Tasks of the lm-eval package, asked of a model that is open in one of our runtimes.

lm-eval makes prompts out of a task's rows and numbers out of answers; what is in between, log-likelihoods and greedy
text, comes of the same runtime that all other scores come of, whatever kind of model it has open.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import OlivineError
from olivine.evaluate._base import TaskEvidence
from olivine.models.turns import as_read, end_tokens
from olivine.runtimes import Runtime
from olivine.runtimes.torch import UNLIMITED

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

_LONGEST = 2048  # tokens that are read, of a model that names no context

Report = Callable[[int, int], None]


def run_tasks(params: Mapping[str, Any], runtime: Runtime, tokenizer: Any, model: Path, report: Report) -> TaskEvidence:
    """What the tasks that `params` names (see `lm_eval.LmEval`) say of a model. model: its folder.

    Raises OlivineError, with the words of the package, for a task that it does not know or cannot ask.
    """
    lazy.require("lm_eval", "lm-eval")
    from lm_eval import evaluator

    folder, names = params.get("include_path"), list(params["tasks"])
    asker = _asker(_Replies(runtime, tokenizer, model, params, report))
    try:
        manager = _tasks_of(folder, names)
        # files that a task names without a folder lie where the tasks do; they are read while tasks are made
        with chdir(folder) if folder else nullcontext():
            loaded = manager.load(names)
        for task in loaded["tasks"].values():
            _settle(task, params)
        results = evaluator.evaluate(
            asker,
            loaded,
            limit=params.get("limit"),
            bootstrap_iters=params["bootstrap_iters"],
            log_samples=False,
            apply_chat_template=params["apply_chat_template"],
            fewshot_as_multiturn=params["apply_chat_template"],
        )
    except OlivineError:
        raise
    except Exception as error:  # of the package, a task's own code, or the data sets: whatever it raises is told
        said = " ".join(str(error).split())
        raise OlivineError(f"lm-eval: {', '.join(names)}: {type(error).__name__}: {said}") from error
    return TaskEvidence(dict(_numbers({**results["results"], **results.get("groups", {})})))


def _tasks_of(folder: str | None, names: Sequence[str]) -> Any:
    """What knows the tasks: those of the folder alone, where these are all, since the package has 14,000 files."""
    from lm_eval.tasks import TaskManager

    if folder is not None:
        own = TaskManager(include_path=folder, include_defaults=False)
        if {*own.all_subtasks, *own.all_tags}.issuperset(names):
            return own
    return TaskManager(include_path=folder)


def _settle(task: Any, params: Mapping[str, Any]) -> None:
    """Examples before each question: as many as asked for, unless the task allows none; drawn as lm-eval draws them."""
    n_asked, n_own = params.get("num_fewshot"), task.get_config("num_fewshot")
    if n_own != 0:
        task.set_config(key="num_fewshot", value=n_asked if n_asked is not None else n_own or 0)
    task.set_fewshot_seed(seed=1234)


def _numbers(results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """TASK.METRIC of every number, TASK.METRIC.FILTER where answers went through a filter of that name."""
    for task, row in results.items():
        for key, value in row.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or "," not in key:
                continue
            metric, _, of_filter = key.partition(",")
            name, is_error = metric.removesuffix("_stderr"), metric.endswith("_stderr")
            name = f"{task}.{name}" if of_filter == "none" else f"{task}.{name}.{of_filter}"
            yield f"{name}_standard_error" if is_error else name, float(value)


def _asker(replies: "_Replies") -> Any:
    """What lm-eval asks. The class is made here, since what it derives from is an extra."""
    from lm_eval.api.model import TemplateLM

    class Asker(TemplateLM):  # type: ignore[misc]
        """Hands on what lm-eval asks; its methods are described there."""

        tokenizer = replies.tokenizer
        eot_token_id = replies.end
        prefix_token_id = replies.begin
        tokenizer_name = replies.name

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return replies.tokens(string, add_special_tokens)

        def apply_chat_template(self, chat_history: Sequence[Any], add_generation_prompt: bool = True) -> str:
            ends = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
            chat = as_read(replies.tokenizer, chat_history)
            return str(replies.tokenizer.apply_chat_template(chat, tokenize=False, **ends))

        def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            return replies.likelihoods([(context, ids) for _, context, ids in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            return replies.rolling([request.args[0] for request in requests])

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            return [replies.text(*request.args) for request in requests]

    return Asker()


class _Replies:
    """What a model says, in one of our runtimes. model: the folder whose generation config tells its end tokens."""

    def __init__(
        self, runtime: Runtime, tokenizer: Any, model: Path, params: Mapping[str, Any], report: Report
    ) -> None:
        self.tokenizer, self.name = tokenizer, model.name
        self.end: int = tokenizer.eos_token_id
        self.begin: int = self.end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self._runtime, self._report = runtime, report
        context = runtime.context_length if runtime.context_length < UNLIMITED else _LONGEST
        self._longest, self._n_rows = min(params.get("max_length") or context, context), int(params["batch_size"])
        self._ends = end_tokens(tokenizer, model)

    def tokens(self, text: str, adds_special: bool | None = None) -> list[int]:
        """Ids of a text, with what the tokenizer puts round it, unless that stands there already."""
        if adds_special is None:
            begin = self.tokenizer.bos_token
            adds_special = not (begin and text.startswith(begin))
        return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=adds_special)]

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-likelihood of each whole text in nats, in windows where it is long."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows, owners = [], []
        for number, text in enumerate(texts):
            for pair in get_rolling_token_windows(self.tokens(text), self.begin, self._longest, 1):
                windows.append(make_disjoint_window(pair))
                owners.append(number)
        sums = [0.0] * len(texts)
        for owner, (likelihood, _) in zip(owners, self.likelihoods(windows), strict=True):
            sums[owner] += likelihood
        return sums

    def likelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """For each pair of context and continuation its log-likelihood in nats, and whether greedy text would be it.

        A context that is too long keeps its end. Continuations of one length that are read after the same tokens, such
        as the letters of choices, cost one pass.
        """
        alike: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for index, (context, ids) in enumerate(pairs):
            if len(ids) > self._longest:
                raise OlivineError(f"lm-eval: a continuation has {len(ids)} tokens, and {self._longest} are read")
            read = (*context, *ids[:-1])[-self._longest :]
            alike.setdefault((read, len(ids)), []).append(index)
        told: dict[int, tuple[float, bool]] = {}
        order = sorted(alike, key=lambda one: len(one[0]))
        for at in range(0, len(order), self._n_rows):
            batch = order[at : at + self._n_rows]
            texts = [(*read, pairs[alike[read, n][0]][1][-1]) for read, n in batch]
            logits = self._runtime.logits(texts, [len(read) + 1 - n for read, n in batch])
            for one, values in zip(batch, logits, strict=True):
                told |= {index: _likelihood(values, pairs[index][1]) for index in alike[one]}
            self._report(len(told), len(pairs))
        return [told[index] for index in range(len(pairs))]

    def text(self, prompt: str, asked: Mapping[str, Any]) -> str:
        """Greedy text after a prompt, up to the first of the texts or tokens that end it. asked: as a task says it."""
        from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

        settings = normalize_gen_kwargs(dict(asked))
        if settings.get("do_sample"):
            raise OlivineError("lm-eval: a task wants text that is drawn at random, which is not served")
        stops = [stop for stop in handle_stop_sequences(settings.get("until"), None) if stop]
        n_most = int(settings["max_gen_toks"])
        if n_most >= self._longest:
            raise OlivineError(f"lm-eval: {n_most} tokens are to be written, and the model reads {self._longest}")
        written = self._written(self.tokens(prompt)[-(self._longest - n_most) :], n_most, stops)
        for stop in stops:
            written = written.partition(stop)[0]
        return written

    def _written(self, prompt: Sequence[int], n_most: int, stops: Sequence[str]) -> str:
        """Greedy text until one of the stops is in it; what a token ends may stand in tokens before it."""
        n_tail = 1 + max((len(stop.encode()) for stop in stops), default=0)  # tokens, of a byte at least
        tokens: list[int] = []
        for step in self._runtime.write([prompt], lambda logits: logits.argmax(axis=-1), n_most):
            if int(step[0]) in self._ends:
                break
            tokens.append(int(step[0]))
            tail = self.tokenizer.decode(tokens[-n_tail:])
            if any(stop in tail for stop in stops):
                break
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def _likelihood(logits: Any, ids: Sequence[int]) -> tuple[float, bool]:
    """Of tokens by the logits [tokens, vocabulary] that predict them."""
    from olivine.kernels.divergence import log_softmax

    log_probabilities = log_softmax(logits)
    likelihood = log_probabilities[np.arange(len(ids)), list(ids)].astype(np.float64).sum()
    return float(likelihood), bool((log_probabilities.argmax(axis=-1) == np.asarray(ids)).all())
