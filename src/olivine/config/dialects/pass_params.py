"""Params of passes in Olive that are called otherwise here, or that ask for what happens anyway."""

from typing import Any

from olivine.config.dialects._edit import Findings, Note, drop, named, put, rename, section_of, text_of
from olivine.config.nodes import Array, Object

# Passes under the names that they had, or have, and that are another pass here.
_TYPES = {
    "onnxmodeloptimizer": "OnnxPeepholeOptimizer",
    "onnxiofloat16tofloat32": "OnnxIODataTypeConverter",
    "genaimodelexporter": "ModelBuilder",
}
# Passes that prepare what passes here do by themselves.
_NOTHING = {
    "addolivemetadata": "workflow.json and journal.jsonl beside the result tell how it was made",
    "onnxquantizationpreprocess": "quantization prepares a graph by itself (quant_preprocess)",
}
_BLOCKS = ("onnxblockwisertnquantization", "onnxkquantquantization", "onnxmatmul4quantizer")
_INT8 = ("onnxquantization", "onnxstaticquantization", "onnxdynamicquantization")
_SAVING = (
    *("save_as_external_data", "all_tensors_to_one_file", "external_data_name", "size_threshold", "convert_attribute"),
)
_RENAMED = {
    "autoawqquantizer": {"w_bit": "bits", "q_group_size": "group_size"},
    "gptqquantizer": {"seed": "calibration_seed"},
}
_FOUND = "it is found out from the model"
_LATER = "how a checkpoint is stored for other tools is not asked here"
# type -> param -> (values that ask for nothing, None for all; why)
_IDLE: dict[str, dict[str, tuple[tuple[Any, ...] | None, str]]] = {
    "autoawqquantizer": {
        "input_model_dtype": (None, "weights are read in the type that they are stored in"),
        "version": (None, _LATER),
        "export_compatible": (None, _LATER),
        "pack_model_for_onnx_conversion": (None, _LATER),
        "duo_scaling": (None, "scales are searched as docs/quantization.md says"),
    },
    "gptqmodel": {
        "damp_auto_increment": (None, "damping grows by itself where it must"),
        "device": (None, "the host of the pass decides"),
        "mse": ((0, 0.0), "it asked for nothing"),
        "rotation": ((None,), "it asked for nothing"),
        "dynamic": ((None, {}), "it asked for nothing"),
    },
    "gptqquantizer": {
        "layers_block_name": (None, _FOUND),
        "outside_layer_modules": (None, _FOUND),
        "inside_layer_modules": (None, _FOUND),
        "batch_size": (None, "how many rows are read at once changes no result"),
    },
    "onnxconversion": {
        "past_key_value_name": (None, "a decoder is exported without a cache; ModelBuilder has one"),
        "merge_components": ((False, None), "it asked for nothing"),
    },
    "onnxpeepholeoptimizer": {
        "onnxscript_optimize": ((True,), "it is done in any case"),
        "onnxoptimizer_optimize": ((True,), "it is done in any case"),
        "fuse_reshape_operations": ((True,), "it is done in any case"),
        "fix_com_microsoft_opset": (None, "the version of an operator's domain is written in any case"),
        "cast_chain_elimination": (None, "casts that undo each other go in any case"),
    },
    "onnxfloattofloat16": {"node_include_list": ((None, []), "it asked for nothing")},
    "orttransformersoptimization": {"use_gqa": ((False, None), "it asked for nothing")},
    **{
        kind: {
            "axis": (None, "blocks lie along what a product sums over"),
            "quant_axes": (None, "blocks lie along what a product sums over"),
            "op_types_to_quantize": ((["MatMul"], None), "it asked for nothing"),
            "weight_only_quant_configs": ((None, {}), "it asked for nothing"),
            "customized_weight_config": ((None, {}), "it asked for nothing"),
            **dict.fromkeys(_SAVING, (None, "the weights lie in one file beside the graph")),
        }
        for kind in _BLOCKS
    },
    **{
        kind: {
            "calibration_providers": (None, "calibration runs where the pass does"),
            "prepare_qdq_config": (None, "operators and types are those that the params name"),
            "prepare_qnn_config": (None, "operators and types are those that the params name"),
            "qnn_extra_options": ((None, {}), "it asked for nothing"),
        }
        for kind in _INT8
    },
}
_MODES = {"onnxstaticquantization": "static", "onnxdynamicquantization": "dynamic"}
_BUILDER = ("use_webgpu_fp32", "use_cuda_bf16", "include_hidden_states", "use_8bits_moe", "int4_nodes_to_exclude")


def translate(config: Object) -> Findings:
    """Give passes and their params the names that they have here, and leave out what changes nothing."""
    passes = config.mapping("passes")
    if passes is None:
        return
    yield from _without(passes)
    for _, step in named(config, "passes"):
        kind = text_of(step, "type")
        if kind in _TYPES:
            yield Note(step.where("type"), step["type"], _TYPES[kind], f"'{step['type']}' is called '{_TYPES[kind]}'.")
            step["type"] = _TYPES[kind]
            kind = _TYPES[kind].lower()
        for old, new in _RENAMED.get(kind, {}).items():
            yield from rename(step, old, new)
        yield from _idle(step, kind)
        if kind == "modelbuilder":
            yield from _builder(step)
        if kind == "autoawqquantizer" and isinstance(step.get("zero_point"), bool):
            value, place = step.take("zero_point")
            yield from put(step, "sym", not value, place, old="zero_point")
            yield Note(str(place), "zero_point", "sym", "'zero_point' is the opposite of 'sym' today.")


def _without(passes: Object) -> Findings:
    for name in list(passes):
        step = passes[name]
        why = _NOTHING.get(text_of(step, "type")) if isinstance(step, Object) else None
        if why is not None and len(passes) > 1:
            yield from drop(passes, name, f"The pass '{name}' ({step['type']}) is left out: {why}.")


def _idle(step: Object, kind: str) -> Findings:
    for key, (values, why) in _IDLE.get(kind, {}).items():
        if key in step and (values is None or step[key] in values):
            yield from drop(step, key, f"'{key}' is dropped: {why}.")
    if step.get("quant_mode") == _MODES.get(kind, ""):
        yield from drop(step, "quant_mode", "'quant_mode' is dropped: the type of the pass says it.")


def _builder(step: Object) -> Findings:
    """Options of the builder that stand beside its others today."""
    for key in _BUILDER:
        if step.get(key) in (None, False):
            step.pop(key, None)
        elif key in step:
            value, place = step.take(key)
            value = ",".join(map(str, value)) if isinstance(value, Array) else value
            yield from put(section_of(step, "extra_options", place), key, value, place)
            yield Note(str(place), key, f"extra_options.{key}", f"'{key}' stands in 'extra_options'.")
