"""The built model on the held-out phrases, in plain onnxruntime-genai: nothing of olivine, as anybody would run it."""

import json
import sys
from pathlib import Path

import onnxruntime_genai as og

PROMPT = "### Text: {phrase}\n### The tone is:\n"


def main(folder: str, file: str) -> int:
    """Print the share of phrases whose answer is the tone, exactly."""
    model = og.Model(folder)
    tokenizer = og.Tokenizer(model)
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    n_right = 0
    for row in rows:
        prompt = tokenizer.encode(PROMPT.format(**row))
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(prompt) + 8, do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        answer = tokenizer.decode(generator.get_sequence(0)[len(prompt) :])
        n_right += answer.strip() == row["tone"]
    print(f"plain onnxruntime-genai: {n_right} of {len(rows)} right, {n_right / len(rows):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
