"""Pipelines of diffusers: planned from their files alone, exported part by part."""

import json

import numpy as np
import onnxruntime
import pytest

from olivine.config import load
from olivine.models.diffusion import pipeline_parts
from olivine.models.interface import facts_of
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan

UNET = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
}
VAE = {
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "layers_per_block": 1,
}
TEXT = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
NAMES = ["text_encoder", "unet", "vae_encoder", "vae_decoder"]


def drawn(folder):
    """A pipeline of which only the configs and the headers of weights are right."""
    import torch
    from safetensors.torch import save_file

    configs = {
        "text_encoder": TEXT | {"architectures": ["CLIPTextModel"]},
        "unet": UNET | {"_class_name": "UNet2DConditionModel", "in_channels": 4},
        "vae": VAE | {"_class_name": "AutoencoderKL", "in_channels": 3},
    }
    for name, config in configs.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        save_file({"weight": torch.zeros(3, 5)}, folder / name / "diffusion_pytorch_model.safetensors")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


def real(folder):
    diffusers = pytest.importorskip("diffusers")
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    diffusers.UNet2DConditionModel(**UNET).save_pretrained(folder / "unet")
    diffusers.AutoencoderKL(**VAE).save_pretrained(folder / "vae")
    diffusers.DDIMScheduler().save_pretrained(folder / "scheduler")
    CLIPTextModel(CLIPTextConfig(**TEXT)).save_pretrained(folder / "text_encoder")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


def planned(folder, pipeline, **more):
    config = {
        "input_model": {"type": "DiffusersModel", "model_path": str(pipeline), "model_variant": "sd"} | more,
        "passes": {"c": {"type": "OnnxConversion", "target_opset": 17}},
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }
    (folder / "config.json").write_text(json.dumps(config))
    return make_plan(load(folder / "config.json"))


def test_parts_and_their_inputs_follow_from_the_files_of_a_pipeline(tmp_path):
    parts = pipeline_parts(drawn(tmp_path / "pipe"))
    assert list(parts) == NAMES
    told = {name: facts_of(part).signature.in_words for name, part in parts.items()}
    assert told["text_encoder"].startswith("input_ids int64 [batch, sequence] -> last_hidden_state float32")
    assert told["unet"] == (
        "sample float32 [batch, 4, latent_height, latent_width], timestep float32 [], "
        "encoder_hidden_states float32 [batch, sequence, 16] -> out_sample float32"
    )
    assert told["vae_decoder"] == "latent_sample float32 [batch, 4, latent_height, latent_width] -> sample float32"
    assert facts_of(parts["unet"]).n_parameters == 15


def test_what_is_wrong_with_a_pipeline_is_told_while_planning(tmp_path):
    pipeline = drawn(tmp_path / "pipe")
    told = [problem for problem in planned(tmp_path, pipeline).problems if problem.kind != "missing-extra"]
    assert told == []
    absent = planned(tmp_path, "some-owner/some-pipeline").problems
    assert [problem.message for problem in absent] == [
        "the pipeline 'some-owner/some-pipeline' is not on this machine."
    ]
    (pipeline / "unet" / "diffusion_pytorch_model.safetensors").rename(pipeline / "unet" / "weights.bin")
    assert any("has no safetensors" in problem.message for problem in planned(tmp_path, pipeline).problems)
    (pipeline / "unet" / "config.json").unlink()
    assert any("has no unet" in problem.message for problem in planned(tmp_path, pipeline).problems)
    (pipeline / "model_index.json").unlink()
    assert any("no pipeline of diffusers" in problem.message for problem in planned(tmp_path, pipeline).problems)


@pytest.mark.slow
def test_parts_of_a_pipeline_give_what_its_modules_give(tmp_path):
    plan = planned(tmp_path, real(tmp_path / "pipe"))
    assert plan.problems == ()
    base, exported = run(plan).scores
    assert list(base["parts"]) == NAMES
    assert exported["cosine"] > 0.9999
    model = tmp_path / "out" / "model"
    assert {path.name for path in model.iterdir()} == {*NAMES, "scheduler", "model_index.json"}
    import diffusers
    import torch

    latents = torch.randn(1, 4, 6, 10)
    with torch.no_grad():
        image = diffusers.AutoencoderKL.from_pretrained(tmp_path / "pipe" / "vae").decode(latents).sample.numpy()
    session = onnxruntime.InferenceSession(model / "vae_decoder" / "model.onnx", providers=["CPUExecutionProvider"])
    assert np.abs(session.run(["sample"], {"latent_sample": latents.numpy()})[0] - image).max() < 1e-4
