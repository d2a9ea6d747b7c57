"""Params of passes in Olive that are called otherwise here, or that ask for what happens anyway."""

from collections.abc import Generator
from typing import Any

from olivine.config.dialects._edit import Finding, Findings, Note, drop, move, named, put, rename, section_of, text_of
from olivine.config.nodes import Array, Object, typed
from olivine.errors import Problem

# Passes under the names that they had, or have, and that are another pass here.
_TYPES = {
    "onnxmodeloptimizer": "OnnxPeepholeOptimizer",
    "onnxiofloat16tofloat32": "OnnxIODataTypeConverter",
    "genaimodelexporter": "ModelBuilder",
    "ortmixedprecision": "OnnxFloatToFloat16",
}
# Passes that prepare what passes here do by themselves.
_NOTHING = {
    "addolivemetadata": "workflow.json and journal.jsonl beside the result tell how it was made",
    "onnxquantizationpreprocess": "quantization prepares a graph by itself (quant_preprocess)",
    "optimummerging": "a decoder is one graph already",
}
# Passes of other packages in whose place one of olivine's does another thing that serves as well, and what is other.
_REPLACED = {
    "optimumconversion": (
        "OnnxConversion",
        "the graph is that of OnnxConversion, without a cache of past keys; ModelBuilder makes one with it",
    ),
    "spinquant": ("QuaRot", "the rotation is that of QuaRot, which is not trained"),
}
_BLOCKS = ("onnxblockwisertnquantization", "onnxkquantquantization", "onnxmatmul4quantizer")
_INT8 = ("onnxquantization", "onnxstaticquantization", "onnxdynamicquantization")
_PREPARING = ("skip_optimization", "skip_onnx_shape", "skip_symbolic_shape")
# Of onnxruntime's options for quantization, those that Olive also takes beside the others.
_EXTRA = (
    *("ActivationSymmetric", "WeightSymmetric", "EnableSubgraph", "ForceQuantizeNoInputCheck", "MatMulConstBOnly"),
    *("AddQDQPairToWeight", "DedicatedQDQPair", "QDQOpTypePerChannelSupportToAxis", "extra.Sigmoid.nnapi"),
)
# The same under the names that Olive has had for some of them since 2025.
_EXTRA_TODAY = {
    "activation_symmetric": "ActivationSymmetric",
    "weight_symmetric": "WeightSymmetric",
    "min_real_range": "MinimumRealRange",
    "tensor_quant_overrides": "TensorQuantOverrides",
}
_SAVING = (
    *("save_as_external_data", "all_tensors_to_one_file", "external_data_name", "size_threshold", "convert_attribute"),
)
_RENAMED = {
    "autoawqquantizer": {"w_bit": "bits", "q_group_size": "group_size"},
    "gptqquantizer": {"seed": "calibration_seed"},
    "onnxconversion": {"use_device": "device"},
    "openvinoconversion": {
        "output_model": "model_name",
        "extra_config": "extra_configs",
        "input": "input_shapes",
        "input_shape": "input_shapes",
    },
}
# What OrtMixedPrecision left in 32 bits where nothing was named.
_KEPT_IN_32 = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "Relu", "Add")
_FOUND = "it is found out from the model"
_LATER = "how a checkpoint is stored for other tools is not asked here"
_Idle = dict[str, tuple[tuple[Any, ...] | None, str]]  # param -> values that ask for nothing, None for all; why
_ORTMODULE: _Idle = {"ortmodule_onnx_opset_version": (None, "models are trained in PyTorch itself")}
_QUAROT_BITS = ("w_bits", "a_bits", "k_bits", "v_bits", "s_bits")
_QUAROT_WEIGHTS = ("w_rtn", "w_gptq")
# What another pass does: type -> param -> the fix.
_ELSEWHERE: dict[str, dict[str, str]] = {
    "quarot": {
        **dict.fromkeys((*_QUAROT_WEIGHTS, "w_bits"), "Put Rtn or Gptq after it."),
        **dict.fromkeys(_QUAROT_BITS[1:], "Put OnnxStaticQuantization after ModelBuilder for activations."),
        "rotate": "Leave the pass out.",
    },
    "gptqmodel": {"rotation": "Put QuaRot before it."},
}
# by the type of the pass
_IDLE: dict[str, _Idle] = {
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
    },
    "gptqquantizer": {
        "layers_block_name": (None, _FOUND),
        "outside_layer_modules": (None, _FOUND),
        "inside_layer_modules": (None, _FOUND),
        "batch_size": (None, "how many rows are read at once changes no result"),
        "nsamples": (None, "calibration_tokens says how much is read"),
    },
    "quarot": {
        **dict.fromkeys(("input_model_dtype", "rotation_seed"), (None, "seed and rotate_mode say it all")),
        **dict.fromkeys(
            ("calibration_data_config", "calibration_nsamples", "calibration_batch_size"),
            (None, "nothing is calibrated"),
        ),
        **dict.fromkeys(("a_symmetric", "a_per_token", "training_args"), (None, "the rotation is not trained")),
        **dict.fromkeys(("a_asym", "a_clip_ratio", "a_groupsize"), (None, "activations stay as they are")),
        **dict.fromkeys(
            ("gptq_damping", "gptq_opt_scales", "w_asym", "w_groupsize"), (None, "weights are only turned")
        ),
        **dict.fromkeys(("k_clip_ratio", "k_groupsize", "v_clip_ratio", "v_groupsize"), (None, "nothing is rounded")),
        **dict.fromkeys(_QUAROT_BITS, ((16, None), "it asked for nothing")),
        **dict.fromkeys(_QUAROT_WEIGHTS, ((False, None), "it asked for nothing")),
        "rotate": ((True, None), "it is done in any case"),
    },
    "lora": _ORTMODULE,
    "loftq": _ORTMODULE,
    "qlora": _ORTMODULE,
    "selectivemixedprecision": {"keep_tied_word_embeddings": (None, "a tied head and its embedding stay one")},
    "onnxconversion": {
        "past_key_value_name": (None, "a decoder is exported without a cache; ModelBuilder has one"),
        "merge_components": (None, "a decoder is one graph already"),
        "components": (None, "a model is exported as a whole"),
        "extra_args": (None, "inputs, outputs and their sizes follow from the task"),
        "fp16": ((False, None), "it asked for nothing"),
    },
    "graphsurgeries": {"remove_duplicate_initializers": (None, "OnnxPeepholeOptimizer shares what is the same")},
    "onnxpeepholeoptimizer": {
        "onnxscript_optimize": ((True,), "it is done in any case"),
        "onnxoptimizer_optimize": ((True,), "it is done in any case"),
        "fuse_reshape_operations": ((True,), "it is done in any case"),
        "fix_com_microsoft_opset": (None, "the version of an operator's domain is written in any case"),
        "cast_chain_elimination": (None, "casts that undo each other go in any case"),
    },
    "orttransformersoptimization": {
        "use_gqa": ((False, None), "it asked for nothing"),
        "replace_attn_mask_input_with_seq_len": (None, "masks stay inputs as the graph has them"),
    },
    "ortsessionparamstuning": {
        **dict.fromkeys(("input_names", "input_shapes", "input_types"), (None, "they follow from the graph")),
        "trt_fp16_enable": (None, "it is a matter of the provider, whose options are not tuned"),
        "provider_options_list": (None, "providers are run with their defaults"),
        "force_evaluate_other_eps": (None, "providers_list says which providers are tried"),
        "enable_profiling": (None, "times are taken without a profile"),
    },
    **{
        kind: {
            "axis": (None, "blocks lie along what a product sums over"),
            "quant_axes": (None, "blocks lie along what a product sums over"),
            "op_types_to_quantize": ((["MatMul"], None), "it asked for nothing"),
            "weight_only_quant_configs": ((None, {}), "it asked for nothing"),
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
            "append_first_op_types_to_quantize_list": ((False, None), "it asked for nothing"),
            "optimize_model": (None, "a graph is prepared as it needs (quant_preprocess)"),
            **dict.fromkeys(_PREPARING, (None, "a graph is prepared as it needs (quant_preprocess)")),
        }
        for kind in _INT8
    },
}
for _kind in ("conversion", "ioupdate", "reshape", "weightcompression", "encapsulation"):
    _IDLE[f"openvino{_kind}"] = {"reuse_cache": (None, "results of earlier passes are never written over")}
