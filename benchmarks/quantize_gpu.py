"""How long calibration, folding and GPTQ take on one NVIDIA GPU, for Llama-3.1-8B's shape of random weights.

    python benchmarks/quantize_gpu.py [--layers 8] [--out FILE] [--smoke]

Layers are alike, so some of them are measured and the file says how many; the checkpoint is made on the disk of the
machine. Times are those of the passes' own functions, reading and writing included.
"""

import argparse
import json
import platform
import shutil
import tempfile
import time
from importlib import metadata
from pathlib import Path

SIZES = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
SMOKE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
N_TOKENS, LENGTH = 8192, 512


def make_checkpoint(folder: Path, sizes: dict, n_layers: int, device: str) -> int:
    """Random bfloat16 weights, a shard a layer; gives the number of weights."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**sizes, num_hidden_layers=n_layers, architectures=["LlamaForCausalLM"], dtype="bfloat16")
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    generator, shards = torch.Generator(device).manual_seed(0), {}
    for name, shape in shapes.items():
        value = torch.ones(shape, dtype=torch.bfloat16)
        if len(shape) > 1:
            value = torch.randn(shape, generator=generator, device=device).mul_(0.02).to(torch.bfloat16).cpu()
        shard = ".".join(name.split(".")[:3]) + ".safetensors"
        shards.setdefault(shard, {})[name] = value
    for shard, tensors in shards.items():
        save_file(tensors, folder / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, tensors in shards.items() for name in list(tensors)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(shape.numel() for shape in shapes.values())


def same_codes(device: str) -> float:
    """Share of GPTQ's codes on this device that are those of the processor, for one small weight."""
    import torch

    from olivine.kernels.blockwise import Format
    from olivine.kernels.gptq import gptq

    generator = torch.Generator().manual_seed(0)
    weight, mixed = torch.randn(512, 1024, generator=generator), torch.randn(1024, 1024, generator=generator)
    inputs = torch.randn(4096, 1024, generator=generator) @ mixed
    matrix, fmt = inputs.T @ inputs / len(inputs), Format(4, 32, symmetric=False)
    there = gptq(weight.to(device), matrix.to(device), fmt).codes
    return float((there == gptq(weight, matrix, fmt).codes).float().mean())


def main() -> None:
    """Measure each stage once, after a warm-up of the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "quantize_gpu.json")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to try the script without a GPU")
    given = parser.parse_args()
    import torch

    from olivine.calibration.folding import find_folds
    from olivine.calibration.gptq_layers import Sweep, gptq_layers
    from olivine.calibration.importances import importances
    from olivine.calibration.layer_stream import LayerStream
    from olivine.kernels.blockwise import Format
    from olivine.models import Model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = SMOKE if given.smoke else SIZES
    result: dict = {"environment": environment(), "sizes": sizes, "layers": given.layers, "tokens": N_TOKENS}
    folder = Path(tempfile.mkdtemp())
    started = time.perf_counter()
    result["codes as on the processor"] = same_codes(device)
    result["weights"] = make_checkpoint(folder, sizes, given.layers, device)
    result["made_in_seconds"] = time.perf_counter() - started
    model, fmt = Model("hf", folder), Format(4, 32, symmetric=False)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, sizes["vocab_size"], (N_TOKENS // LENGTH, LENGTH), generator=generator)

    def gptq() -> None:
        stream = LayerStream(model, tokens, device=device)
        names = list(_linear(model))
        gptq_layers(stream, dict.fromkeys(names, fmt), Sweep(), folder / "gptq")

    for name, work in (
        ("importances", lambda: importances(model, tokens, device=device)),
        ("importances and AWQ folds", lambda: find_folds(model, tokens, fmt, device=device)),
        ("GPTQ", gptq),
    ):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
        result[name] = {"seconds": round(seconds, 2), "seconds_a_layer": round(seconds / given.layers, 3)}
        result[name] |= {"peak_device_gb": round(peak / 1e9, 2)}
        given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(name, result[name], flush=True)
    shutil.rmtree(folder)


def _linear(model: object) -> list[str]:
    """Weights of the linear layers of the decoder."""
    from olivine.calibration.decoder import linear_weights

    return list(linear_weights(model))


def environment() -> dict:
    """Versions and device."""
    import torch

    found = {package: metadata.version(package) for package in ("torch", "transformers", "numba", "numpy")}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    return found | {"python": platform.python_version(), "device": device}


if __name__ == "__main__":
    main()
