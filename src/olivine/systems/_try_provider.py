"""Whether an execution provider runs a model: `python -m olivine.systems._try_provider NAME`.

It prints "ok", or why not. A provider that is listed may lack its libraries, and some crash when they are loaded: so
each is tried in a process that is thrown away.
"""

import sys

# What a Python is given to try one; its name comes after it.
TRY_PROVIDER = ("-P", "-m", "olivine.systems._try_provider")


def why_not(provider: str) -> str | None:
    """None when it computes a sum of two numbers, else a sentence."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "sum", sides[:1], sides[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it says of a library that it lacks comes as the exception too
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[provider])
    except Exception as error:  # noqa: BLE001 - the library raises classes of its own, and one of each
        return _first_line(error)
    if provider not in session.get_providers():
        return "its libraries do not load"
    (total,) = session.run(["y"], {"x": np.array([1.0, 2.0], np.float32)})
    return None if total.tolist() == [2.0, 4.0] else f"it adds wrongly: {total.tolist()}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    print(why_not(sys.argv[1]) or "ok")  # noqa: T201 - the answer
