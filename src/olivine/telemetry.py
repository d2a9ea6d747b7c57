"""No library that olivine uses sends anything home.

The switches are variables of the environment, read when a library is first imported (onnxruntime writes a device id and
a database of events into HOME right then). `import olivine` sets them, and every process that olivine starts inherits
them. What a user has set already stays.
"""

import os

SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime, and onnxruntime-genai by it
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and transformers, datasets and peft by it
    "DO_NOT_TRACK": "1",
}


def off() -> None:
    """Turn it off for this process and those that it starts."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
