"""`PyTorchModel` with `hf_config`, until 2024-07; loading arguments under their names of 2023, 2024 and today."""

import re

from olivine.config.dialects._edit import Findings, Note, drop, lift, models, move, rename, text_of
from olivine.config.dialects.script_data import of_dataset
from olivine.config.nodes import Object
from olivine.errors import Problem

_LOADING = ("model_loading_args", "from_pretrained_args")
# Arguments of loading that decide where and how fast a model is loaded, and nothing of what it is.
_IDLE = (
    *("device_map", "max_memory", "low_cpu_mem_usage", "offload_folder", "offload_state_dict", "use_safetensors"),
    *("cache_dir", "local_files_only", "force_download", "resume_download", "proxies", "use_auth_token", "token"),
    *("use_cache", "return_dict", "output_attentions", "output_hidden_states", "torchscript", "use_flash_attention_2"),
    *("_attn_implementation", "ignore_mismatched_sizes"),
)
_DTYPES = {"fp32": "float32", "float": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}
# Attentions of other packages, whose maths is the one of torch: nothing of them comes into a graph.
_FLASH = ("flash_attention_2", "flash_attention_3", "flex_attention")


def translate(config: Object) -> Findings:
    """Make every model that is one an `HfModel` with `model_path`, `task` and `load_kwargs`."""
    for model in models(config):
        yield from _translate(config, model)


def _translate(config: Object, model: Object) -> Findings:
    if text_of(model, "type") == "optimummodel":
        yield from drop(model, "model_components", "'model_components' is dropped: a decoder is exported as one graph.")
        yield Note(model.where("type"), str(model["type"]), "HfModel", "'OptimumModel' is 'HfModel' today.")
        model["type"] = "HfModel"
    hf_config = model.mapping("hf_config")
    if hf_config is not None:
        yield from _hf_config(model, hf_config)
    for old in _LOADING:
        yield from rename(model, old, "load_kwargs")
    yield from of_dataset(config, model)
    load = model.mapping("load_kwargs")
    if load is not None:
        yield from _load_kwargs(load)
    elif "load_kwargs" in model and model["load_kwargs"] is None:
        model.take("load_kwargs")
    yield from _task(model)
    for key, why in _FOLLOW.items():
        yield from drop(model, key, f"'{key}' is dropped: {why}.")
    if text_of(model, "type") == "pytorchmodel" and _is_hugging_face(model, had_hf_config=hf_config is not None):
        model["type"] = "HfModel"
        yield Note(
            model.where("type"), "PyTorchModel", "HfModel", "'PyTorchModel' from Hugging Face is 'HfModel' today."
        )


def _task(model: Object) -> Findings:
    """Names of tasks with what Optimum and transformers add to them: a cache, or a pair of languages."""
    task = model.get("task")
    if not isinstance(task, str):
        return
    plain = task if task.startswith("text-generation") else task.removesuffix("-with-past")
    plain = _LANGUAGES.sub(r"\1", plain)
    if plain != task:
        model["task"] = plain
        message = f"The task '{task}' is '{plain}': what it adds follows from the model."
        yield Note(model.where("task"), task, plain, message)


_LANGUAGES = re.compile(r"^(translation)_\w+_to_\w+$")
_FOLLOW = {
    "is_file": "the path tells",
    "is_ort_model": "the path tells",
    "model_storage_kind": "the path tells",
    "name": "a model is known by its content",
    "version": "a model is known by its content",
    "generative": "a decoder writes text in any case",
    "model_class": "the class follows from the model's config.json",
    "feature": "what is exported follows from the task",
}


def _load_kwargs(load: Object) -> Findings:
    """Today's names, and only what decides what the model is."""
    yield from lift(load, "extra_args")
    yield from rename(load, "torch_dtype", "dtype")
    dtype = load.get("dtype")
    if isinstance(dtype, str):
        plain = dtype.lower().removeprefix("torch.")
        load["dtype"] = _DTYPES.get(plain, plain)
    if load.get("attn_implementation") in _FLASH:
        message = (
            f"'attn_implementation: {load['attn_implementation']}' is 'sdpa' here: it computes the same, and a graph "
            "holds no kernels of other packages."
        )
        yield Note(load.where("attn_implementation"), "attn_implementation", "attn_implementation", message)
        load["attn_implementation"] = "sdpa"
    for key in [key for key in load if key in _IDLE]:
        yield from drop(load, key, f"'{key}' of loading is dropped: it decides nothing of what the model is.")
    for key in [key for key in load if load[key] is None or load[key] == {}]:
        load.take(key)


def _hf_config(model: Object, hf_config: Object) -> Findings:
    yield Note(
        model.where("hf_config"), "hf_config", "", "The keys of 'hf_config' stand in 'input_model' itself today."
    )
    if model.get("model_path") is None:
        model.pop("model_path", None)
        yield from rename(hf_config, "model_name", "model_path")
    elif "model_name" in hf_config:
        yield from _second_name(model, hf_config)
    for old in _LOADING:
        yield from rename(hf_config, old, "load_kwargs")
    if "config" in hf_config:
        _, place = hf_config.take("config")
        message = "'config' of 'hf_config' is not applied."
        yield Problem("unsupported", str(place), message, "Change the model's own config.json.")
    for key in list(hf_config):
        yield from move(hf_config, key, model)
    model.take("hf_config")


def _second_name(model: Object, hf_config: Object) -> Findings:
    """Beside `model_path`, the old tool took only config and tokenizer from `model_name`."""
    name, path = hf_config["model_name"], model["model_path"]
    message = f"'model_name' is dropped: '{name}' only named the model whose files 'model_path' gives."
    is_other = isinstance(path, str) and path != name
    if is_other:
        message = (
            f"'model_name' is dropped: config and tokenizer come from '{path}' like the weights, not from '{name}'."
        )
    yield from drop(hf_config, "model_name", message, warning=is_other)


def _is_hugging_face(model: Object, *, had_hf_config: bool) -> bool:
    """Without code that loads it, a PyTorch model with a path is a Hugging Face folder."""
    has_loader = any(model.get(key) is not None for key in ("model_loader", "model_script"))
    return had_hf_config or ("model_path" in model and not has_loader)
