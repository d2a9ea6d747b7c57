"""int4 export: ours beside onnxruntime-genai's builder and Olive's ModelBuilder pass, on Phi-3 shapes.

    python benchmarks/export.py [--runs 5] [--sizes 0.1,0.5,1,3.8] [--no-peer] [--k-quant] [--only-ours]

Measures whole commands, in turns: `olivine run` from an empty cache to the delivered folder (with the proof of the
export, and with the comparison on text or without), the builder's process, Olive's. Wall time, CPU time, peak resident
memory of all processes of a command together, and whether the graph and its weights are the same byte for byte; and
what the imports of the builder take alone, which is the floor of whoever uses it. 3.8 is Phi-3-mini's own shape
(7.6 GB), which the builder cannot do in 16 GB; ours also runs in a control group of 2 GB. Every row is written to
benchmarks/results/export.json as soon as it is there; sizes that are not asked for stay in it as they were.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from _machine import RESULTS, ROOT, environment, last_json, measured, median, memory_group, olive_python, write

WORK = ROOT / ".bench" / "export"
# name -> hidden, intermediate, layers, heads, vocabulary
SHAPES = {
    "0.1": (768, 2048, 12, 12, 32064),
    "0.5": (1536, 4096, 16, 16, 32064),
    "1": (2048, 5632, 18, 16, 32064),
    "3.8": (3072, 8192, 32, 32, 32064),
}
LARGE, LIMIT_GB, GROUP_GB = "3.8", 16, 2
RUN = "olivine run, nothing scored"
FLOOR = "imports alone, no garbage collection, no teardown"
# What a user types, from an empty cache to a delivered folder; arguments: the edit of the config, model, output.
OURS = """
import json, os, sys
from pathlib import Path
edit, source, output = sys.argv[1:]
config = {
    "input_model": {"type": "HfModel", "model_path": source},
    "passes": {"builder": {"type": "ModelBuilder", "precision": "int4", "int4_algo_config": "default"}},
    "output_dir": output,
    "cache_dir": output + "-cache",
}
edit = json.loads(edit)
config["passes"]["builder"] |= edit.pop("builder", {})
config |= edit
Path(output + ".json").write_text(json.dumps(config))
os.execv(sys.executable, [sys.executable, "-m", "olivine", "run", "--config", output + ".json"])
"""
UNSCORED = json.dumps({"quality": {"enabled": False}})
# The same imports and nothing else; "quick": without a look for garbage meanwhile, and without the teardown.
IMPORTS = """
import gc, json, os, sys, time
if sys.argv[1] == "quick":
    gc.disable()
begun = time.perf_counter()
import torch, transformers
middle = time.perf_counter()
import onnxruntime_genai.models.builder
spent = {"torch_and_transformers": middle - begun, "builder": time.perf_counter() - middle}
print(json.dumps(spent), flush=True)
if sys.argv[1] == "quick":
    os._exit(0)
"""
BUILDER = """
import sys
from onnxruntime_genai.models import builder
algo, source, output = sys.argv[1:]
arguments = ("", source, output, "int4", "cpu", output + "-cache")
prepared = builder.parse_extra_options(*arguments, [] if algo == "default" else [f"algo_config={algo}"])
builder.create_model(*arguments, **prepared)
"""
OLIVE = """
import json, sys, time
from olive.model import HfModelHandler
from olive.hardware import AcceleratorSpec
from olive.passes.olive_pass import create_pass_from_dict
from olive.passes.onnx.model_builder import ModelBuilder
_, source, output = sys.argv[1:]
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
    """Bytes a second of this disk, written with a sync and read without the system's cache; medians of three."""
    path, block = WORK / "disk", os.urandom(1 << 24)
    written, read = [], []
    for _ in range(3):
        started = time.perf_counter()
        with path.open("wb") as stream:
            for _ in range(64):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        written.append(64 * len(block) / (time.perf_counter() - started) / 1e6)
        forget(path)
        started = time.perf_counter()
        with path.open("rb") as stream:
            while stream.read(1 << 24):
                pass
        read.append(64 * len(block) / (time.perf_counter() - started) / 1e6)
    path.unlink()
    return {"write_mb_s": median(written), "read_mb_s": median(read)}


