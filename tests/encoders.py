"""Tiny random models of transformers that are no decoders, saved as folders of the hub are."""

import json
from pathlib import Path

from tiny import tiny_tokenizer

TEXT = {
    "vocab_size": 389,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # so that outputs tell rows apart
}
PIXELS = {
    key: TEXT[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
} | {
    "image_size": 32,
    "patch_size": 8,
}
CLIP = {
    "text_config": TEXT | {"projection_dim": 16, "eos_token_id": 1},
    "vision_config": PIXELS | {"projection_dim": 16},
    "projection_dim": 16,
}
WHISPER = {
    "vocab_size": 100,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_source_positions": 50,
    "max_target_positions": 40,
    "num_mel_bins": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
WAVE = {key: TEXT[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")} | {
    "vocab_size": 40,
    "conv_dim": (16, 16),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
# name -> (model class, config class, sizes)
KINDS = {
    "bert": ("BertForSequenceClassification", "BertConfig", TEXT | {"num_labels": 3}),
    "bert_body": ("BertModel", "BertConfig", TEXT),
    "distilbert": (
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": 389, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", PIXELS | {"num_labels": 5}),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
    ),
    "clip": ("CLIPModel", "CLIPConfig", CLIP),
    "clip_text": ("CLIPTextModelWithProjection", "CLIPTextConfig", CLIP["text_config"]),
    "wav2vec2": ("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", WAVE),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 389, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4},
    ),
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", WHISPER),
}


def tiny_encoder(folder: Path, name: str = "bert", seed: int = 0) -> Path:
    """Save a random model of that kind, with a tokenizer where it reads text."""
    import torch
    import transformers

    model_name, config_name, sizes = KINDS[name]
    torch.manual_seed(seed)
    config = getattr(transformers, config_name)(**sizes)
    getattr(transformers, model_name)(config).eval().save_pretrained(folder)
    if name not in ("vit", "resnet", "wav2vec2", "whisper"):
        tiny_tokenizer(folder)
    return folder


def write_config(folder: Path, model: Path, passes: dict, **more) -> Path:
    """A config with that model, in a folder of its own."""
    config = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "passes": passes,
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    } | more
    path = folder / "config.json"
    path.write_text(json.dumps(config, indent=1))
    return path
