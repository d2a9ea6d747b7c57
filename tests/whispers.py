"""Tiny random Whispers with the tokenizer and the feature extractor that onnxruntime-genai knows."""

import json
from pathlib import Path

SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|de|>",
    "<|transcribe|>",
    "<|translate|>",
    "<|notimestamps|>",
)
SIZES = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "num_mel_bins": 80,
    "max_target_positions": 48,
    "init_std": 0.3,  # so that greedy text differs from token to token
}


def tiny_whisper(folder: Path, *, multilingual: bool = True, seed: int = 0, **sizes) -> Path:
    """Save a random Whisper as those of the hub are: weights, tokenizer, features, tokens of languages and tasks."""
    import torch
    import transformers
    from tokenizers import pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    ids = {word: number for number, word in enumerate(words)}
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ids["<|endoftext|>"])
    start = ids["<|startoftranscript|>"]
    none = dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"))
    config = transformers.WhisperConfig(
        vocab_size=len(words), decoder_start_token_id=start, **ends, **none, **{**SIZES, **sizes}
    )
    torch.manual_seed(seed)
    transformers.WhisperForConditionalGeneration(config).eval().save_pretrained(folder)
    tokenizer = transformers.WhisperTokenizer(vocab=ids, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    tokenizer.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)
    said = {"decoder_start_token_id": start, "no_timestamps_token_id": ids["<|notimestamps|>"], **ends}
    if multilingual:
        said |= {
            "is_multilingual": True,
            "lang_to_id": {word: ids[word] for word in ("<|en|>", "<|de|>")},
            "task_to_id": {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
        }
    (folder / "generation_config.json").write_text(json.dumps(said, indent=1))
    return folder
