"""Tasks of lm-eval in files of one's own: choices, fluency and text, on twelve rows."""

import json
from pathlib import Path

TASKS = {
    "pick": """output_type: multiple_choice
doc_to_text: '{{question}}?'
doc_to_choice: '{{choices}}'
doc_to_target: gold
metric_list:
- {metric: acc, aggregation: mean, higher_is_better: true}
- {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    "fluent": """output_type: loglikelihood_rolling
doc_to_text: ''
doc_to_target: '{{text}}'
metric_list:
- {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
    "say": """output_type: generate_until
doc_to_text: '{{question}}?'
doc_to_target: '{{answer}}'
generation_kwargs: {until: ['.', 'e'], max_gen_toks: 12}
metric_list:
- {metric: exact_match, aggregation: mean, higher_is_better: true}
- {metric: !function own.length, aggregation: mean, higher_is_better: true}
""",
}
DATA = """dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
"""
CODE = "def length(references, predictions, **_):\n    return float(len(predictions[0]))\n"


def write_tasks(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = [
        {
            "question": f"what is {number} plus one",
            "choices": [str(number + 1), "blue sky", "x"],
            "gold": number % 3,
            "text": f"The number {number} is near {number + 1}. " * 3,
            "answer": str(number + 1),
        }
        for number in range(12)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "own.py").write_text(CODE)
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{DATA}{text}")
    return folder
