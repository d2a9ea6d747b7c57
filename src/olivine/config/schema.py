"""What a workflow config says, in today's form. The schema only describes; `read`, `plan` and the engine act.

Old forms are translated to this one by `olivine.config.dialects` before it is applied. Key names are Olive's. A key
that is known but asks for something that olivine does not do is part of the schema, so that it can be refused by name.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from olivine.user_scripts import SECONDS


class Typed(BaseModel):
    """A model whose numbers are numbers: pydantic alone reads `true` as 1, and a switch at the wrong key as a value."""

    model_config = ConfigDict(defer_build=True)  # a program reads few of the models that there are

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_is_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = {get_origin(kind) or kind for kind in get_args(annotation) or (annotation,)}
        for kind in (float, int):
            if isinstance(value, bool) and kind in kinds and bool not in kinds:
                raise PydanticCustomError(f"{kind.__name__}_type", "Input should be a number")
        return value


class Section(Typed):
    """A mapping of the config: unknown keys are errors, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), coerce_numbers_to_str=False)


def _unserved(advice: str, default: Any = None) -> Any:
    """A key that is known, but asks for something that olivine does not do: any value but the default is refused.

    advice: what to do instead, a sentence; `olivine.config.unsupported` says it with the place of the key.
    """
    told: dict[str, Any] = {
        "unsupported": advice,
        "deprecated": True,
        "enum": [None] if default is None else [None, default],
    }
    return Field(default, description=f"not served. {advice}", json_schema_extra=told)


def _without_effect(advice: str, default: Any, description: str, **bounds: Any) -> Any:
    """A key that is taken and changes nothing, as it asks for what happens anyway; the plan says so where it is set.

    advice: why, a sentence.
    """
    return Field(default, description=description, json_schema_extra={"without_effect": advice}, **bounds)


_OTHER_DEVICES = {
    "CPUExecutionProvider": "cpu",
    "OpenVINOExecutionProvider": "cpu",
    "DnnlExecutionProvider": "cpu",
    "QNNExecutionProvider": "npu",
    "VitisAIExecutionProvider": "npu",
}


def provider_device(name: str) -> str:
    """The device that an execution provider runs on: cpu, npu, or gpu."""
    return _OTHER_DEVICES.get(name, "gpu")


class Resource(Section):
    """A model or file by reference, e.g. {type: azureml_registry_model, config: {...}}."""

    type: str = Field(description="azureml_registry_model and its like: what lies in AzureML, see docs/azureml.md")
    config: Mapping[str, Any] = Field(default_factory=dict, description="settings of that kind of resource")


class AzureMLClient(Section):
    """A workspace of AzureML and how to reach it."""

    subscription_id: str | None = Field(None, description="of the workspace")
    resource_group: str | None = Field(None, description="of the workspace")
    workspace_name: str | None = Field(None, description="of the workspace")
    aml_config_path: str | None = Field(None, description="file with the three")
    read_timeout: float | None = Field(None, gt=0, description="seconds that an answer may take")
    max_operation_retries: int | None = Field(None, ge=0, description="how often a request is tried again")
    operation_retry_interval: float | None = Field(
        None, ge=0, description="seconds between two tries, doubled each time"
    )
    default_auth_params: dict[str, Any] | None = Field(None, description="of azure-identity")
    keyvault_name: str | None = Field(None, description="where secrets lie; else the key vault of the workspace")


class AzureMLModel(Section):
    """Settings of the resources azureml_model and azureml_registry_model."""

    name: str = Field(description="of the model")
    version: str | int = Field(description="of the model")
    registry_name: str | None = Field(None, description="azureml_registry_model: where the model lies")
    azureml_client: AzureMLClient | None = Field(None, description="else that of the workflow")


class AzureMLDatastore(Section):
    """Settings of the resource azureml_datastore: a file or folder in a workspace's datastore."""

    azureml_client: AzureMLClient | None = Field(None, description="else that of the workflow")
    datastore_name: str | None = Field(None, description="of the workspace")
    relative_path: str | None = Field(None, description="file, folder or pattern in the datastore")
    datastore_url: str | None = Field(None, description="azureml://.../datastores/NAME/paths/PATH, in place of the two")


