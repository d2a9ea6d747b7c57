"""int4 export: ours beside onnxruntime-genai's builder and Olive's ModelBuilder pass, on Phi-3 shapes.

    python benchmarks/export.py [--runs 3] [--sizes 0.1,0.5,1] [--large] [--no-peer]

Measures whole processes (imports included): wall time, CPU time and peak resident memory, the time of the weight work
alone (read, quantize, write), and whether the files are the same byte for byte. `--large` adds Phi-3-mini's own shape
(3.8B parameters, 7.6 GB), which the builder cannot do in 16 GB. Writes benchmarks/results/export.json.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

from _machine import ROOT, last_json, measured, median, peer_python, write

WORK = ROOT / ".bench" / "export"
PEER = ["olive-ai==0.13.0", "requests", "onnxruntime-genai==0.14.1", "transformers<5", "onnx-ir", "torch==2.13.0"]
# name -> hidden, intermediate, layers, heads, vocabulary
SHAPES = {
    "0.1": (768, 2048, 12, 12, 32064),
    "0.5": (1536, 4096, 16, 16, 32064),
    "1": (2048, 5632, 18, 16, 32064),
    "3.8": (3072, 8192, 32, 32, 32064),
}
OURS = """
import json, sys, time
from pathlib import Path
started = time.perf_counter()
from olivine.models import Model
from olivine.passes.export import _genai, _stream
from olivine.passes.export._choices import Settings
spent = {}
real = _stream.save
def save(*args, **kwargs):
    begun = time.perf_counter()
    real(*args, **kwargs)
    spent["weights"] = time.perf_counter() - begun
_stream.save = save
source, output, algo = sys.argv[1:]
search = Settings(symmetric=False, search=True, half_scales=True, embedding_bits=8)
output = Path(output)
output.mkdir(parents=True)
target = _genai.Target("int4", "cpu", {})
settings = Settings() if algo == "default" else search
_genai.build(Model("hf", Path(source)), output, output / "cache", target, settings, lambda *_: None)
print(json.dumps({"weights": spent["weights"], "inside": time.perf_counter() - started}))
"""
BUILDER = """
import json, sys, time
from onnxruntime_genai.models import builder
spent = {}
real = builder.Model.save_model
def save(self, folder):
    begun = time.perf_counter()
    real(self, folder)
    spent["weights"] = time.perf_counter() - begun
builder.Model.save_model = save
source, output, algo = sys.argv[1:]
arguments = ("", source, output, "int4", "cpu", output + "-cache")
prepared = builder.parse_extra_options(*arguments, [] if algo == "default" else [f"algo_config={algo}"])
builder.create_model(*arguments, **prepared)
print(json.dumps({"weights": spent["weights"]}))
"""
OLIVE = """
import json, sys, time
from olive.model import HfModelHandler
from olive.hardware import AcceleratorSpec
from olive.passes.olive_pass import create_pass_from_dict
from olive.passes.onnx.model_builder import ModelBuilder
source, output, _ = sys.argv[1:]
started = time.perf_counter()
accelerator = AcceleratorSpec("cpu", "CPUExecutionProvider")
step = create_pass_from_dict(ModelBuilder, {"precision": "int4"}, disable_search=True, accelerator_spec=accelerator)
step.run(HfModelHandler(model_path=source), output)
print(json.dumps({"pass": time.perf_counter() - started}))
"""


def make_model(name: str) -> Path:
    """A checkpoint of random bfloat16 weights, written a layer at a time."""
    folder = WORK / f"phi3-{name}b"
    if (folder / "ready").is_file():
        return folder
    import torch
    from safetensors.torch import save_file
    from transformers import Phi3Config

    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import tiny_tokenizer

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    hidden, inner, n_layers, heads, vocabulary = SHAPES[name]
    tiny_tokenizer(folder)
    settings = folder / "tokenizer_config.json"  # the peer's transformers 4 does not know the class of transformers 5
    named = {**json.loads(settings.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
    named.pop("extra_special_tokens", None)
    settings.write_text(json.dumps(named))
    config = Phi3Config(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=n_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=vocabulary,
        max_position_embeddings=4096,
        original_max_position_embeddings=4096,
        sliding_window=None,
        tie_word_embeddings=False,
        architectures=["Phi3ForCausalLM"],
        dtype="bfloat16",
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)

    names = {}

    def save(shard: str, tensors: dict) -> None:
        save_file(tensors, folder / shard, {"format": "pt"})
        names.update(dict.fromkeys(tensors, shard))

    ones = torch.ones(hidden, dtype=torch.bfloat16)
    save("a.safetensors", {"model.embed_tokens.weight": random(vocabulary, hidden), "model.norm.weight": ones})
    for layer in range(n_layers):
        prefix = f"model.layers.{layer}."
        save(
            f"layer-{layer:02}.safetensors",
            {
                f"{prefix}self_attn.qkv_proj.weight": random(3 * hidden, hidden),
                f"{prefix}self_attn.o_proj.weight": random(hidden, hidden),
                f"{prefix}mlp.gate_up_proj.weight": random(2 * inner, hidden),
                f"{prefix}mlp.down_proj.weight": random(hidden, inner),
                f"{prefix}input_layernorm.weight": ones.clone(),
                f"{prefix}post_attention_layernorm.weight": ones.clone(),
            },
        )
    save("z.safetensors", {"lm_head.weight": random(vocabulary, hidden)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / "ready").touch()
    return folder


def disk_speed() -> dict:
    """Bytes a second of this disk, written with a sync and read without the system's cache."""
    path, block = WORK / "disk", os.urandom(1 << 24)
    started = time.perf_counter()
    with path.open("wb") as stream:
        for _ in range(64):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    written = 64 * len(block) / (time.perf_counter() - started)
    started = time.perf_counter()
    with path.open("rb") as stream:
        while stream.read(1 << 24):
            pass
    read = 64 * len(block) / (time.perf_counter() - started)
    path.unlink()
    return {"write_mb_s": round(written / 1e6), "read_mb_s": round(read / 1e6)}


