"""Models that are no chat models, from configs as users of Olive write them to the folder that ships: each is run whole."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from encoders import tiny_encoder
from olivine.config import load
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan
from tiny import tiny_model, write_rows

pytestmark = pytest.mark.slow
CPU = {"type": "LocalSystem", "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]}
IMAGES = """
import numpy as np
import torch
from olive.data.registry import Registry

class Images(torch.utils.data.Dataset):
    def __init__(self, n):
        random = np.random.default_rng(0)
        self.rows = [random.normal(size=(3, 32, 32)).astype("float32") for _ in range(n)]
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, index):
        return {"pixel_values": torch.from_numpy(self.rows[index])}, index % 5

@Registry.register_dataset()
def made_up_images(n=8, **kwargs):
    return list(range(n))

@Registry.register_pre_process()
def image_pre_process(dataset, size=32, cache_key=None, **kwargs):
    return Images(len(dataset))

@Registry.register_post_process()
def image_post_process(output):
    return output.logits.argmax(-1)
"""
PAIRS = """
import numpy as np
from olive.data.registry import Registry

@Registry.register_dataset()
def pairs(n=4, **kwargs):
    random = np.random.default_rng(0)
    def row():
        ids = random.integers(0, 389, (2, 8))
        pixels = random.normal(size=(1, 3, 32, 32)).astype("float32")
        return {"input_ids": ids, "pixel_values": pixels, "attention_mask": np.ones((2, 8), "int64")}
    return [row() for _ in range(n)]
"""
NET = """
import numpy as np
import torch

def load_model(model_path):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3)
    )

class Loader:
    def __init__(self, batch_size):
        random = np.random.default_rng(0)
        net = load_model(None).eval()
        self.rows = torch.from_numpy(random.normal(size=(12, 3, 16, 16)).astype("float32"))
        self.labels = net(self.rows).argmax(-1)
        self.batch_size = batch_size or 1
    def __iter__(self):
        for start in range(0, len(self.rows), self.batch_size):
            yield self.rows[start : start + self.batch_size], self.labels[start : start + self.batch_size]

def create_dataloader(data_dir, batch_size, *args, **kwargs):
    return Loader(batch_size)

def post_process(output):
    return output.argmax(-1)