class AzureMLJobOutput(Section):
    """Settings of the resource azureml_job_output."""

    azureml_client: AzureMLClient | None = Field(None, description="else that of the workflow")
    job_name: str = Field(description="of a job that is done")
    output_name: str = Field(description="of one of its outputs")
    relative_path: str = Field(description="of the model in the output")


RESOURCE_SETTINGS: Mapping[str, type[Section]] = {
    "azureml_registry_model": AzureMLModel,
    "azureml_model": AzureMLModel,
    "azureml_datastore": AzureMLDatastore,
    "azureml_job_output": AzureMLJobOutput,
}
"""Resources that need a network service, by type; those that are a path or name are translated to a text."""


class LoadKwargs(Section):
    """How the input model is loaded."""

    trust_remote_code: bool = Field(False, description="let the model bring its own Python code")
    revision: str | None = Field(None, description="commit, tag or branch on the hub")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] | None = Field(
        None, description="what a pass that loads the model as a whole, such as OnnxConversion, computes in"
    )
    attn_implementation: Literal["eager", "sdpa"] | None = Field(
        None, description="attention that such a pass exports; eager is what OrtTransformersOptimization can fuse"
    )
    quantization_method: Any = _unserved("Start from the unquantized model.")
    quantization_config: Any = _unserved("Start from the unquantized model.")
    subfolder: str | None = Field(None, description="folder in that of the model that holds the part which is meant")
    variant: Any = _unserved("Name a folder whose files have their usual names.")


class IoConfig(Section):
    """What goes into a model and comes out when it is exported, in the order of its inputs and outputs."""

    input_names: list[str] | None = Field(None, description="names of the inputs; else as the task has them")
    input_shapes: list[list[int]] | None = Field(None, description="of the example that is exported, an input each")
    input_types: list[str] | None = Field(None, description="numpy's names, an input each; else float32")
    output_names: list[str] | None = Field(None, description="names of the outputs; else as the model calls them")
    output_shapes: list[list[int]] | None = Field(None, description="accepted; they follow from the model")
    output_types: list[str] | None = Field(None, description="accepted; they follow from the model")
    dynamic_axes: dict[str, dict[int, str] | list[int] | None] | None = Field(
        None, description="for an input or output, the axes that stay open, each with the name of its size"
    )
    dynamic_shapes: dict[str, Any] | list[Any] | None = Field(
        None, description="the same in the form of torch.export, by inputs"
    )
    string_to_int_dim_params: list[str] | None = Field(None, description="names of sizes that are numbers")
    kv_cache: bool | dict[str, Any] = Field(False, description="give past keys and values as inputs and outputs too")

    @field_validator("dynamic_axes", mode="before")
    @classmethod
    def _numbered(cls, value: Any) -> Any:
        """JSON writes the numbers of axes as texts."""
        if not isinstance(value, Mapping):
            return value
        return {name: _axes(axes) for name, axes in value.items()}

    @model_validator(mode="after")
    def _fit(self) -> Self:
        """Shapes and types stand for the names, one each."""
        for key in ("input_shapes", "input_types"):
            given = getattr(self, key)
            if given is not None and self.input_names is not None and len(given) != len(self.input_names):
                raise ValueError(f"'{key}' has {len(given)} entries, but 'input_names' has {len(self.input_names)}")
        return self


def _axes(axes: Any) -> Any:
    if not isinstance(axes, Mapping):
        return axes
    return {int(axis) if str(axis).isdecimal() else axis: size for axis, size in axes.items()}