def forget(*paths: Path) -> None:
    """Drop files from the system's cache, so that reading them reads the disk."""
    for path in paths if hasattr(os, "posix_fadvise") else ():
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def digest(folder: Path) -> dict:
    """A hash of every file of a built folder."""
    found = {}
    for path in sorted(folder.glob("model.onnx*")):
        with path.open("rb") as stream:
            found[path.name] = hashlib.file_digest(stream, "blake2b").hexdigest()
    return found


@dataclass
class Contender:
    """A program that exports a model, and what was measured of it so far; after a failure it is not run again."""

    name: str
    command: Sequence[str]
    n_runs: int
    limit_gb: float | None = None
    group_gb: float | None = None

    def __post_init__(self) -> None:
        self._runs: list[dict] = []
        self.built: dict = {}

    def turn(self, source: Path) -> bool:
        """Run it once more on a model that no cache holds; False when it has had its turns."""
        if len(self._runs) >= self.n_runs or self.failed:
            return False
        output = WORK / "out"
        shutil.rmtree(output, ignore_errors=True)
        forget(*source.glob("*.safetensors"))
        load = os.getloadavg()[0]
        with memory_group(int(self.group_gb * 1e9)) if self.group_gb else nullcontext([]) as beginning:
            if beginning is None:
                print(f"{self.name}: control groups cannot be made here", flush=True)
                self.n_runs = 0
                return False
            command = [*beginning, *self.command, str(source), str(output)]
            self._runs.append(measured(command, limit_gb=self.limit_gb) | {"load": load})
        folder = next((path.parent for path in output.rglob("model.onnx")), None)
        if not self.failed and not self.built and folder is not None:
            n_bytes = sum(path.stat().st_size for path in folder.glob("model.onnx*"))
            self.built = {"bytes": n_bytes, "digest": digest(folder)}
        shutil.rmtree(output, ignore_errors=True)
        subprocess.run(["chmod", "-R", "u+w", f"{output}-cache"], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(f"{output}-cache", ignore_errors=True)
        return True

    @property
    def failed(self) -> bool:
        """Whether the last run did."""
        return bool(self._runs) and self._runs[-1]["exit"] != 0

    def row(self) -> dict:
        """Medians of the runs, with the shortest and the longest, and how busy the machine was before them."""
        last = self._runs[-1]
        if self.failed:
            why = "killed at the limit" if last["killed"] else last["output"].strip().splitlines()[-1]
            return {"failed": why, "peak_gb": last["peak_gb"]}
        found: dict = {key: median([one[key] for one in self._runs]) for key in ("seconds", "cpu_seconds", "peak_gb")}
        inner = [last_json(one["output"]) for one in self._runs]
        found |= {f"{key}_seconds": median([one[key] for one in inner]) for key in inner[0]}
        seconds = [one["seconds"] for one in self._runs]
        found |= {"runs": len(seconds), "from_to_seconds": [min(seconds), max(seconds)]}
        return found | {"load": median([one["load"] for one in self._runs])} | self.built


def contenders(size: str, given: argparse.Namespace, peer: str | None) -> list[Contender]:
    """Everybody who exports this size."""

    def python(program: str, interpreter: str = sys.executable) -> list[str]:
        return [interpreter, "-c", program]

    large = size == LARGE
    limit = LIMIT_GB if large else None
    searched = json.dumps({"quality": {"enabled": False}, "builder": {"int4_algo_config": "search"}})
    # behind these words come the model and the output
    found = [
        Contender(RUN, [*python(OURS), UNSCORED], given.runs),
        Contender("olivine run, searched, nothing scored", [*python(OURS), searched], given.runs),
    ]
    if large:
        found.append(Contender(f"{RUN}, in {GROUP_GB} GB", [*python(OURS), UNSCORED], 1, group_gb=GROUP_GB))
        name = f"olivine run, searched, nothing scored, in {GROUP_GB} GB"
        found.append(Contender(name, [*python(OURS), searched], 1, group_gb=GROUP_GB))
    if given.only_ours:
        return found
    found += [
        Contender("olivine run, compared with its source on text", [*python(OURS), "{}"], given.runs),
        Contender("builder, default", [*python(BUILDER), "default"], given.runs, limit),
    ]
    if peer and size == "0.5":
        found.append(Contender("Olive's ModelBuilder pass", [*python(OLIVE, peer), ""], given.runs))
    if given.k_quant and size == "0.5":
        found.append(Contender("builder, k_quant", [*python(BUILDER), "k_quant"], 1))
    if not large:
        found.append(Contender("imports alone", [*python(IMPORTS), "plain"], given.runs))
        found.append(Contender(FLOOR, [*python(IMPORTS), "quick"], given.runs))
    return found


def compared(rows: Mapping[str, dict], n_bytes: int, disk: Mapping[str, float]) -> dict:
    """Ours beside the builder's, and beside what the disk allows for reading and writing those bytes."""
    ours, theirs = rows[RUN], rows.get("builder, default", {})
    if "failed" in ours:
        return {}
    floor = n_bytes / (disk["read_mb_s"] * 1e6) + ours["bytes"] / (disk["write_mb_s"] * 1e6)
    told: dict = {"whole command over disk time": round(ours["seconds"] / floor, 2)}
    if "seconds" in theirs:
        told["same bytes"] = ours["digest"] == theirs["digest"]
        told["whole command, times faster"] = round(theirs["seconds"] / ours["seconds"], 2)
    return told


def bench(size: str, given: argparse.Namespace, peer: str | None) -> None:
    """One model, everybody, in turns; the result is written after each."""
    source = make_model(size)
    n_bytes = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    disk, all_of_them = disk_speed(), contenders(size, given, peer)
    at = {key: environment()[key] for key in ("date", "commit")}
    rows: dict[str, dict] = {}
    while True:
        measured_more = False
        for one in all_of_them:
            if not one.turn(source):
                continue
            measured_more = True
            rows[one.name] = one.row()
            if RUN in rows:
                shown = {name: {key: row[key] for key in row if key != "digest"} for name, row in rows.items()}
                keep(size, {**at, "checkpoint_bytes": n_bytes, "disk": disk, **shown, **compared(rows, n_bytes, disk)})
            print(f"{size}B, {one.name}: {rows[one.name].get('seconds', 'failed')}", flush=True)
        if not measured_more:
            return


def keep(size: str, result: dict) -> None:
    """Put the result of one size in the place of its earlier one."""
    path = RESULTS / "export.json"
    sizes = json.loads(path.read_text(encoding="utf-8"))["sizes"] if path.is_file() else {}
    sizes[f"{size}B"] = result
    write("export", {"sizes": dict(sorted(sizes.items(), key=lambda item: float(item[0].rstrip("B"))))})


def main() -> None:
    """Run what the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sizes", default=",".join(SHAPES))
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--k-quant", action="store_true", help="also the builder's k_quant at 0.5B (minutes)")
    parser.add_argument("--only-ours", action="store_true", help="no peer, and no imports alone")
    given = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    sizes = given.sizes.split(",")
    if unknown := set(sizes) - set(SHAPES):
        parser.error(f"unknown sizes {', '.join(sorted(unknown))}; there are {', '.join(SHAPES)}")
    peer = olive_python() if "0.5" in sizes and not given.no_peer else None
    for size in sizes:
        bench(size, given, peer)


if __name__ == "__main__":
    main()
