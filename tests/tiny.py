"""Tiny random models with real tokenizers, one for each architecture that people use."""

import json
from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "### Text: what a lovely day\n### The tone is:\njoy",
    "### Text: the house was dark and something moved\n### The tone is:\nfear",
    "sadness surprise joy fear phrase tone question answer",
    "pack my box with five dozen liquor jugs 0123456789",
]
VOCABULARY = 389  # no group size divides it, nor any number of heads or threads
COMMON = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # so that greedy text differs from token to token
}
# transformers' config class of each
CLASSES = {
    "llama": "LlamaConfig",
    "smollm": "LlamaConfig",
    "mistral": "MistralConfig",
    "phi3": "Phi3Config",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
    "gemma": "GemmaConfig",
    "gemma2": "Gemma2Config",
    "gemma3": "Gemma3TextConfig",
    "olmo2": "Olmo2Config",
    "phi": "PhiConfig",
}
EXTRA = {
    "phi3": {"original_max_position_embeddings": 256, "sliding_window": 16},
    "mistral": {"sliding_window": 16},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16, "hidden_activation": "gelu_pytorch_tanh"},
    "gemma2": {"head_dim": 16, "sliding_window": 8},
    "gemma3": {"head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "smollm": {"tie_word_embeddings": True},
}


def tiny_tokenizer(folder: Path):
    """A byte-level BPE tokenizer with begin, end and padding tokens and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=special[3:],
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def tiny_model(folder: Path, architecture: str = "llama", *, tied: bool = False, seed: int = 0, **overrides) -> Path:
    """Save a tiny random model of that architecture with its tokenizer into `folder`."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(folder)
    settings = {**COMMON, "tie_word_embeddings": tied, **EXTRA.get(architecture, {}), **overrides}
    config = getattr(transformers, CLASSES[architecture])(
        vocab_size=VOCABULARY,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return folder


def tiny_adapter(base: Path, folder: Path, *, seed: int = 1, method: str = "LoraConfig", **settings) -> Path:
    """Save a random adapter of the base that changes something; method: PEFT's class of its config."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    alpha = "lora_alpha" if method == "LoraConfig" else "alpha"
    common = {"r": 4, alpha: 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), getattr(peft, method)(**common | settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def write_rows(path: Path, n_rows: int = 24) -> Path:
    """Rows of a closed-form task: the tone follows from a word of the phrase."""
    words = {"joy": "sunny", "sadness": "grey", "fear": "dark", "surprise": "odd"}
    rows = []
    for index in range(n_rows):
        tone, word = list(words.items())[index % 4]
        rows.append({"phrase": f"day {index} was {word}", "tone": tone})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