class InputModel(Section):
    """The model to start from."""

    type: str = Field(
        "HfModel",
        description="HfModel: a Hugging Face folder, hub name or GGUF file; ONNXModel: an ONNX file, or its folder; "
        "OpenVINOModel: an .xml file, or its folder; "
        "PyTorchModel: what a function of your script gives; CompositeModel: several of these, as model_components; "
        "DiffusersModel: the parts of a pipeline of diffusers",
    )
    model_path: str | Resource = Field(
        description="folder, .gguf or .onnx file, hub name or resource; of a PyTorchModel what model_loader gets; of a "
        "CompositeModel the folder of what belongs to all parts, such as a tokenizer, if there is one"
    )
    model_components: list["InputModel"] | None = Field(
        None, description="CompositeModel: its parts, each written as an input_model of its own"
    )
    model_component_names: list[str] | None = Field(
        None, description="CompositeModel: the names of its parts, which folders of results have too"
    )
    onnx_file_name: str | None = Field(
        None, description="ONNXModel: which graph of the folder, where it holds several and none is model.onnx"
    )
    adapter_path: str | None = Field(None, description="a PEFT adapter to start with")
    task: str = Field(
        "text-generation", description="what the model is for, by the hub's names; else as its config.json says"
    )
    load_kwargs: LoadKwargs = Field(LoadKwargs(), description="how it is loaded")
    model_file_format: str | None = Field(
        None, description="PyTorch.MLflow: the model lies in an MLflow folder, which is also known without this"
    )
    model_variant: str | None = _without_effect(
        "The files of a pipeline tell which it is.", None, "DiffusersModel: accepted; the files of the pipeline tell"
    )
    model_loader: str | None = Field(None, description="PyTorchModel: function of model_script that gives the model")
    component_func: str | None = Field(
        None, description="the same, for a part: it gets the model that it is a part of, by its name or to load it"
    )
    model_script: str | None = Field(None, description="your script, from the folder of the config")
    script_dir: str | None = Field(None, description="folder whose modules the script may import")
    max_seconds: float = Field(SECONDS, gt=0, description="seconds that a function of the script may take")
    io_config: IoConfig | str | None = Field(
        None,
        description="names, shapes and open axes for OnnxConversion, or a function of the script that gives them",
    )
    dummy_inputs_func: str | None = Field(
        None, description="function of the script that gives the example which OnnxConversion exports"
    )
    model_attributes: Any = _without_effect("The model's own files say what it is.", None, "accepted; its files tell")
    inference_settings: Any = _without_effect(
        "Graphs are measured as onnxruntime runs them by itself.", None, "accepted; graphs run as onnxruntime does it"
    )
    mlflow_transformer_model_cache_dir: Any = _without_effect(
        "An MLflow folder is read where it lies.", None, "accepted; an MLflow folder is read where it lies"
    )
    dataset: Any = _unserved("Name the data in data_configs.")
    generation_config: Any = _unserved("Remove it: the model's own generation_config.json is used.")
    use_ort_extensions: Any = _unserved("Export the model without custom operators.", default=False)
    external_initializers_file_name: Any = _unserved("Save the weights as external data of the ONNX file.")
    constant_inputs_file_name: Any = _unserved("Save the constants in the ONNX file.")
    generative: Any = _unserved("Name a folder with a genai_config.json; a graph alone writes no text.", default=False)


class LoadDataset(Section):
    """Where rows come from: the arguments of datasets.load_dataset."""

    type: str = Field(
        "huggingface_dataset",
        description="huggingface_dataset; dummy_dataset: ones of input_shapes; raw_dataset: files of numbers; "
        "transformers_dummy_dataset: tokens that are made up; or what your script registers",
    )
    data_name: str = Field("json", description="json, csv, parquet, text, or a hub data set")
    subset: str | None = Field(None, description="configuration of a hub data set")
    data_dir: str | None = Field(None, description="folder of the files")
    data_files: str | list[str] | dict[str, str | list[str]] | Resource | None = Field(
        None, description="files, one name or several, or some for each split; a pattern names many"
    )
    split: str = Field("train", description="which part: train, or a slice such as train[:10%]")
    sep: str | None = Field(None, description="character between the cells of a CSV file; else a comma, in .tsv a tab")
    encoding: str | None = Field(None, description="encoding of text files, such as cp1252 or cp932; else UTF-8")
    revision: str | None = Field(None, description="commit, tag or branch of a hub data set")
    trust_remote_code: bool = Field(False, description="let a hub data set bring its own Python code")
    input_shapes: list[list[int]] | None = Field(
        None, description="dummy_dataset, raw_dataset: of one row, an input each"
    )
    input_names: list[str] | None = Field(None, description="dummy_dataset, raw_dataset: names of the inputs")
    input_types: list[str] | None = Field(
        None, description="dummy_dataset, raw_dataset: numpy's names, an input each; else float32"
    )
    max_samples: int | None = Field(None, gt=0, description="how many rows are made up; else 32")
    input_dirs: list[str] | None = Field(
        None, description="raw_dataset: the folder of each input in data_dir; else its name"
    )
    input_suffix: str | None = Field(None, description="raw_dataset: what names of files end in; else all are read")
    input_order_file: str | None = Field(
        None, description="raw_dataset: file in data_dir with a name of a file a line; else they come sorted"
    )
    annotations_file: str | None = Field(None, description="raw_dataset: .npy file in data_dir with a label for each")
    seq_len: int | None = Field(None, ge=1, description="transformers_dummy_dataset: tokens of a row; else 128")
    past_seq_len: int | None = Field(None, ge=0, description="transformers_dummy_dataset: tokens before; else 0")
    params: Mapping[str, Any] = Field(default_factory=dict, description="arguments of what your script registers")
    streaming: Any = _without_effect("Rows are read once and kept.", False, "accepted; rows are read once and kept")
    col_filters: Any = _unserved("Filter the rows, and name the file of those that are left.")