def forget(folder: Path) -> None:
    """Drop a folder's files from the system's cache, so that reading them reads the disk."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def digest(folder: Path) -> dict:
    """A hash of every file of a built folder."""
    found = {}
    for path in sorted(folder.glob("model.onnx*")):
        with path.open("rb") as stream:
            found[path.name] = hashlib.file_digest(stream, "blake2b").hexdigest()
    return found


def run(
    name: str, program: str, python: str, source: Path, algo: str, n_runs: int, limit_gb: float | None = None
) -> dict:
    """Medians of several runs of one program on one model; the last output is kept to be compared."""
    output = WORK / "out" / name
    runs = []
    for _ in range(n_runs):
        shutil.rmtree(output, ignore_errors=True)
        forget(source)
        runs.append(measured([python, "-c", program, str(source), str(output), algo], limit_gb=limit_gb))
        if runs[-1]["exit"]:
            break
    good = [one for one in runs if one["exit"] == 0]
    if not good:
        last = runs[-1]
        why = "killed at the limit" if last["killed"] else last["output"].strip().splitlines()[-1]
        return {"failed": why, "peak_gb": last["peak_gb"]}
    inner = [last_json(one["output"]) for one in good]
    found = {key: median([one[key] for one in good]) for key in ("seconds", "cpu_seconds", "peak_gb")}
    for key in inner[0]:
        found[f"{key}_seconds"] = median([one[key] for one in inner])
    folder = output if (output / "model.onnx").exists() else next(output.rglob("model.onnx")).parent
    found["bytes"] = sum(path.stat().st_size for path in folder.glob("model.onnx*"))
    found["digest"] = digest(folder)
    return found


def bench(size: str, runs: int, peer: str | None, *, limit_gb: float | None = None, algos: bool = True) -> dict:
    """One model, everybody."""
    source = make_model(size)
    n_bytes = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    speed = disk_speed()
    result: dict = {"checkpoint_bytes": n_bytes, "disk": speed}
    result["ours, default"] = run("ours", OURS, sys.executable, source, "default", runs)
    result["ours, search"] = run("ours-search", OURS, sys.executable, source, "search", runs)
    if algos:
        result["builder, default"] = run("builder", BUILDER, sys.executable, source, "default", runs, limit_gb)
    if peer and algos:
        result["Olive's ModelBuilder pass"] = run("olive", OLIVE, peer, source, "default", runs, limit_gb)
    ours, theirs = result["ours, default"], result.get("builder, default", {})
    if "digest" in theirs:
        result["same bytes"] = ours["digest"] == theirs["digest"]
        result["whole process, times faster"] = round(theirs["seconds"] / ours["seconds"], 2)
        result["weight work, times faster"] = round(theirs["weights_seconds"] / ours["weights_seconds"], 2)
    floor = n_bytes / (speed["read_mb_s"] * 1e6) + ours["bytes"] / (speed["write_mb_s"] * 1e6)
    result["weight work over disk time"] = round(ours["weights_seconds"] / floor, 2)
    for one in result.values():
        if isinstance(one, dict):
            one.pop("digest", None)
    print(json.dumps({size: result}, indent=1), flush=True)
    shutil.rmtree(WORK / "out", ignore_errors=True)
    return result


def main() -> None:
    """Run what the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sizes", default="0.1,0.5,1")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--k-quant", action="store_true", help="also the builder's k_quant at 0.5B (minutes)")
    given = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    peer = None if given.no_peer else peer_python(ROOT / ".bench" / "olive", PEER)
    result = {f"{size}B": bench(size, given.runs, peer if size == "0.5" else None) for size in given.sizes.split(",")}
    if given.k_quant:
        source = make_model("0.5")
        result["0.5B"]["builder, k_quant"] = run("k_quant", BUILDER, sys.executable, source, "k_quant", 1)
        result["0.5B"]["builder, k_quant"].pop("digest", None)
    if given.large:
        result["3.8B"] = bench("3.8", 1, None, limit_gb=16)
    write("export", {"sizes": result})


if __name__ == "__main__":
    main()
