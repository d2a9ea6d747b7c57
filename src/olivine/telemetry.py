"""No library that olivine uses sends anything home.

The switches are variables of the environment, read when a library is first imported (onnxruntime writes a device id and
a database of events into HOME right then). `import olivine` sets them, and every process that olivine starts inherits
them. What a user has set already stays.
"""

import os
import sys

SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime, and onnxruntime-genai by it
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and transformers, datasets and peft by it
    "DO_NOT_TRACK": "1",
}


# openvino and nncf send unless a file in HOME says that they must not; without this package they cannot.
SENDERS = ("openvino_telemetry",)


def off() -> None:
    """Turn it off for this process and those that it starts."""
    for name in SENDERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # which is how Python is told that it is not there
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