class Component(Section):
    """A part of how rows come to a model, by its name: one of Olive's, or what your script registers or defines."""

    type: str | None = Field(None, description="its name, or that of a function of the script")
    params: Mapping[str, Any] = Field(default_factory=dict, description="its arguments")


class PreProcess(Section):
    """How rows become text, and text becomes training samples."""

    type: str = Field(
        "text_generation_huggingface_pre_process",
        description="text_generation_huggingface_pre_process; of models that write no text huggingface_pre_process, "
        "tokenizer_pre_process, ner_huggingface_preprocess, audio_classification_pre_process, "
        "speech_transcription_pre_process or skip_pre_process; or "
        "what your script registers",
    )
    label_col: str | None = Field(
        None,
        description="column of the label, else label; for a model of speech, of what is said in the sound, else text",
    )
    align_labels: Any = _without_effect(
        "Labels that are names are always those of the model.", False, "accepted; names of labels are the model's"
    )
    labels_to_filter: list[str] = Field(default_factory=list, description="labels whose rows are left out")
    max_duration: float | None = Field(None, gt=0, description="seconds of a sound that are read at most; else 30")
    sample_rate: int | None = Field(
        None, gt=0, description="samples a second that sounds are brought to, which must be what the model hears"
    )
    limit: float | None = Field(
        None,
        ge=0,
        description="rows for a model that writes no text: the first so many; below 1 a share of them, drawn by "
        "random_seed; 0: all",
    )
    feature_extractor_args: Mapping[str, Any] = Field(
        default_factory=dict, description="of a sound: settings of the model's feature extractor in place of its own"
    )
    params: Mapping[str, Any] = Field(default_factory=dict, description="arguments of what your script registers")
    form: str | None = Field(
        None, description="data form of a plugin by name, see docs/extending.md; else the other keys tell the form"
    )
    form_params: Mapping[str, Any] = Field(default_factory=dict, description="params of the form that `form` names")
    text_cols: str | list[str] | None = Field(None, description="columns joined by a space when there is no template")
    text_template: str | None = Field(None, description="Python format string over the row's columns")
    chat_template: bool | str | None = Field(
        None, description="true: the tokenizer's chat template over the messages; a text: a Jinja template"
    )
    message_col: str = Field("messages", description="column of the messages of a chat")
    prompt_col: str | list[str] | None = Field(
        None,
        description="column of what the user says: with answer_col, rows go through the chat template of a model that "
        "has one; of several columns, the further ones may be empty and stand below the first",
    )
    answer_col: str | None = Field(None, description="column of what the assistant says, see prompt_col")
    system_col: str | None = Field(
        None,
        description="column of a system text that becomes the first message of a chat; else system, system_prompt or "
        "system_message where there is one; empty: none",
    )
    train_on: Literal["all", "completion", "assistant"] | None = Field(
        None,
        description="which tokens are trained: all, the completion only, or every turn of the assistant; else the "
        "assistant's turns of a chat, the completion of a pair, all of any other text",
    )
    max_unanswered: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of rows with an empty or missing answer that are left out; more are refused, with 0 any",
    )
    add_special_tokens: bool = Field(True, description="put the tokenizer's begin and end tokens round each text, once")
    begin_token: bool | None = Field(
        None,
        description="put the tokenizer's begin token before each text; else where the tokenizer does so itself, but "
        "never before chats, nor where the workflow builds for onnxruntime-genai, whose tokenizer does not",
    )
    strategy: str | None = Field(
        None, description="how texts become samples; else a sample a row for chats and pairs, and join for text"
    )
    max_seq_len: int = Field(
        1024, gt=1, description="tokens a sample holds at most; by default, not more than the model reads"
    )
    pad_to_max_len: bool = Field(False, description="pad every sample to max_seq_len")
    drop_short_sequences: bool = Field(False, description="leave out samples that do not fill max_seq_len")
    use_attention_mask: bool = Field(True, description="false: padding is attended to as well")
    joiner: str = Field("\n\n", description="text between two rows that are joined")
    max_samples: int | None = Field(None, gt=0, description="samples at most")
    stride: int | None = Field(None, gt=0, description="join-sliding-window: tokens from one sample to the next")
    random_seed: int = Field(0, description="of the random strategies")
    random_retries: int = Field(10, description="how often a random strategy looks for a row that fits")
    pair_format: Literal["default", "alpaca", "chip2", "self_instruct", "custom"] | None = Field(
        None, description="which columns are prompt and target"
    )
    input_col: str | None = Field(None, description="pair_format custom: column of the prompt")
    output_col: str | None = Field(None, description="pair_format custom: column of the target")
    input_template: str | None = Field(None, description="pair_format custom: format string of the prompt")
    output_template: str | None = Field(None, description="pair_format custom: format string of the target")
    source_max_len: int | None = Field(None, gt=0, description="strategy pair: tokens of the prompt at most")
    target_max_len: int | None = Field(None, gt=0, description="strategy pair: tokens of the target at most")
    ignore_source_in_labels: bool = Field(True, description="strategy pair: do not train on the prompt")
    padding_side: str = _unserved("Remove it: padding stands on the right and is never trained on.", default="right")
    text_formatting_func: Any = _unserved("Use text_template, or write the text into a column of the data file.")
    input_formatting_func: Any = _unserved("Use input_template, or write the text into a column of the data file.")
    output_formatting_func: Any = _unserved("Use output_template, or write the text into a column of the data file.")
    model_name: Any = _without_effect(
        "The tokenizer is that of the input model.", None, "accepted; the tokenizer is that of the input model"
    )
    task: Any = _without_effect(
        "What rows are for follows from the input model.", None, "accepted; the input model tells"
    )
    trust_remote_code: Any = _unserved(
        "Write it under input_model.load_kwargs, for the model that is trusted.", default=False
    )


