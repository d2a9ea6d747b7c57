"""Type names in any case: systems, input model, data sets and resources; passes are matched in any case anyway."""

from olivine.config.dialects._edit import Findings, Note, models, named
from olivine.config.nodes import Array, Object

_SYSTEMS = {
    "localsystem": "LocalSystem",
    "local": "LocalSystem",
    "azureml": "AzureML",
    "azuremlsystem": "AzureML",
    "docker": "Docker",
    "dockersystem": "Docker",
    "pythonenvironment": "PythonEnvironment",
    "pythonenvironmentsystem": "PythonEnvironment",
    "isolatedort": "IsolatedORT",
    "isolatedortsystem": "IsolatedORT",
    "ray": "Ray",
    "raysystem": "Ray",
}
_MODELS = {
    "hfmodel": "HfModel",
    "pytorchmodel": "PyTorchModel",
    "onnxmodel": "ONNXModel",
    "compositemodel": "CompositeModel",
    "diffusersmodel": "DiffusersModel",
    "compositeonnxmodel": "CompositeModel",
    "compositepytorchmodel": "CompositeModel",
    "compositemodelhandler": "CompositeModel",
    "openvinomodel": "OpenVINOModel",
}
_DATA = {
    "huggingfacecontainer": "HuggingfaceContainer",
    "datacontainer": "DataContainer",
    "dummydatacontainer": "DummyDataContainer",
    "rawdatacontainer": "RawDataContainer",
    "transformersdummydatacontainer": "TransformersDummyDataContainer",
    "transformerspromptdummydatacontainer": "TransformersPromptDummyDataContainer",
    "transformerstokendummydatacontainer": "TransformersTokenDummyDataContainer",
}


def translate(config: Object) -> Findings:
    """Write every known type name as it is written today."""
    for _, system in named(config, "systems"):
        yield from _spell(system, _SYSTEMS)
    for model in models(config):
        yield from _spell(model, _MODELS)
    data = config.get("data_configs")
    entries = list(data) if isinstance(data, Array) else [entry for _, entry in named(config, "data_configs")]
    for entry in entries:
        if isinstance(entry, Object):
            yield from _spell(entry, _DATA)


def _spell(section: Object, names: dict[str, str]) -> Findings:
    written = section.get("type")
    today = names.get(written.lower()) if isinstance(written, str) else None
    if today is not None and today != written:
        section["type"] = today
        yield Note(section.where("type"), str(written), today, f"The type '{written}' is written '{today}'.")
