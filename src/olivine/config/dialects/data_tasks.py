"""Components of data for models that write no text, under their names in Olive, with the arguments of a tokenizer."""

from olivine.config.dialects._edit import Findings, Note, data_configs, drop, lift, put, rename, section_of
from olivine.config.nodes import Array, Object
from olivine.config.shape import DUMMY_TYPE, RAW_TYPE, SECTIONS, TOKENS_TYPE

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
SPEECH = "speech_transcription_pre_process"
_IDLE_LOADERS = (
    *("default_dataloader", "no_auto_batch_dataloader", "default_calibration_dataloader", "skip_dataloader"),
    "dataloader_with_ignored_batch_fields",
)
_LOADING = ("batch_size", "drop_last", "shuffle", "num_workers", "pin_memory", "fields_no_batch")
# What reads the rows of a container that names nothing else.
_LOADS = {"DummyDataContainer": DUMMY_TYPE, "RawDataContainer": RAW_TYPE}
# Containers of made-up tokens: how many a row has, and how many before.
_TOKENS = {
    "TransformersDummyDataContainer": (128, 128),
    "TransformersPromptDummyDataContainer": (8, 0),
    "TransformersTokenDummyDataContainer": (1, 8),
}
_OF_THE_GRAPH = (
    *("model_name", "max_seq_len", "model_framework", "use_fp16", "shared_kv", "generative", "use_step", "data_dir"),
    *("ort_past_key_name", "ort_past_value_name", "ignore_input_fields", "trust_remote_code"),
)
_AFTER = (
    *("post_process", "skip_post_process", "text_classification_post_process", "ner_post_process"),
    *("text_generation_post_process", "audio_classification_post_process"),
)


def translate(config: Object) -> Findings:
    """Write names of components in lower case, and the arguments of tokenizers under today's names."""
    for entry in data_configs(config):
        kind = entry["type"] if isinstance(entry.get("type"), str) else ""
        if kind in _LOADS:
            yield from _source(entry)
        elif kind in _TOKENS:
            yield from _tokens(entry)
        for name in SECTIONS:
            section = entry.mapping(name)
            if section is not None and isinstance(section.get("type"), str):
                section["type"] = section["type"].lower()
        settings = entry.mapping("pre_process_data_config")
        if settings is not None:
            yield from _heard(settings) if settings.get("type") == SPEECH else ()
            yield from _tokenizer(settings)
        yield from _loader(entry)
        yield from _after(entry)


def _heard(settings: Object) -> Findings:
    """Sounds and what is said in them: columns and choice of rows under the names that other tasks have for them."""
    yield from lift(settings, "kwargs")
    yield from rename(settings, "audio_col", "text_cols")
    yield from rename(settings, "text_col", "label_col")
    yield from rename(settings, "seed", "random_seed")
    yield from drop(settings, "id_col", "'id_col' of pre-processing is dropped: rows are named by where they stand.")
    if "limit" in settings and settings["limit"] is not None:  # which Olive prefers
        yield from drop(settings, "max_samples", "'max_samples' of pre-processing is dropped: 'limit' says the same.")


def _source(entry: Object) -> Findings:
    """What such a container reads where it does not say so."""
    load, kind = section_of(entry, "load_dataset_config", entry.place), _LOADS[entry["type"]]
    if load.get("type") is None:
        load.pop("type", None)
        yield from put(load, "type", kind, load.place)
        message = f"What a {entry['type']} reads is written down: 'type: {kind}'."
        yield Note(str(load.place), "type", "type", message)


def _tokens(entry: Object) -> Findings:
    """Three containers of made-up tokens are one, and the lengths that each had are written down."""
    load, written = section_of(entry, "load_dataset_config", entry.place), entry["type"]
    for key, number in zip(("seq_len", "past_seq_len"), _TOKENS[written], strict=True):
        if load.get(key) is None:
            load.put(key, number, load.place)
    load.put("type", TOKENS_TYPE, load.place)
    entry["type"] = "DummyDataContainer"
    message = f"'{written}' is a DummyDataContainer of the type '{TOKENS_TYPE}'."
    yield Note(entry.where("type"), written, "DummyDataContainer", message)
    for key in _OF_THE_GRAPH:
        yield from drop(load, key, f"'{key}' is dropped: names and types of inputs are those of the graph.")


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