class DataConfig(Section):
    """One named data set."""

    name: str = Field(description="what passes call it")
    type: str = Field("HuggingfaceContainer", description="the only kind of data")
    load_dataset_config: LoadDataset = Field(LoadDataset(), description="where rows come from")
    pre_process_data_config: PreProcess = Field(PreProcess(), description="how rows become text and samples")
    folder: str = Field("", description="folder of the config file; relative data files start from here")
    content: str = Field("", description="hash of the rows of a data set that is not here, as the run found them")
    user_script: str | None = Field(None, description="your script, from the folder of the config")
    script_dir: str | None = Field(None, description="folder whose modules the script may import")
    max_seconds: float = Field(SECONDS, gt=0, description="seconds in which the script must give its rows")
    post_process_data_config: Component = Field(Component(), description="accepted; see docs/data.md")
    dataloader_config: Component = Field(Component(), description="how rows become batches, where a script says so")


class PassConfig(Section):
    """One step: the pass, where it runs, and its params (checked against the pass by `plan`)."""

    type: str = Field(description="name of the pass, see olivine passes")
    params: Mapping[str, Any] = Field(default_factory=dict)
    host: str | None = Field(None, description="the system where this pass runs; else the workflow's host")
    evaluator: Any = _unserved("Name it as the workflow's evaluator, which measures every model.")
    disable_search: bool = Field(
        False, description="search only what is listed, not the values that the pass has itself"
    )
    searched: list[str] = Field(
        default_factory=list,
        description="params of which a search tries every value, where there is a list of them",
    )
    alternatives: list[Any] = Field(default_factory=list, description="other passes in its place, which a search tries")
    label: str | None = Field(None, description="what a search calls it among alternatives; else its type")
    output_name: Any = _unserved("Remove it: the result lies in output_dir under the name of its pass.")
    clean_run_cache: Any = _unserved("Remove it: a step runs again when anything it depends on changed.", default=False)


