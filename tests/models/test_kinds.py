"""What a config.json says of a model that is no decoder is what transformers' model of it takes and gives."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

from olivine.errors import Unsupported
from olivine.models.inspect import check_checkpoint, read_facts
from olivine.models.signature import Signature

TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
IMAGE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16}
SPEECH = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 32,
    "conv_dim": (8, 8),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
}
SPECTRUM = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_length": 64,
    "num_mel_bins": 32,
    "patch_size": 16,
}
SEQ2SEQ = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "vocab_size": 60,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "decoder_start_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "suppress_tokens": None,
}
HEARD = {**SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 16}
CLIP = {
    "text_config": {**TEXT, "eos_token_id": 49, "bos_token_id": 0, "pad_token_id": 1},
    "vision_config": {**IMAGE, "patch_size": 8},
    "projection_dim": 12,
}
CASES = {
    "BertForSequenceClassification": ("Bert", {**TEXT, "num_labels": 3}, "encoder", "text-classification"),
    "RobertaForTokenClassification": ("Roberta", {**TEXT, "type_vocab_size": 1}, "encoder", "token-classification"),
    "BertForQuestionAnswering": ("Bert", TEXT, "encoder", "question-answering"),
    "BertForMultipleChoice": ("Bert", TEXT, "encoder", "multiple-choice"),
    "BertForMaskedLM": ("Bert", TEXT, "encoder", "fill-mask"),
    "BertModel": ("Bert", TEXT, "encoder", "feature-extraction"),
    "CLIPTextModelWithProjection": ("CLIPText", CLIP["text_config"], "encoder", "feature-extraction"),
    "ViTForImageClassification": ("ViT", {**IMAGE, "patch_size": 8}, "vision", "image-classification"),
    "ViTModel": ("ViT", {**IMAGE, "patch_size": 8}, "vision", "image-feature-extraction"),
    "Wav2Vec2ForSequenceClassification": ("Wav2Vec2", SPEECH, "audio", "audio-classification"),
    "Wav2Vec2ForCTC": ("Wav2Vec2", SPEECH, "audio", "automatic-speech-recognition"),
    "ASTForAudioClassification": ("AST", SPECTRUM, "audio", "audio-classification"),
    "WhisperForConditionalGeneration": ("Whisper", HEARD, "encoder-decoder", "automatic-speech-recognition"),
    "BartForConditionalGeneration": ("Bart", SEQ2SEQ, "encoder-decoder", "text2text-generation"),
    "CLIPModel": ("CLIP", CLIP, "image-text", "zero-shot-image-classification"),
}
SIZES = {"batch": 2, "images": 2, "sequence": 6, "choices": 3, "samples": 400, "frames": 40, "decoder_sequence": 5}


def saved(folder, architecture):
    config_class, sizes, *_ = CASES[architecture]
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, f"{config_class}Config")(**sizes)).eval()
    model.save_pretrained(folder)
    return model


def given(spec):
    shape = [size if isinstance(size, int) else SIZES[size] for size in spec.shape]
    if spec.dtype == "float32":
        return torch.randn(shape)
    return torch.ones(shape, dtype=torch.long) if spec.n_choices is None else torch.randint(spec.n_choices, shape)


@pytest.mark.parametrize("architecture", CASES)
def test_forward_takes_and_gives_what_the_signature_says(architecture, tmp_path):
    model = saved(tmp_path, architecture)
    facts = read_facts(tmp_path)
    assert (facts.kind, facts.task) == CASES[architecture][2:]
    assert facts.decoder is None
    assert facts.n_parameters == sum(tensor.numel() for tensor in load_file(tmp_path / "model.safetensors").values())
    assert facts.signature.inputs[0].name == model.main_input_name
    with torch.inference_mode():
        result = model(**{spec.name: given(spec) for spec in facts.signature.inputs})
    for spec in facts.signature.outputs:
        shape = list(result[spec.name].shape)
        assert len(shape) == len(spec.shape), spec
        assert all(not isinstance(told, int) or told == size for told, size in zip(spec.shape, shape, strict=True))
    assert list(check_checkpoint(tmp_path)) == []
    assert Signature.from_json(json.loads(json.dumps(facts.signature.to_json()))) == facts.signature


def test_labels_of_a_classifier_stand_in_the_order_of_its_outputs(tmp_path):
    saved(tmp_path, "BertForSequenceClassification")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | {"id2label": {"2": "neutral", "0": "bad", "1": "good"}}
    path.write_text(json.dumps(config))
    facts = read_facts(tmp_path)
    assert facts.labels == ("bad", "good", "neutral")
    assert facts.in_words == "a text encoder for text-classification with 3 labels (BertForSequenceClassification)"
    with pytest.raises(Unsupported, match="the model is a text encoder for text-classification with 3 labels"):
        _ = facts.as_decoder


def test_damaged_sizes_of_a_model_that_is_no_decoder_are_not_told(tmp_path):
    saved(tmp_path, "ViTModel")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_size": "large", "num_channels": [3]}))
    assert read_facts(tmp_path).signature.inputs[0].shape == ("batch", 3, "height", "width")
