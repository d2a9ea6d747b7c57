"""Configs and tiny tokenizers for the tests of data."""

import json

from olivine.config.schema import DataConfig

WORDS = ["<unk>", "<s>", "</s>", "<pad>", "|", *"abcdefghijklmnop", "joy", "fear", "Text:", "Tone:"]
ID = {word: index for index, word in enumerate(WORDS)}
S, E, P, J = ID["<s>"], ID["</s>"], ID["<pad>"], ID["|"]


def config(folder, files="train.jsonl", *, load=None, **text):
    """A data config that reads `files` in `folder`."""
    loading = {"data_name": "json", "data_files": files, **(load or {})}
    return DataConfig.model_validate(
        {"name": "tones", "folder": str(folder), "load_dataset_config": loading, "pre_process_data_config": text}
    )


def write_jsonl(path, rows):
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def word_tokenizer(*, adds_begin=True, begin="<s>", end="</s>", pad="<pad>", **more):
    """A token for each word between spaces, the begin token before them as Llama's does; not without `adds_begin`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(["<s>", "</s>", "<pad>"])
    if adds_begin and begin:
        special = [(begin, raw.token_to_id(begin))]
        raw.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token=begin, eos_token=end, pad_token=pad, **more
    )


def ids(words):
    """Token ids of words, by hand."""
    return [ID[word] for word in words.split()]
