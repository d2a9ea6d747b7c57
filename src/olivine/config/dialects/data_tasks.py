"""Components of data for models that write no text, under their names in Olive, with the arguments of a tokenizer."""

from olivine.config.dialects._edit import Findings, Note, data_configs, drop, lift, put, rename, section_of
from olivine.config.nodes import Array, Object
from olivine.config.shape import DUMMY_TYPE, SECTIONS

# Arguments of pre-processing that follow from the model, or only set how fast rows are read.
_FOLLOW = {
    "batch_size": "how many rows are read at once changes no result",
    "batched": "how many rows are read at once changes no result",
    "cache_key": "rows are known by their content",
    "kwargs": "it is empty",
    "model_config_path": "the model's own config.json is used",
    "remove_columns": "columns that are no inputs are not looked at",
    "return_tensors": "rows are arrays in any case",
    "is_split_into_words": "rows tell whether they hold words or texts",
    "truncation": "a text is cut where the model reads no further",
}
_IDLE_LOADERS = ("default_dataloader", "no_auto_batch_dataloader", "default_calibration_dataloader")
_LOADING = ("batch_size", "drop_last", "shuffle", "num_workers", "pin_memory")
_AFTER = (
    *("post_process", "skip_post_process", "text_classification_post_process", "ner_post_process"),
    *("text_generation_post_process", "audio_classification_post_process"),
)


def translate(config: Object) -> Findings:
    """Write names of components in lower case, and the arguments of tokenizers under today's names."""
    for entry in data_configs(config):
        if entry.get("type") == "DummyDataContainer":
            yield from _dummy(entry)
        for name in SECTIONS:
            section = entry.mapping(name)
            if section is not None and isinstance(section.get("type"), str):
                section["type"] = section["type"].lower()
        settings = entry.mapping("pre_process_data_config")
        if settings is not None:
            yield from _tokenizer(settings)
        yield from _loader(entry)
        yield from _after(entry)


def _dummy(entry: Object) -> Findings:
    """Made-up numbers are the source of that kind of data where it names none."""
    load = section_of(entry, "load_dataset_config", entry.place)
    if load.get("type") is None:
        yield from put(load, "type", DUMMY_TYPE, load.place)
        message = "What a DummyDataContainer reads is written down: 'type: dummy_dataset'."
        yield Note(str(load.place), "type", "type", message)


def _tokenizer(settings: Object) -> Findings:
    yield from lift(settings, "kwargs")
    for key, why in _FOLLOW.items():
        yield from drop(settings, key, f"'{key}' of pre-processing is dropped: {why}.")
    yield from rename(settings, "max_length", "max_seq_len")
    yield from rename(settings, "input_cols", "text_cols")
    for old in ("label_cols", "label_col"):
        labels = settings.get(old)
        if isinstance(labels, Array) and len(labels) == 1:
            settings[old] = labels[0]
    yield from rename(settings, "label_cols", "label_col")
    if "padding" in settings:
        value, place = settings.take("padding")
        if value == "max_length":
            settings.put("pad_to_max_len", True, place)
        message = "'padding: max_length' is 'pad_to_max_len: true' today."
        if value != "max_length":
            message = "'padding' is dropped: rows are padded where they are read together."
        yield Note(str(place), "padding", "pad_to_max_len" if value == "max_length" else "", message)


def _loader(entry: Object) -> Findings:
    """Batches decide nothing of a result, but what a script makes of rows does."""
    section = entry.mapping("dataloader_config")
    if section is None:
        entry.pop("dataloader_config", None)
        return
    if section.get("type") in (None, *_IDLE_LOADERS) and all(key in _LOADING or key == "type" for key in section):
        message = "'dataloader_config' is dropped: how many rows are read at once changes no result."
        yield from drop(entry, "dataloader_config", message)


def _after(entry: Object) -> Findings:
    section = entry.mapping("post_process_data_config")
    if section is None or not any(section.values()):
        entry.pop("post_process_data_config", None)
        return
    if section.get("type") in (None, *_AFTER):
        message = "'post_process_data_config' is dropped: the class is the largest score, and text is what is written."
        yield from drop(entry, "post_process_data_config", message)
