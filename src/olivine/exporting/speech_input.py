"""What onnxruntime-genai's builder (0.18) misreads in a Whisper, put right before it makes the two graphs.

The builder makes an encoder, which also gives keys and values of what was heard to every layer of the decoder, and a
decoder. It counts the layers of the decoder by those of the encoder, which have other numbers in a distilled model and
in large-v3-turbo; and it joins queries, keys and values of the encoder into an operator whose weights stay floats.
"""

from typing import Any

SPEECH = "WhisperForConditionalGeneration"


def mend_speech(maker: Any, model: Any, *, quantized: bool) -> None:
    """Put right what the builder of one of the two graphs has read of the config.

    maker: before it makes a node. model: whose graphs are made. quantized: the products are to be stored in few bits.
    """
    if type(maker).__name__ != "WhisperEncoder":
        return
    _give_to_layers_of_decoder(maker, model.config.decoder_layers)
    if quantized:  # the weights of a joined operator could not be
        maker.attention_attrs |= {"op_type": "MultiHeadAttention", "use_matmul_in_attn": False}


def _give_to_layers_of_decoder(maker: Any, n_layers: int) -> None:
    """Keys and values for so many layers: the outputs that the builder has declared, and the nodes that give them."""
    outputs = maker.model.graph.outputs
    for kind in ("key", "value"):
        for index in range(n_layers, maker.num_layers):
            outputs.remove(next(one for one in outputs if one.name == f"present_{kind}_cross_{index}"))
    make, own = maker.make_postprocessing_nodes, maker.num_layers

    def for_decoder() -> None:
        maker.num_layers = n_layers
        make()
        maker.num_layers = own

    maker.make_postprocessing_nodes = for_decoder
