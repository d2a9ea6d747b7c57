"""A random model of some hundred kilobytes, whole as a folder of the hub is: for trying a plugin on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from olivine import lazy

if TYPE_CHECKING:
    import tokenizers
    import torch
    import transformers
else:
    tokenizers, torch, transformers = (lazy.module(name) for name in ("tokenizers", "torch", "transformers"))


def tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Save a Llama of two layers and a tokenizer with a token for each byte into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = tokenizers.Tokenizer(tokenizers.models.BPE())
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + 3,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([], trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )
    tokenizer.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,  # so that greedy text differs from token to token
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def write_rows(path: Path, n_rows: int = 8) -> Path:
    """Rows with the columns `phrase` and `tone`, which follows from a word of the phrase."""
    words = {"joy": "sunny", "sadness": "grey", "fear": "dark", "surprise": "odd"}
    tones = [list(words)[index % 4] for index in range(n_rows)]
    rows = [{"phrase": f"day {index} was {words[tone]}", "tone": tone} for index, tone in enumerate(tones)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