"""


def outcome(folder, config, script=("", "")):
    """What a config comes to that stands in the folder with its script."""
    name, text = script
    if name:
        (folder / name).write_text(text)
    (folder / "config.json").write_text(json.dumps(config | {"cache_dir": str(folder / "cache")}))
    plan = make_plan(load(folder / "config.json"))
    assert [problem.message for problem in plan.problems] == []
    return run(plan)


def test_vit_to_a_quantized_graph_for_an_npu(tmp_path):
    data = {
        "name": "imgs",
        "type": "HuggingfaceContainer",
        "user_script": "images.py",
        "load_dataset_config": {"type": "made_up_images", "n": 10},
        "pre_process_data_config": {"type": "image_pre_process", "size": 32, "cache_key": "tiny"},
        "post_process_data_config": {"type": "image_post_process"},
    }
    sub_types = [{"name": "accuracy_score", "priority": 1, "metric_config": {"task": "multiclass", "num_classes": 5}}]
    npu = {"type": "LocalSystem", "accelerators": [{"device": "npu", "execution_providers": ["QNNExecutionProvider"]}]}
    quantize = {
        "type": "OnnxStaticQuantization",
        "data_config": "imgs",
        "activation_type": "uint16",
        "precision": "uint8",
        "quant_preprocess": True,
        "op_types_to_quantize": ["MatMul", "Gemm", "LayerNormalization"],
        "save_as_external_data": True,
    }
    config = {
        "input_model": {
            "type": "HfModel",
            "model_path": str(tiny_encoder(tmp_path / "model", "vit")),
            "task": "image-classification",
            "load_kwargs": {"attn_implementation": "eager"},
            "io_config": {
                "input_names": ["pixel_values"],
                "input_shapes": [[1, 3, 32, 32]],
                "output_names": ["output"],
            },
        },
        "systems": {"npu": npu},
        "data_configs": [data],
        "evaluators": {
            "e": {"metrics": [{"name": "acc", "type": "accuracy", "data_config": "imgs", "sub_types": sub_types}]}
        },
        "passes": {
            "conversion": {
                "type": "OnnxConversion",
                "target_opset": 17,
                "dynamic": False,
                "use_dynamo_exporter": False,
            },
            "qnn": {"type": "QNNPreprocess"},
            "quant": quantize,
        },
        "evaluator": "e",
        "target": "npu",
        "output_dir": str(tmp_path / "out"),
    }
    result = outcome(tmp_path, config, ("images.py", IMAGES))
    assert [row["n_rows"] for row in result.scores] == [10] * 4
    assert result.scores[-1]["cosine"] > 0.95
    graph = onnx.load(tmp_path / "out" / "model" / "model.onnx")
    assert [one.name for one in graph.graph.output] == ["output"]
    assert "DequantizeLinear" in {node.op_type for node in graph.graph.node}


def test_clip_with_four_named_outputs(tmp_path):
    names = ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"]
    io_config = {
        "input_names": ["input_ids", "pixel_values", "attention_mask"],
        "input_shapes": [[2, 8], [1, 3, 32, 32], [2, 8]],
        "input_types": ["int64", "float32", "int64"],
        "output_names": names,
        "output_shapes": [[1, 2], [2, 1], [2, 16], [1, 16]],
    }
    config = {
        "input_model": {
            "type": "HfModel",
            "model_path": str(tiny_encoder(tmp_path / "model", "clip")),
            "task": "zero-shot-image-classification",
            "load_kwargs": {"attn_implementation": "eager"},
            "io_config": io_config,
        },
        "systems": {"local_system": CPU},
        "data_configs": [
            {
                "name": "calib",
                "user_script": "pairs.py",
                "load_dataset_config": {"type": "pairs", "n": 4},
                "dataloader_config": {"batch_size": 1},
            }
        ],
        "passes": {
            "conversion": {"type": "OnnxConversion", "target_opset": 17, "dynamic": True},
            "surgery": {"type": "GraphSurgeries", "surgeries": [{"surgeon": "ReplaceAttentionMaskValue"}]},
            "quant": {
                "type": "OnnxStaticQuantization",
                "data_config": "calib",
                "precision": "QUInt8",
                "activation_type": "QUInt16",
            },
        },
        "host": "local_system",
        "target": "local_system",
        "output_dir": str(tmp_path / "out"),
    }
    result = outcome(tmp_path, config, ("pairs.py", PAIRS))
    assert result.scores[1]["cosine"] > 0.9999
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model" / "model.onnx")
    assert [one.name for one in session.get_outputs()] == names


def test_text_encoder_of_clip_at_a_fixed_size_in_half_precision(tmp_path):
    model = tmp_path / "pipeline"
    tiny_encoder(model / "text_encoder", "clip_text")
    config = {
        "input_model": {
            "type": "HfModel",
            "model_path": str(model),
            "task": "feature-extraction",
            "load_kwargs": {"subfolder": "text_encoder"},
            "io_config": {
                "input_names": ["input_ids"],
                "input_shapes": [[1, 60]],
                "input_types": ["int32"],
                "output_names": ["text_embeds", "last_hidden_state"],
            },
        },
        "passes": {
            "convert": {"type": "OnnxConversion", "target_opset": 16, "dynamic": False},
            "fp16": {"type": "OnnxFloatToFloat16"},
        },
        "log_severity_level": 1,
        "output_dir": str(tmp_path / "out" / "text.onnx"),
    }
    result = outcome(tmp_path, config)
    assert result.scores[-1]["cosine"] > 0.999
    session = onnxruntime.InferenceSession(next((tmp_path / "out").rglob("text.onnx")))
    (ids,) = session.get_inputs()
    assert (ids.shape, ids.type) == ([1, 60], "tensor(int32)")
    assert {one.type for one in session.get_outputs()} == {"tensor(float16)"}


def test_small_cnn_of_2023_with_loader_functions_and_a_search(tmp_path):
    user = {"user_script": "user_script.py", "dataloader_func": "create_dataloader", "batch_size": 1}
    sub_types = [{"name": "accuracy_score", "priority": 1, "metric_config": {"task": "multiclass", "num_classes": 3}}]
    accuracy = {"name": "accuracy", "type": "accuracy", "sub_types": sub_types}
    accuracy["user_config"] = {"post_processing_func": "post_process", **user}
    latency = {"name": "latency", "type": "latency", "sub_types": [{"name": "avg", "priority": 2}], "user_config": user}
    modes = {"olive_parameter_type": "SearchParameter", "type": "Categorical", "support": ["static", "dynamic"]}
    io_config = {"input_names": ["input"], "input_shapes": [[1, 3, 16, 16]], "output_names": ["output"]}
    config = {
        "input_model": {
            "type": "PyTorchModel",
            "config": {
                "model_loader": "load_model",
                "model_script": "user_script.py",
                "io_config": io_config | {"dynamic_axes": {"input": {"0": "batch"}, "output": {"0": "batch"}}},
            },
        },
        "systems": {"local_system": {"type": "LocalSystem", "config": {"accelerators": ["cpu"]}}},
        "evaluators": {"ce": {"metrics": [accuracy, latency]}},
        "passes": {
            "c": {"type": "OnnxConversion", "config": {"target_opset": 13}},
            "q": {"type": "OnnxQuantization", "config": {"quant_mode": modes, "weight_type": "QInt8", **user}},
        },
        "engine": {
            "search_strategy": {"execution_order": "joint", "search_algorithm": "exhaustive"},
            "evaluator": "ce",
            "target": "local_system",
            "host": "local_system",
            "output_dir": str(tmp_path / "out"),
        },
    }
    outcome(tmp_path, config, ("user_script.py", NET))
    graphs = list((tmp_path / "out").rglob("*.onnx"))
    assert graphs
    kinds = {node.op_type for path in graphs for node in onnx.load(path).graph.node}
    assert kinds & {"QuantizeLinear", "ConvInteger", "QLinearConv", "DynamicQuantizeLinear", "MatMulInteger"}


def test_llama_with_dora_whose_adapter_is_taken_out(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 8)
    data = {
        "name": "tones",
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_name": "json", "data_files": str(rows)},
        "pre_process_data_config": {"text_template": "{phrase}: {tone}", "strategy": "line-by-line", "max_seq_len": 32},
    }
    training = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 0.01}
    config = {
        "input_model": {"type": "HfModel", "model_path": str(tiny_model(tmp_path / "model", num_hidden_layers=1))},
        "data_configs": [data],
        "passes": {
            "d": {"type": "DoRA", "r": 4, "alpha": 8, "train_data_config": "tones", "training_args": training},
            "c": {"type": "OnnxConversion", "target_opset": 17},
            "e": {"type": "ExtractAdapters", "adapter_type": "dora", "save_format": "safetensors"},
        },
        "output_dir": str(tmp_path / "out"),
    }
    outcome(tmp_path, config)
    from safetensors.numpy import load_file

    weights = load_file(tmp_path / "out" / "model" / "adapter_weights.safetensors")
    assert {name.split(".")[-2] for name in weights} == {"lora_A", "lora_B", "lora_magnitude_vector"}
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model" / "model.onnx")
    ids = np.ones((1, 5), np.int64)
    (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": ids, **weights})
    assert np.isfinite(logits).all()


def test_t5_to_the_three_graphs_of_optimum_in_int8(tmp_path):
    latency = {"name": "latency", "type": "latency", "sub_types": [{"name": "avg", "priority": 1}]}
    config = {
        "input_model": {
            "type": "HfModel",
            "model_path": str(tiny_encoder(tmp_path / "model", "t5")),
            "task": "text2text-generation",
        },
        "systems": {"local_system": CPU},
        "evaluators": {"common": {"metrics": [latency]}},
        "passes": {
            "conversion": {"type": "OnnxConversion", "target_opset": 17},
            "transformers_optimization": {"type": "OrtTransformersOptimization", "model_type": "t5"},
            "quantization": {"type": "OnnxDynamicQuantization", "per_channel": False, "reduce_range": False},
        },
        "evaluator": "common",
        "host": "local_system",
        "target": "local_system",
        "output_dir": str(tmp_path / "out"),
    }
    result = outcome(tmp_path, config)
    names = ["encoder_model", "decoder_model", "decoder_with_past_model"]
    base, *others = result.scores
    assert [list(row["parts"]) for row in others] == [names] * 3
    assert min(row["cosine"] for row in others) > 0.98
    assert others[-1]["size_bytes"] < others[0]["size_bytes"]
    assert base["latency_avg"] > 0 < others[-1]["latency_avg"]
    assert {path.parent.name for path in (tmp_path / "out" / "model").rglob("*.onnx")} == set(names)