for _kind in ("quantization", "quantizationwithaccuracy"):
    _IDLE[f"openvino{_kind}"] = {
        "reuse_cache": (None, "results of earlier passes are never written over"),
        "metric_func": (None, "outputs are held to those before; OpenVINOQuantizationWithAccuracy holds an accuracy"),
    }
_IDLE["ortperftuning"] = _IDLE["ortsessionparamstuning"]
_MODES = {"onnxstaticquantization": "static", "onnxdynamicquantization": "dynamic"}
# What onnxruntime-genai has of generation_config.json.
_SEARCH = (
    *("max_length", "min_length", "num_beams", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty"),
    *("length_penalty", "no_repeat_ngram_size", "early_stopping", "num_return_sequences", "diversity_penalty"),
)
_BUILDER = ("use_webgpu_fp32", "use_cuda_bf16", "include_hidden_states", "use_8bits_moe", "int4_nodes_to_exclude")


def translate(config: Object) -> Findings:
    """Give passes and their params the names that they have here, and leave out what changes nothing."""
    passes = config.mapping("passes")
    if passes is None:
        return
    yield from _generation(config)
    yield from _compared(config, passes)
    yield from _without(config, passes)
    yield from _room(config)
    for _, step in named(config, "passes"):
        kind = yield from _type(step)
        for old, new in _RENAMED.get(kind, {}).items():
            yield from rename(step, old, new)
        yield from _idle(step, kind)
        if kind == "modelbuilder":
            yield from _builder(step)
        if kind == "orttransformersoptimization":
            message = "'use_gqa' is dropped: decoders with a cache and GroupQueryAttention are made by ModelBuilder."
            yield from drop(step, "use_gqa", message, warning=True)
        if kind in _INT8:
            yield from _extra_options(step)
        if kind == "onnxmatmul4quantizer":
            yield from _of_algorithm(step)
        if kind == "gptqmodel":
            yield from _dynamic(step)
        if kind == "autoawqquantizer" and isinstance(step.get("zero_point"), bool):
            value, place = step.take("zero_point")
            yield from put(step, "sym", not value, place, old="zero_point")
            yield Note(str(place), "zero_point", "sym", "'zero_point' is the opposite of 'sym' today.")


def _room(config: Object) -> Findings:
    """How large a part of a graph may be: as much as the accelerator has of memory, where the step says nothing."""
    given = [system.get("accelerators") for _, system in named(config, "systems")]
    rooms = [one for some in given if isinstance(some, Array) for one in some if isinstance(one, Object)]
    room = next((one for one in rooms if one.get("memory") is not None), None)
    for _, step in named(config, "passes"):
        is_meant = text_of(step, "type") == "capturesplitinfo" and step.get("cost_model") is not None
        if room is not None and is_meant and step.get("memory") is None:
            place = room.places["memory"]
            step.put("memory", room["memory"], place)
            message = "The memory of the accelerator is that of a part ('memory' of the pass)."
            yield Note(str(place), "memory", "memory", message)


def _without(config: Object, passes: Object) -> Findings:
    for name in list(passes):
        step = passes[name]
        why = _NOTHING.get(text_of(step, "type")) if isinstance(step, Object) else None
        if why is not None and len(passes) > 1:
            yield from _leave_out(config, name, f"The pass '{name}' ({step['type']}) is left out: {why}.")


def _leave_out(config: Object, name: str, message: str, *, warning: bool = False) -> Findings:
    """Remove a pass, from the flows that name it too."""
    yield from drop(config["passes"], name, message, warning=warning)
    flows = config.get("pass_flows")
    for flow in flows if isinstance(flows, Array) else []:
        if isinstance(flow, Array) and name in flow:
            index = flow.index(name)
            del flow[index], flow.places[index]


def _compared(config: Object, passes: Object) -> Findings:
    """A check of graphs that onnxruntime-genai does not run: each is held to the model before it without one."""
    kinds = {text_of(step, "type") for _, step in named(config, "passes")}
    if "onnxconversion" not in kinds or "modelbuilder" in kinds:
        return
    for name in [name for name in passes if isinstance(passes[name], Object)]:
        step = passes[name]
        if text_of(step, "type") == "onnxdiscrepancycheck" and len(passes) > 1:
            gates = [key for key in step if key.startswith(("max_", "min_"))]
            message = f"The pass '{name}' (OnnxDiscrepancyCheck) is left out: outputs are compared at every step."
            if gates:
                message += f" '{gates[0]}' is no limit then; quality.max_drop and goals of an evaluator are."
            yield from _leave_out(config, name, message, warning=bool(gates))


def _type(step: Object) -> Generator[Finding, None, str]:
    """Give a pass the name that it has here; returns it in lower case."""
    kind, written = text_of(step, "type"), step.get("type")
    if kind in _TYPES:
        yield Note(step.where("type"), str(written), _TYPES[kind], f"'{written}' is called '{_TYPES[kind]}'.")
        step["type"] = _TYPES[kind]
    elif kind in _REPLACED:
        step["type"], what = _REPLACED[kind]
        yield Note(step.where("type"), str(written), step["type"], f"In place of '{written}', {what}.", warning=True)
    if kind == "ortmixedprecision":
        yield from _mixed_precision(step)
    return text_of(step, "type")


def _mixed_precision(step: Object) -> Findings:
    """What it left in 32 bits, and the check of its result, which every pass here gets."""
    for key in ("atol", "rtol"):
        yield from drop(step, key, f"'{key}' is dropped: outputs are compared with those before in any case.")
    if "op_block_list" not in step:
        step.put("op_block_list", typed(list(_KEPT_IN_32), step.place), step.place)
        message = "The old default of 'op_block_list' is written down."
        yield Note(str(step.place), "op_block_list", "op_block_list", message)


def _idle(step: Object, kind: str) -> Findings:
    for key, (values, why) in _IDLE.get(kind, {}).items():
        if key in step and (values is None or step[key] in values):
            yield from drop(step, key, f"'{key}' is dropped: {why}.")
    for key, fix in _ELSEWHERE.get(kind, {}).items():
        if key in step:
            value, place = step.take(key)
            if value is not None:
                yield Problem("unsupported", str(place), f"'{key}' of {step['type']} is not served here.", fix)
    if step.get("quant_mode") == _MODES.get(kind, ""):
        yield from drop(step, "quant_mode", "'quant_mode' is dropped: the type of the pass says it.")


def _extra_options(step: Object) -> Findings:
    """Options of onnxruntime that stand beside the others, those for tensors of QNN among them."""
    qnn = step.mapping("qnn_extra_options")
    if qnn is not None:
        yield from move(qnn, "init_overrides", step, "tensor_quant_overrides")
        left = ", ".join(qnn)
        message = "'init_overrides' of 'qnn_extra_options' is 'TensorQuantOverrides' of 'extra_options'."
        if left:
            message = f"'qnn_extra_options' is dropped ({left}): only QNN's own preparation of a graph reads it."
        yield from drop(step, "qnn_extra_options", message, warning=bool(left))
    for key, today in _EXTRA_TODAY.items():
        if step.get(key) is None:
            step.pop(key, None)
        else:
            yield from rename(step, key, today, f"'{key}' is '{today}' of 'extra_options'.")
    known = dict.fromkeys((*_EXTRA, *_EXTRA_TODAY.values()))
    yield from _beside(step, "extra_options", [key for key in known if key in step])


def _of_algorithm(step: Object) -> Findings:
    """`weight_only_quant_configs`: settings of one algorithm, which go before those of the pass."""
    settings = step.mapping("weight_only_quant_configs")
    if settings is not None:
        for key in [key for key in ("block_size", "is_symmetric", "accuracy_level", "bits") if key in settings]:
            step.pop(key, None)
            yield from move(settings, key, step)
        left = ", ".join(settings)
        message = "What 'weight_only_quant_configs' says stands in the pass itself."
        if left:
            message = f"'weight_only_quant_configs' is dropped ({left}): its algorithm has no such setting here."
        yield from drop(step, "weight_only_quant_configs", message, warning=bool(left))
    kind = text_of(step, "algorithm")
    if kind == "hqq":
        yield Note(step.where("algorithm"), "algorithm", "type", "The algorithm HQQ is OnnxHqqQuantization.")
        step["type"] = "OnnxHqqQuantization"
        for key in ("algorithm", "is_symmetric", "accuracy_level"):
            yield from drop(step, key, f"'{key}' is dropped: OnnxHqqQuantization has none.")
    elif kind == "gptq":
        message = "the algorithm GPTQ is not built for graphs: it needs neural-compressor."
        fix = "Put Gptq before ModelBuilder, or leave 'algorithm' out."
        yield Problem("unsupported", step.where("algorithm"), message, fix)
        step.pop("algorithm")
    axes = step.get("op_types_to_quantize")
    if axes not in (None, ["MatMul"]):
        message = "'op_types_to_quantize' is dropped: products are quantized, embeddings in ModelBuilder alone."
        yield from drop(step, "op_types_to_quantize", message, warning=True)


def _dynamic(step: Object) -> Findings:
    """`dynamic` of GptqModel: patterns of modules with settings of their own, or with "-:" those that are left out."""
    given = step.mapping("dynamic")
    if given is None:
        step.pop("dynamic", None)
        return
    _, place = step.take("dynamic")
    left_out = [f"re:{key[2:]}.*" for key in given if key.startswith("-:")]
    if left_out:
        yield from put(step, "modules_to_not_convert", typed(left_out, place), place, old="dynamic")
    for key in [key for key in given if not key.startswith("-:")]:
        yield from move(given, key, section_of(step, "overrides", place), f"re:{key.removeprefix('+:')}.*")
    yield Note(str(place), "dynamic", "overrides", "'dynamic' is 'overrides' and 'modules_to_not_convert' here.")


def _builder(step: Object) -> Findings:
    """Options of the builder that stand beside its others today."""
    for key in _BUILDER:
        if step.get(key) in (None, False):
            step.pop(key, None)
    yield from _beside(step, "extra_options", [key for key in _BUILDER if key in step], joined=True)


def _generation(config: Object) -> Findings:
    """Defaults of writing text: of the model in configs of Olive, of the graph for onnxruntime-genai here."""
    model = config.mapping("input_model")
    given = model.mapping("generation_config") if model is not None else None
    if model is None or given is None:
        return
    _, place = model.take("generation_config")
    builder = next((step for _, step in named(config, "passes") if text_of(step, "type") == "modelbuilder"), None)
    left = [key for key in given if key not in _SEARCH or builder is None]
    for key in [key for key in given if key not in left and builder is not None]:
        yield from move(given, key, section_of(builder, "search", place)) if builder is not None else ()
    message = "'generation_config' of the model is 'search' of ModelBuilder."
    if left:
        message = f"'generation_config' is dropped ({', '.join(left)}): the model's own generation_config.json is used."
    yield Note(str(place), "generation_config", "search", message, warning=bool(left))


def _beside(step: Object, section: str, keys: list[str], *, joined: bool = False) -> Findings:
    """Move params into the section of a pass. joined: a list is written as a text."""
    for key in keys:
        value, place = step.take(key)
        value = ",".join(map(str, value)) if joined and isinstance(value, Array) else value
        yield from put(section_of(step, section, place), key, value, place)
        yield Note(str(place), key, f"{section}.{key}", f"'{key}' stands in '{section}'.")
