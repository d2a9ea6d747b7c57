"""`source_max_len`, `corpus_strategy` and `dataset_type`, until 2024-08; and what the peer did to special tokens."""

from olivine.config.dialects._edit import Findings, Note, data_configs, drop, invalid, rename, section_of, text_of
from olivine.config.nodes import Object

_OLD = ("dataset_type", "corpus_strategy", "source_max_len")


def translate(config: Object) -> Findings:
    """Give pre-processing today's names, and write down the old defaults that differ from today's."""
    for entry in data_configs(config):
        section = entry.mapping("pre_process_data_config")
        if section is not None:
            yield from _names(section)
            yield from _idle(section)
            yield from _load_trust(entry, section)
            yield from _special_tokens(entry, section)


def _names(section: Object) -> Findings:
    if all(section.get(key) is None for key in _OLD):
        return
    kind = text_of(section, "dataset_type") or "corpus"
    if kind == "pair" or text_of(section, "strategy") == "pair":
        yield from _pair(section)
        return
    if kind != "corpus":
        where = section.where("dataset_type")
        yield invalid(where, f"'dataset_type' is '{kind}', but must be 'corpus' or 'pair'.")
    yield from drop(section, "dataset_type", "'dataset_type: corpus' is dropped: every strategy but 'pair' is one.")
    yield from rename(section, "source_max_len", "max_seq_len")
    yield from rename(section, "corpus_strategy", "strategy")
    yield from _trained_on_everything(section)
    if "strategy" not in section:
        section.put("strategy", "line-by-line", section.place)
        message = "The old default of 'corpus_strategy' is written down: 'strategy: line-by-line' (today's is 'join')."
        yield Note(str(section.place), "corpus_strategy", "strategy", message)


def _trained_on_everything(section: Object) -> Findings:
    """A corpus was trained on from its first token to its last, and was the column `text` when no other was named."""
    if "train_on" not in section:
        section.put("train_on", "all", section.place)
        message = "The old form trained on every token, prompts included; that is written down: 'train_on: all'."
        yield Note(str(section.place), "", "train_on", message)
    if not any(section.get(key) for key in ("text_template", "text_cols", "chat_template")):
        section.put("text_cols", "text", section.place)
        message = "The old default of 'text_cols' is written down: 'text' (today the columns tell the form)."
        yield Note(str(section.place), "text_cols", "text_cols", message)


def _pair(section: Object) -> Findings:
    if "dataset_type" in section:
        _, place = section.take("dataset_type")
        section.put("strategy", "pair", place)
        yield Note(str(place), "dataset_type", "strategy", "'dataset_type: pair' is 'strategy: pair' today.")
    yield from drop(section, "corpus_strategy", "'corpus_strategy' is dropped: it never applied to pairs.")


def _idle(section: Object) -> Findings:
    """Keys that the old tool filled in by itself, and one that only set its speed."""
    if text_of(section, "task") in ("text-generation", "text-generation-with-past"):
        yield from drop(section, "task", "'task' of pre-processing is dropped: it is always text generation.")
    yield from drop(section, "processing_batch_size", "'processing_batch_size' is dropped: it changes no result.")


def _load_trust(entry: Object, section: Object) -> Findings:
    """`trust_remote_code` in pre-processing was for the data set as well as for the tokenizer."""
    if section.get("trust_remote_code") is True:
        _, place = section.take("trust_remote_code")
        section_of(entry, "load_dataset_config", place).put("trust_remote_code", True, place)
        message = "'trust_remote_code' of pre-processing now holds for the data set alone; the model has its own."
        yield Note(str(place), "trust_remote_code", "load_dataset_config.trust_remote_code", message, warning=True)


def _special_tokens(entry: Object, section: Object) -> Findings:
    has_text = any(section.get(key) for key in ("text_template", "text_cols"))
    if has_text and not section.get("chat_template") and section.get("add_special_tokens") is None:
        message = (
            f"The end token of the tokenizer is put after each text of '{entry.get('name', '')}', so that the model "
            "learns to stop, and before it the begin token that the tokenizer itself puts there; to leave out both, "
            "write add_special_tokens: false."
        )
        yield Note(str(section.place), "", "add_special_tokens", message)