class Accelerator(Section):
    """A device and the execution providers wanted on it."""

    device: Literal["cpu", "gpu", "npu"] | None = Field(
        None, description="else that of the first execution provider, or cpu"
    )
    devices: int = Field(
        1, gt=0, description="how many of them fine-tuning uses; on the CPU, processes that share its cores"
    )
    execution_providers: list[str] = Field(
        default_factory=list, description="what runs the result; the first that is here is used"
    )
    memory: StrictInt | str | None = Field(
        None, description="the most that a run may use of the device's memory: bytes, or a text such as 16GB"
    )
    preference: bool = Field(
        False,
        description="take the first of execution_providers that is installed, else the CPU; false: they are a demand",
    )


class System(Section):
    """Where passes run or results are measured."""

    type: str = Field("LocalSystem", description="kind of system, see docs/systems.md")
    accelerators: list[Accelerator] = Field(default_factory=list, description="the one that is used")
    config: Mapping[str, Any] = Field(default_factory=dict, description="settings of remote systems, by their own keys")


class LocalSettings(Section):
    """Settings of a LocalSystem beside its accelerators."""

    hf_token: bool = Field(False, description="accepted; a token of the hub is always read from the environment")


class AzureMLDocker(Section):
    """What an environment of AzureML is made of; olivine goes into it."""

    base_image: str | None = Field(None, description="image that it is made on")
    conda_file_path: str | dict[str, Any] | None = Field(
        None, description="file with the packages of conda and pip that go into it, or what stands in one"
    )
    build_context_path: str | None = Field(None, description="folder that an image is built of, in place of base_image")
    dockerfile: str | None = Field(None, description="file in it that says how; else Dockerfile")
    name: str | None = Field(None, description="of the environment that is made; else olivine")
    version: str | int | None = Field(None, description="how its version begins; the rest is a hash of its content")


class AzureMLEnvironment(Section):
    """An environment that is registered in AzureML and has olivine in it."""

    name: str = Field(description="of an environment of the workspace, or azureml://registries/... of a registry")
    version: str | int | None = Field(None, description="else that of the label")
    label: str | None = Field(None, description="else latest")


class AzureMLSettings(Section):
    """Settings of an AzureML system: a compute by name and its environment."""

    aml_compute: str = Field(description="name of a compute of the workspace: a cluster, an instance, or one of Arc")
    azureml_client_config: AzureMLClient | None = Field(None, description="the workspace; else that of the workflow")
    aml_docker_config: AzureMLDocker | None = Field(None, description="what its environment is made of")
    aml_environment_config: AzureMLEnvironment | None = Field(None, description="a registered one in its place")
    instance_count: int = Field(
        1, gt=0, description="nodes of a worker, on all of which fine-tuning runs; other passes run on the first"
    )
    resources: dict[str, Any] | None = Field(
        None, description="of the job: instance_type of a compute of Arc, shm_size, docker_args, properties"
    )
    tags: dict[str, Any] | None = Field(None, description="of its jobs")
    datastores: str = Field("workspaceblobstore", description="the datastore of blobs where files go")
    is_dev: bool = Field(False, description="accepted; an environment always gets the olivine that runs here")
    hf_token: bool = Field(
        False, description="let the node read the secret hf-token of the key vault as HF_TOKEN, by its own identity"
    )
    olive_managed_env: bool = Field(False, description="accepted; olivine is put into every environment that is made")
    requirements_file: str | None = Field(None, description="what else is installed into an environment that is made")


SYSTEM_SETTINGS: Mapping[str, type[Section] | None] = {
    "LocalSystem": LocalSettings,
    "Docker": None,
    "PythonEnvironment": None,
    "IsolatedORT": None,
    "AzureML": AzureMLSettings,
    "Ray": None,
}
"""What stands in `System.config`, by the type of the system; None where a plan asks the system itself."""


