"""Pipelines of diffusers: which parts they have, and what goes into each, by the config.json of its folder.

    text_encoder, text_encoder_2   input_ids                                      -> last_hidden_state ...
    unet                           sample, timestep, encoder_hidden_states        -> out_sample
    vae_encoder                    sample                                         -> latent_parameters
    vae_decoder                    latent_sample                                  -> sample

The names are those of Olive and Optimum. Both halves of the VAE lie in one folder.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olivine import lazy
from olivine.absent import whole_size
from olivine.errors import ModelError, Unsupported
from olivine.models._model import Model
from olivine.models.diffusion_files import PIPELINE
from olivine.models.facts import ModelFacts
from olivine.models.json_files import is_file, read_object
from olivine.models.safetensors_header import read_safetensors_header
from olivine.models.signature import Signature, TensorSpec

COMPONENT = "component"  # the attribute of a part that says which one it is
_FOLDERS = {
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
    "unet": "unet",
    "vae_encoder": "vae",
    "vae_decoder": "vae",
}
STATES = "hidden_states"  # the attribute of parts of a pipeline that reads the states of all layers of its two encoders
_TIME_IDS = 6  # of SDXL: sizes and crop of the image that is wanted


def pipeline_parts(folder: Path) -> dict[str, Model]:
    """The parts of the pipeline in a folder, by name; raises ModelError or Unsupported where it is none of U-Nets."""
    if not is_file(folder / PIPELINE):
        raise ModelError(f"'{folder}' is no pipeline of diffusers: it has no {PIPELINE}")
    kind = str(read_object(folder / PIPELINE).get("_class_name", "unknown"))
    states = {STATES: True} if is_file(folder / "text_encoder_2" / "config.json") else {}
    parts = {
        name: Model("diffusers", folder / inner, task="", attributes={COMPONENT: name, **states})
        for name, inner in _FOLDERS.items()
        if is_file(folder / inner / "config.json")
    }
    if "unet" not in parts:
        raise Unsupported(
            f"the pipeline '{folder}' ({kind}) has no unet: write its parts as a CompositeModel of scripts"
        )
    for part in parts.values():
        if not any(part.path.glob("*.safetensors")):
            raise ModelError(f"'{part.path}' has no safetensors; pickled weights are not read")
    return parts


def diffusion_facts(model: Model) -> ModelFacts:
    """The facts of a part."""
    files = sorted(model.path.glob("*.safetensors"))
    shapes = {name: tuple(one["shape"]) for file in files for name, one in read_safetensors_header(file).items()}
    n_parameters = sum(math.prod(shape) for shape in shapes.values())
    config = read_object(model.path / "config.json")
    try:
        signature = _signature(str(model.attributes[COMPONENT]), config)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"{model.path / 'config.json'} does not tell what goes in: {error}") from None
    n_bytes = sum(whole_size(file) for file in files)
    return ModelFacts(
        str(config.get("_class_name") or next(iter(config.get("architectures") or ()), "unknown")),
        n_parameters,
        kind="diffusion",
        task="",
        signature=signature,
        bytes_per_weight=n_bytes / n_parameters if n_parameters else 4.0,
        weight_bytes=n_bytes,
        path=model.path,
        config=config,
    )


def _signature(name: str, config: Mapping[str, Any]) -> Signature:
    if name.startswith("text_encoder"):
        ids = TensorSpec("input_ids", "int64", ("batch", "sequence"), int(config["vocab_size"]))
        return Signature((ids,), (_float("last_hidden_state", "batch", "sequence", config["hidden_size"]),))
    if name == "vae_encoder":
        return Signature((_image("sample", config["in_channels"]),), (_float("latent_parameters"),))
    if name == "vae_decoder":
        return Signature((_latents("latent_sample", config["latent_channels"]),), (_float("sample"),))
    width = config["cross_attention_dim"]
    inputs = [_latents("sample", config["in_channels"]), TensorSpec("timestep", "float32", ())]
    inputs.append(_float("encoder_hidden_states", "batch", "sequence", width if isinstance(width, int) else width[0]))
    if config.get("addition_embed_type") == "text_time":
        rest = int(config["projection_class_embeddings_input_dim"]) - _TIME_IDS * int(config["addition_time_embed_dim"])
        inputs += [_float("text_embeds", "batch", rest), _float("time_ids", "batch", _TIME_IDS)]
    return Signature(tuple(inputs), (_float("out_sample"),))


def _float(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, "float32", shape or None)


def _latents(name: str, n_channels: int) -> TensorSpec:
    return _float(name, "batch", n_channels, "latent_height", "latent_width")


def _image(name: str, n_channels: int) -> TensorSpec:
    return _float(name, "batch", n_channels, "height", "width")


def load_component(model: Model) -> Any:
    """A part as a module of torch that takes its inputs by name and gives its outputs by name, in float32."""
    import torch

    name = str(model.attributes[COMPONENT])
    inner = _loaded(model, torch.float32)

    class Component(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, return_dict: bool = True, **inputs: Any) -> dict[str, Any]:  # noqa: ARG002 - as transformers
            return _run(name, self.inner, inputs, STATES in model.attributes)

    return Component().eval()


def _loaded(model: Model, dtype: Any) -> Any:
    library = "transformers" if str(model.attributes[COMPONENT]).startswith("text_encoder") else "diffusers"
    home = lazy.require(library, "diffusers")
    config = read_object(model.path / "config.json")
    kind = str(config.get("_class_name") or next(iter(config.get("architectures") or ()), ""))
    try:
        loader = getattr(home, kind)
        module = loader.from_pretrained(model.path, torch_dtype=dtype, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        told = " ".join(str(error).split())[:300]
        raise ModelError(f"{model.path}: {library} cannot load it as {kind or 'unknown'}: {told}") from error
    if hasattr(module, "set_default_attn_processor"):  # plain attention, which fusions know
        from diffusers.models.attention_processor import AttnProcessor

        module.set_attn_processor(AttnProcessor())
    return module.eval()


def _run(name: str, module: Any, inputs: Mapping[str, Any], all_states: bool) -> dict[str, Any]:
    if name == "vae_encoder":
        return {"latent_parameters": module.encode(inputs["sample"]).latent_dist.parameters}
    if name == "vae_decoder":
        return {"sample": module.decode(inputs["latent_sample"]).sample}
    if name.startswith("text_encoder"):
        given = module(inputs["input_ids"], output_hidden_states=all_states)
        own = {key: given[key] for key in ("text_embeds", "last_hidden_state", "pooler_output") if key in given}
        states = given.hidden_states if all_states else ()
        return own | {f"hidden_states.{place}": state for place, state in enumerate(states)}
    more = {key: inputs[key] for key in ("text_embeds", "time_ids") if key in inputs}
    states = inputs["encoder_hidden_states"]
    added = {"added_cond_kwargs": more} if more else {}
    return {"out_sample": module(inputs["sample"], inputs["timestep"], states, **added).sample}
