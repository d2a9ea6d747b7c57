"""`extra_options`: which options the builder has, and which of them nobody may set."""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from olivine.models.companions import SAMPLING, span

# the builder's options (0.18) that shape the graph or its numbers
OPTIONS = frozenset(
    {
        "accuracy_level",
        "algo_config",
        "aux_hidden_state_layers",
        "block_size",
        "config_only",
        "disable_qkv_fusion",
        "enable_cuda_fpa_intb_gemm",
        "enable_cuda_graph",
        "enable_dml_graph",
        "enable_webgpu_graph",
        "exclude_embeds",
        "exclude_lm_head",
        "exclude_mtp",
        "filename",
        "fuse_mlp_gate_up",
        "fuse_qk_norm_gqa",
        "fuse_qkv",
        "gpu_utilization_factor",
        "include_hidden_states",
        "is_symmetric",
        "kv_cache_quant_scheme",
        "kv_cache_rotation",
        "linear_attn_op",
        "matmul_mixed_precision",
        "matmulnbits_weights_prepacked",
        "max_batch_size",
        "max_draft_tokens",
        "max_scheduled_tokens",
        "moe_quant_type",
        "nodes_to_exclude",
        "num_blocks",
        "num_hidden_layers",
        "op_types_to_quantize",
        "paged_block_size",
        "paged_chunk_size",
        "prune_lm_head",
        "qmoe_block_size",
        "qmoe_weights_prepacked",
        "shared_embeddings",
        "state_update_capacity",
        "state_window",
        "use_8bits_moe",
        "use_cuda_bf16",
        "use_device_allocator_for_initializers",
        "use_paged_attention",
        "use_qdq",
        "use_webgpu_fp32",
        "windowed_kv_cache",
    }
)
# options that read files, run code or hold secrets -> what to do in their place
REFUSED = {
    "adapter_path": "name the adapter in input_model.adapter_path and merge it with the pass 'merge'",
    "dflash2_fuse_gate_up": "a draft model is not exported",
    "dflash2_fuse_qkv": "a draft model is not exported",
    "dflash2_num_draft_tokens": "a draft model is not exported",
    "dflash2_path": "a draft model is not exported",
    "dflash2_precision": "a draft model is not exported",
    "dspark_num_draft_tokens": "a draft model is not exported",
    "dspark_path": "a draft model is not exported",
    "dspark_top_k": "a draft model is not exported",
    "kv_cache_scale_file": "its content would be no part of the result's key: use kv_cache_quant_scheme without scales",
    "mtp_quant_config": "it may name a file, whose content would be no part of the result's key",
}
# yes or no is accepted, as in configs of Olive, and has no effect: the model is fetched before the builder runs
WITHOUT_EFFECT = {
    "hf_remote": "trust is said in input_model.load_kwargs.trust_remote_code",
    "hf_token": "a token is read from the environment (HF_TOKEN)",
}
# of genai_config.json's search -> the kinds of value that the runtime reads, which refuses the folder for any other
SEARCH: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("do_sample", "early_stopping", "past_present_share_buffer"), (bool,)),
    **dict.fromkeys(
        ("diversity_penalty", "length_penalty", "repetition_penalty", "temperature", "top_p"), (int, float)
    ),
    **dict.fromkeys(
        (
            "batch_size",
            "chunk_size",
            "max_length",
            "min_length",
            "no_repeat_ngram_size",
            "num_beams",
            "num_return_sequences",
            "random_seed",
            "top_k",
        ),
        (int,),
    ),
}
# least and most of these
SPANS: Mapping[str, tuple[float, float]] = {
    **SAMPLING,
    **dict.fromkeys(("max_length", "batch_size", "chunk_size"), (1, math.inf)),
    "min_length": (0, math.inf),
    "num_beams": (1, 32),
}
SECRET = re.compile(r"token|secret|password|passwd|credential|api_?key|access_?key", re.IGNORECASE)
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.onnx")
NO, YES_OR_NO = ("false", "0", "none"), ("true", "1", "false", "0", "none")


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options for the builder, under its names of today; without those that have no effect."""
    plain = {_plain(name): value for name, value in options.items()}
    return {name: value for name, value in plain.items() if name not in WITHOUT_EFFECT}


def faults(options: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each option that cannot be given; none of them shows a value that may be a secret."""
    for name, value in options.items():
        plain, text = _plain(name), str(value).strip().lower()
        if plain in REFUSED:
            yield f"'{name}' cannot be given: {REFUSED[plain]}"
        elif plain in WITHOUT_EFFECT:
            if text not in (NO if plain == "hf_remote" else YES_OR_NO):
                yield f"'{name}' cannot be given here: {WITHOUT_EFFECT[plain]}"
        elif plain == "filename" and not (isinstance(value, str) and PLAIN_NAME.fullmatch(value)):
            yield "'filename' must be the plain name of a file, such as model.onnx: it lies in the folder of the result"
        elif plain not in OPTIONS:
            yield _unknown(name)


def _unknown(name: str) -> str:
    if SECRET.search(name):
        return f"'{name}' cannot be given: secrets come from the environment, and the model builder needs none"
    close = difflib.get_close_matches(name, OPTIONS, n=1)
    return f"the model builder has no option '{name}'" + (f". Did you mean '{close[0]}'?" if close else "")


def search_faults(search: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each default of the search that the runtime would refuse to load."""
    for name, value in search.items():
        kinds = SEARCH.get(name)
        if kinds is None:
            close = difflib.get_close_matches(name, SEARCH, n=1)
            yield f"search has no '{name}'" + (f". Did you mean '{close[0]}'?" if close else "")
        elif type(value) not in kinds:
            only = kinds[0] if len(kinds) == 1 else object
            expected = {bool: "true or false", int: "a whole number"}.get(only, "a number")
            yield f"search.{name} must be {expected}, but is {value!r}; see '{name}'"
        elif name in SPANS and not SPANS[name][0] <= value <= SPANS[name][1]:
            yield f"search.{name} must be {span(*SPANS[name])}, but '{name}' is {value}"


def _plain(name: str) -> str:
    """The builder dropped the prefix `int4_` in 0.18, and ignores options that it does not know."""
    plain = name.removeprefix("int4_")
    return plain if plain in OPTIONS else name