class SearchStrategy(Section):
    """How to search over alternatives of passes and values of params."""

    execution_order: Literal["joint", "pass-by-pass"] = Field(
        "joint",
        description="joint: a trial chooses for all passes at once; pass-by-pass: for one pass after the other, each "
        "going on from the best of the one before",
    )
    sampler: str = Field("tpe", description="which trial comes next: sequential, random, tpe or nsga2")
    sampler_config: dict[str, Any] = Field(
        default_factory=dict, description="max_samples: trials at most; seed; and what the sampler itself takes"
    )
    stop_when_goals_met: bool = Field(False, description="end with the first trial that meets every goal")
    max_iter: int | None = Field(None, gt=0, description="trials at most, as max_samples")
    max_time: float | None = Field(None, gt=0, description="seconds after which no trial is begun")
    end_at_max_time: bool = Field(False, description="a trial that is at work after max_time is ended, and failed")
    max_trial_time: float | None = Field(
        None, gt=0, description="seconds that a trial may take; one that takes longer is ended and counts as failed"
    )
    max_cost_bytes: int | None = Field(
        None, gt=0, description="bytes that the results of all trials may take together; what needs more is left out"
    )
    early_stop_error: float = Field(
        0.01,
        ge=0,
        lt=0.5,
        description="a trial is given up after a few rows where no more than this share of those that would meet their "
        "goal on the accuracy is lost by it; 0: all rows are scored",
    )
    max_parallel: int | None = Field(
        None,
        gt=0,
        description="trials that run at once, where cores and memory have room for them; else one on a machine, and on "
        "a cluster as many as it has room for",
    )
    include_pass_params: bool = Field(
        True, description="search params that are not set and have values to be searched of their own, too"
    )


GoalType = Literal[
    "threshold", "min-improvement", "percent-min-improvement", "max-degradation", "percent-max-degradation"
]


class Goal(Section):
    """What a number must reach: a value itself, or one that counts from what the input model has."""

    type: GoalType = Field(
        description="threshold: the value itself; the others count from the input model's, in the number's own unit or "
        "in percent of it"
    )
    value: float = Field(description="the bound, or how far from the input model's number it lies")


class SubType(Section):
    """One number of a metric."""

    name: str = Field(description="which one, e.g. f1_score of an accuracy; see docs/evaluators.md")
    priority: int | None = Field(None, description="1 matters most where a search chooses; -1: not looked at")
    higher_is_better: bool | None = Field(None, description="which way is better, where the metric does not tell")
    goal: Goal | None = Field(None, description="what the result must reach, or the run ends with exit code 1")
    metric_config: dict[str, Any] = Field(default_factory=dict, description="params of the metric")


class Metric(Section):
    """One measurement; without sub types it is the first number that the metric has."""

    name: str = Field(description="what tables call it")
    type: str = Field(
        description="accuracy, perplexity, kl_divergence, latency, throughput, memory, size_on_disk, lm_eval, "
        "custom; or a plugin's"
    )
    sub_types: list[SubType] = Field(default_factory=list, description="which numbers of it")
    priority: int | None = Field(None, description="as of a sub type, where there are none")
    higher_is_better: bool | None = Field(None, description="as of a sub type, where there are none")
    goal: Goal | None = Field(None, description="as of a sub type, where there are none")
    metric_config: dict[str, Any] = Field(default_factory=dict, description="params of the metric")
    data_config: str | None = Field(None, description="the rows; else those of 'quality'")
    user_config: dict[str, Any] = Field(
        default_factory=dict, description="of a custom metric: user_script, and its evaluate_func or metric_func"
    )
    backend: str | None = _without_effect(
        "The numbers are computed by olivine, whichever library Olive asked.", None, "accepted; where Olive computed it"
    )


class Evaluator(Section):
    """A named list of measurements."""

    name: str | None = Field(None, description="accepted; its key is its name")
    type: str | None = Field(None, description="accepted; an evaluator without metrics is not served")
    metrics: list[Metric] = Field(default_factory=list, description="what is measured")
    type_args: Any = _unserved("Write what is to be measured as 'metrics'.")
    user_script: Any = _unserved("Name the script in the user_config of a metric.")
    script_dir: Any = _unserved("Name the script in the user_config of a metric.")


class Quality(Section):
    """What the result must keep, measured at every seam on the same rows."""

    max_drop: float | str | None = Field(
        None, description="largest drop of label accuracy from one model to the next: 0.03, '3pp'"
    )
    data_config: str | None = Field(None, description="rows to score; else the eval rows of the training step")
    target: str | None = Field(None, description="column to predict; else the last column of the template")
    max_samples: int = Field(512, gt=0, description="rows scored at most")
    metrics: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="params of metrics by name; a metric of a plugin is measured only where it stands here",
    )
    enabled: bool = Field(True, description="false: nothing is scored")


