"""onnxruntime-genai as its own documentation calls it, without any of our code."""

import numpy as np
import onnxruntime_genai


def greedy(folder, prompt, n_tokens):
    """The prompt's tokens and those that the model writes after them, at most `n_tokens`."""
    model = onnxruntime_genai.Model(str(folder))
    params = onnxruntime_genai.GeneratorParams(model)
    params.set_search_options(max_length=len(prompt) + n_tokens, do_sample=False)
    generator = onnxruntime_genai.Generator(model, params)
    generator.append_tokens(np.array(prompt, dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)]