class Packaging(Section):
    """One form in which the result is packed."""

    type: str = Field(description="Zipfile: output_dir/NAME.zip holds the folder of the model")
    name: str = Field("OutputModels", description="of the archive, without its suffix")
    config: dict[str, Any] | None = Field(None, description="accepted; settings of other packagings")
    include_runtime_packages: bool = _without_effect(
        "A runtime is installed, not packed.", True, "accepted; no runtime is packed"
    )
    include_sample_code: bool = _without_effect("No sample code is packed.", True, "accepted; no code is packed")
    export_in_mlflow_format: Any = _unserved("Convert the folder of the model with mlflow.", default=False)


class Workflow(Section):
    """A whole config."""

    input_model: InputModel = Field(description="the model to start from")
    systems: dict[str, System] = Field(default_factory=dict, description="machines by name")
    data_configs: list[DataConfig] = Field(default_factory=list, description="data sets")
    passes: dict[str, PassConfig] = Field(description="what is done, in this order")
    evaluators: dict[str, Evaluator] = Field(default_factory=dict, description="what is to be measured, by name")
    evaluator: str | None = Field(None, description="the one of the evaluators whose numbers the result must have")
    host: str | None = Field(None, description="the system where passes run")
    target: str | None = Field(None, description="the system where models are measured, and the result will run")
    search_strategy: bool | dict[str, Any] | None = Field(
        None, description="try the values and passes that are listed, and deliver the best; true: by the defaults"
    )
    quality: Quality = Field(Quality(), description="what every model on the way is scored on, and what it may lose")
    cache_dir: str = Field(".olive-cache", description="folder of the steps' results")
    output_dir: str = Field("outputs", description="folder of the result")
    log_severity_level: int = _without_effect(
        "The log of a step keeps everything, and the screen shows what matters.",
        1,
        "accepted; the log of a step keeps everything",
        ge=0,
        le=4,
    )
    azureml_client: AzureMLClient | None = Field(
        None, description="the workspace of what lies in AzureML and names no other, and how it is reached"
    )
    environment: Mapping[str, str] = Field(
        default_factory=dict,
        description="versions that a run wrote into its workflow.json; for people, nothing depends on it",
    )
    workflow_host: Any = _unserved("Run olivine on that host itself.")
    builds: Any = _unserved("Write one config for each of them; they share the cache.")
    pass_flows: list[list[str]] | None = Field(
        None, description="orders of passes by their names, of which a search tries each"
    )
    auto_optimizer_config: Any = _unserved("Write the passes that are wanted, or run 'olivine optimize'.")
    packaging_config: list[Packaging] = Field(default_factory=list, description="archives of the result")
    output_file: str | None = Field(
        None, description="name that the graph of the result has in output_dir, as a file of its own; ends in .onnx"
    )
    output_name: Any = _unserved("Write it as the last folder of output_dir.")
    clean_cache: Any = _unserved("Run 'olivine cache gc', or name another cache_dir.", default=False)
    clean_evaluation_cache: Any = _unserved("Run 'olivine cache gc', or name another cache_dir.", default=False)
    cache_config: Any = _unserved("Use cache_dir.")
    enable_shared_cache: Any = _unserved("Let cache_dir name a folder that is shared.", default=False)
    plot_pareto_frontier: Any = _unserved("Remove it: there is no search to plot.", default=False)
    no_artifacts: Any = _unserved(
        "Use 'olivine plan' to see what would run, or 'olivine evaluate' to score.", default=False
    )
    data_root: Any = _unserved("Write the whole path in data_files.")
    execution_providers: Any = _unserved("Name them in systems, under accelerators of the target.")

    @property
    def search(self) -> SearchStrategy | None:
        """How to search, by the defaults where what is written does not hold; None: nothing is searched."""
        if self.search_strategy is None or self.search_strategy is False:
            return None
        given = {} if self.search_strategy is True else self.search_strategy
        try:
            return SearchStrategy.model_validate(given)
        except ValidationError as error:  # told when the config was read
            wrong = {fault["loc"][0] for fault in error.errors() if fault["loc"]}
            return SearchStrategy.model_validate({key: value for key, value in given.items() if key not in wrong})

    def data(self, name: str) -> DataConfig | None:
        """The data config of that name."""
        return next((config for config in self.data_configs if config.name == name), None)
