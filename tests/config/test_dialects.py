"""Each row of the table of old forms, and that nothing changes meaning in silence."""

import json
from pathlib import Path
from typing import Any

import pytest

from olivine.config import Note, load, migrate, read
from olivine.errors import ConfigError

PUBLISHED = sorted((Path(__file__).parent / "published").glob("*.json"))
MODEL = {"type": "HfModel", "model_path": "some/model"}
LORA = {"type": "LoRA", "train_data_config": "train"}
DATA = {"name": "train", "load_dataset_config": {"data_files": "a.json"}}


def config(**sections: Any) -> dict[str, Any]:
    return {"input_model": MODEL, "passes": {"lora": LORA}} | sections


def written(tmp_path: Path, value: dict[str, Any]) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(value, indent=1))
    return path


def migrated(tmp_path: Path, value: dict[str, Any]) -> tuple[dict[str, Any], list[Note]]:
    return migrate(read(written(tmp_path, value)))


def today(tmp_path: Path, **sections: Any) -> dict[str, Any]:
    """The config in today's form; a plan of it meets no problem, and translating it again changes nothing."""
    result, _ = migrated(tmp_path, config(**sections))
    path = tmp_path / "today.json"
    path.write_text(json.dumps(result))
    assert load(path).problems == ()
    assert migrate(read(path))[0] == result
    return result


def notes(tmp_path: Path, **sections: Any) -> list[str]:
    return [str(note) for note in migrated(tmp_path, config(**sections))[1]]


def warnings(tmp_path: Path, **sections: Any) -> list[str]:
    return [note.message for note in migrated(tmp_path, config(**sections))[1] if note.warning]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_configs_are_read(path):
    loaded = load(path)
    assert loaded.workflow is not None
    kinds = {problem.kind for problem in loaded.problems}
    assert kinds == set()


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_migrating_twice_is_migrating_once_and_means_the_same(path, tmp_path):
    once, _ = migrate(read(path))
    copy = written(tmp_path, once)
    assert migrate(read(copy))[0] == once

    def meaning(file: Path) -> dict[str, Any]:
        return load(file).workflow.model_dump(exclude={"data_configs": {"__all__": {"folder"}}})

    assert meaning(copy) == meaning(path)


def test_todays_published_config_is_not_changed_at_all():
    path = next(path for path in PUBLISHED if path.stem == "local-today")
    assert migrate(read(path))[0] == json.loads(path.read_text())


def test_the_published_local_config_says_what_it_said():
    workflow = load(next(path for path in PUBLISHED if path.stem == "local-2024")).workflow
    assert workflow.input_model.model_path == "model-cache/microsoft/phi-3-mini"
    assert workflow.input_model.load_kwargs.trust_remote_code
    pre = workflow.data_configs[0].pre_process_data_config
    assert (pre.strategy, pre.max_seq_len, pre.use_attention_mask) == ("join", 2048, False)
    params = workflow.passes["lora"].params
    assert (params["r"], params["alpha"], params["eval_dataset_size"]) == (64, 64, 0.3)
    assert params["training_args"]["eval_strategy"] == "steps"
    assert "double_quant" not in params
    assert workflow.passes["builder"].params == {"precision": "int4"}
    assert workflow.output_dir == "../model-cache/models/phi3-finetuned"
    assert workflow.log_severity_level == 0
    (accelerator,) = workflow.systems[workflow.target].accelerators
    assert (accelerator.device, accelerator.execution_providers) == ("gpu", ["CUDAExecutionProvider"])
    assert accelerator.preference


def test_the_published_azureml_config_says_what_it_said():
    loaded = load(next(path for path in PUBLISHED if path.stem == "azureml-2024"))
    model = loaded.workflow.input_model
    assert (model.model_path.type, model.model_file_format) == ("azureml_registry_model", "PyTorch.MLflow")
    assert model.model_path.config["registry_name"] == "azureml-msr"
    files = loaded.workflow.data_configs[0].load_dataset_config.data_files
    assert (files.type, files.config["relative_path"]) == ("azureml_datastore", "path/train_data.json")
    (accelerator,) = loaded.workflow.systems["aml"].accelerators
    assert accelerator.execution_providers == ["CUDAExecutionProvider"]
    assert not accelerator.preference
    assert loaded.workflow.systems["aml"].config["aml_compute"] == "COMPUTE"


def test_lines_survive_translation():
    path = next(path for path in PUBLISHED if path.stem == "local-2024")
    document = load(path).document
    lines = path.read_text().splitlines()

    def line(*keys: Any) -> str:
        place = document.where(keys)
        return lines[int(place.rpartition(":")[2]) - 1]

    assert '"lora_r"' in line("passes", "lora", "r")
    assert '"lora_r"' in line("passes", "lora", "params", "r")
    assert '"evaluation_strategy"' in line("passes", "lora", "params", "training_args", "eval_strategy")
    assert '"corpus_strategy"' in line("data_configs", 0, "pre_process_data_config", "strategy")
    assert '"model_name"' in line("input_model", "model_path")
    assert '"output_dir"' in line("output_dir")


@pytest.mark.parametrize("name", ["model_loading_args", "from_pretrained_args", "load_kwargs"])
def test_loading_arguments_under_each_of_their_names(tmp_path, name):
    old = {"type": "PyTorchModel", "config": {"hf_config": {"model_name": "a/b", name: {"trust_remote_code": True}}}}
    result = today(tmp_path, input_model=old)
    assert result["input_model"] == {
        "type": "HfModel",
        "model_path": "a/b",
        "load_kwargs": {"trust_remote_code": True},
    }


def test_model_keys_may_be_nested_or_flat(tmp_path):
    nested = today(
        tmp_path, input_model={"type": "hfmodel", "config": {"model_path": "a/b", "task": "text-generation"}}
    )
    flat = today(tmp_path, input_model={"type": "HfModel", "model_path": "a/b", "task": "text-generation"})
    assert nested == flat


def test_another_model_name_beside_the_path_is_a_warning(tmp_path):
    model = {"type": "PyTorchModel", "config": {"model_path": "folder", "hf_config": {"model_name": "a/b"}}}
    (message,) = warnings(tmp_path, input_model=model)
    assert "config and tokenizer come from 'folder'" in message


def test_string_accelerators_take_the_engines_execution_providers(tmp_path):
    systems = {"here": {"type": "localsystem", "config": {"accelerators": ["GPU", "cpu"]}}}
    engine = {"execution_providers": ["CUDAExecutionProvider", "CPUExecutionProvider"], "target": "here"}
    result = today(tmp_path, systems=systems, engine=engine)
    assert result["systems"]["here"]["accelerators"] == [
        {"device": "gpu", "execution_providers": ["CUDAExecutionProvider"]},
        {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]},
    ]


def test_execution_providers_that_fit_no_accelerator_are_a_warning(tmp_path):
    systems = {"here": {"type": "LocalSystem", "accelerators": ["cpu"]}}
    engine = {"execution_providers": ["CUDAExecutionProvider"], "target": "here"}
    (message,) = warnings(tmp_path, systems=systems, engine=engine)
    assert "CUDAExecutionProvider runs on none" in message


def test_execution_providers_without_accelerators_stay_a_preference(tmp_path):
    engine = {"execution_providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
    result = today(tmp_path, engine=engine)
    assert result["systems"][result["target"]]["accelerators"] == [
        {"device": "gpu", "execution_providers": engine["execution_providers"], "preference": True}
    ]
    assert any("list of preferences" in note for note in notes(tmp_path, engine=engine))


def test_execution_providers_go_to_the_target_that_has_no_accelerators(tmp_path):
    systems = {"here": {"type": "LocalSystem"}}
    result = today(tmp_path, systems=systems, target="here", execution_providers=["CPUExecutionProvider"])
    assert list(result["systems"]) == ["here"]
    assert result["systems"]["here"]["accelerators"][0]["preference"] is True


def test_the_device_of_a_system_is_an_accelerator(tmp_path):
    result = today(tmp_path, systems={"here": {"type": "LocalSystem", "config": {"device": "cpu"}}})
    assert result["systems"]["here"]["accelerators"] == [{"device": "cpu"}]


def test_systems_written_in_place_are_named(tmp_path):
    result = today(tmp_path, host={"type": "LocalSystem"}, passes={"lora": LORA | {"host": {"type": "localsystem"}}})
    assert result["host"] == "host_system"
    assert result["systems"] == {"host_system": {"type": "LocalSystem"}, "lora_system": {"type": "LocalSystem"}}


def test_data_configs_as_a_mapping_become_a_list(tmp_path):
    result = today(tmp_path, data_configs={"train": {"load_dataset_config": {"data_files": "a.json"}}})
    assert result["data_configs"] == [{"name": "train", "load_dataset_config": {"data_files": "a.json"}}]


def test_params_config_and_component_kwargs_are_split_by_section(tmp_path):
    params = {
        "data_name": "glue",
        "subset": "mrpc",
        "component_kwargs": {"pre_process_data": {"dataset_type": "corpus", "text_cols": ["a"], "source_max_len": 128}},
    }
    result = today(tmp_path, data_configs={"train": {"type": "HuggingfaceContainer", "params_config": params}})
    (entry,) = result["data_configs"]
    assert entry["load_dataset_config"] == {"data_name": "glue", "subset": "mrpc", "split": "validation"}
    today_s = {"text_cols": ["a"], "max_seq_len": 128, "strategy": "line-by-line", "train_on": "all"}
    assert entry["pre_process_data_config"] == today_s


def test_components_become_sections(tmp_path):
    components = {"load_dataset": {"name": "x", "type": "huggingface_dataset", "params": {"data_files": "a.json"}}}
    result = today(tmp_path, data_configs=[{"name": "train", "components": components}])
    assert result["data_configs"][0]["load_dataset_config"] == {
        "type": "huggingface_dataset",
        "data_files": "a.json",
    }


def test_nested_and_flat_params_of_data_are_the_same(tmp_path):
    nested = {"name": "train", "load_dataset_config": {"params": {"data_files": "a.json", "split": "train"}}}
    flat = {"name": "train", "load_dataset_config": {"data_files": "a.json", "split": "train"}}
    assert today(tmp_path, data_configs=[nested]) == today(tmp_path, data_configs=[flat])


@pytest.mark.parametrize(("name", "split"), [("glue", "validation"), ("json", None), ("csv", None)])
def test_the_old_default_split_is_written_down_for_hub_data(tmp_path, name, split):
    result = today(tmp_path, data_configs=[{"name": "train", "load_dataset_config": {"params": {"data_name": name}}}])
    assert result["data_configs"][0]["load_dataset_config"].get("split") == split


def pre_process(tmp_path: Path, section: dict[str, Any]) -> dict[str, Any]:
    result = today(tmp_path, data_configs=[DATA | {"pre_process_data_config": section}])
    return result["data_configs"][0]["pre_process_data_config"]


def test_text_keys_of_2024_have_todays_names(tmp_path):
    old = {"dataset_type": "corpus", "corpus_strategy": "join", "source_max_len": 2048}
    kept = {"train_on": "all", "text_cols": "text"}
    assert pre_process(tmp_path, old) == {"max_seq_len": 2048, "strategy": "join"} | kept
    assert any(
        "trained on every token" in note
        for note in notes(tmp_path, data_configs=[DATA | {"pre_process_data_config": old}])
    )


def test_the_old_default_strategy_is_written_down(tmp_path):
    old = {"source_max_len": 64, "text_template": "{a}"}
    new = {"text_template": "{a}", "max_seq_len": 64, "strategy": "line-by-line", "train_on": "all"}
    assert pre_process(tmp_path, old) == new
    assert pre_process(tmp_path, {"max_seq_len": 64}) == {"max_seq_len": 64}


def test_pairs_keep_their_lengths(tmp_path):
    old = {"dataset_type": "pair", "pair_format": "alpaca", "source_max_len": 64, "target_max_len": 32}
    expected = {"strategy": "pair", "pair_format": "alpaca", "source_max_len": 64, "target_max_len": 32}
    assert pre_process(tmp_path, old) == expected


def test_an_unknown_dataset_type_is_a_problem(tmp_path):
    data = DATA | {"pre_process_data_config": {"dataset_type": "corpse"}}
    (problem,) = load(written(tmp_path, config(data_configs=[data]))).problems
    assert "'corpse'" in problem.message
    assert problem.kind == "invalid-value"


def test_special_tokens_are_said_where_the_config_is_silent(tmp_path):
    silent = DATA | {"pre_process_data_config": {"text_template": "{a}"}}
    told = DATA | {"pre_process_data_config": {"text_template": "{a}", "add_special_tokens": False}}
    assert any("learns to stop" in note for note in notes(tmp_path, data_configs=[silent]))
    assert not any("learns to stop" in note for note in notes(tmp_path, data_configs=[told]))


def lora(tmp_path: Path, **params: Any) -> dict[str, Any]:
    return today(tmp_path, passes={"lora": {"type": "lora", "config": params}})["passes"]["lora"]


def test_lora_params_of_2024_have_todays_names(tmp_path):
    assert lora(tmp_path, lora_r=8, lora_alpha=16, lora_dropout=0.1) == {
        "type": "lora",
        "r": 8,
        "alpha": 16,
        "lora_dropout": 0.1,
    }


def test_evaluation_strategy_is_eval_strategy(tmp_path):
    result = lora(tmp_path, training_args={"evaluation_strategy": "steps", "optim": "adamw_torch"})
    assert result["training_args"] == {"eval_strategy": "steps", "optim": "adamw_torch"}


def test_extra_args_are_training_args(tmp_path):
    assert lora(tmp_path, training_args={"extra_args": {"seed": 1}})["training_args"] == {"seed": 1}


def test_double_quant_on_lora_is_dropped_with_a_warning_and_kept_on_qlora(tmp_path):
    (message,) = warnings(tmp_path, passes={"lora": {"type": "LoRA", "config": {"double_quant": True}}})
    assert '{"type": "QLoRA", "quant_type": "nf4", "double_quant": true}' in message
    assert lora(tmp_path, double_quant=True) == {"type": "lora"}
    result = today(tmp_path, passes={"lora": {"type": "QLoRA", "double_quant": True}})
    assert result["passes"]["lora"]["double_quant"] is True


def test_max_steps_beside_epochs_is_a_warning_with_the_numbers(tmp_path):
    arguments = {"max_steps": 10, "num_train_epochs": 3}
    (message,) = warnings(tmp_path, passes={"lora": LORA | {"training_args": arguments}})
    assert "10 optimizer steps, not for 3 epochs" in message
    assert warnings(tmp_path, passes={"lora": LORA | {"training_args": arguments | {"max_steps": -1}}}) == []


def test_group_by_length_is_named_as_transformers_names_it_today(tmp_path):
    found = notes(tmp_path, passes={"lora": LORA | {"training_args": {"group_by_length": True}}})
    assert any("train_sampling_strategy" in note for note in found)


def test_training_in_onnx_runtime_is_refused(tmp_path):
    path = written(tmp_path, config(passes={"lora": LORA | {"use_ort_trainer": True}}))
    (problem,) = load(path).problems
    assert problem.kind == "unsupported"
    assert "use_ort_trainer" in problem.message
    result, found = migrate(read(path))
    assert "use_ort_trainer" not in result["passes"]["lora"]
    assert [note.warning for note in found] == [True]
    assert lora(tmp_path, use_ort_trainer=False) == {"type": "lora"}


def test_passes_may_be_nested_flat_or_in_a_list_of_one(tmp_path):
    flat = today(tmp_path, passes={"build": {"type": "ModelBuilder", "precision": "int4"}})
    for form in (
        {"type": "ModelBuilder", "config": {"precision": "int4"}},
        [{"type": "ModelBuilder", "precision": "int4"}],
        {"type": "ModelBuilder", "precision": "int4", "disable_search": True},
        {"type": "ModelBuilder", "config": {"precision": "int4", "exclude_embeds": "DEFAULT_VALUE"}},
    ):
        assert today(tmp_path, passes={"build": form}) == flat


def test_engine_keys_may_stand_under_engine_or_at_the_top(tmp_path):
    keys = {"cache_dir": "c", "output_dir": "o", "log_severity_level": 2, "search_strategy": False}
    assert today(tmp_path, engine=keys) == today(tmp_path, **keys)


def test_a_key_at_the_top_and_under_engine_with_another_value_is_a_problem(tmp_path):
    path = written(tmp_path, config(cache_dir="a", engine={"cache_dir": "b"}))
    (problem,) = load(path).problems
    assert "'cache_dir' is 'b' here, but 'cache_dir' is 'a'" in problem.message
    with pytest.raises(ConfigError):
        migrate(read(path))


def test_old_and_new_name_together_are_a_problem_unless_equal(tmp_path):
    (problem,) = load(written(tmp_path, config(passes={"lora": LORA | {"lora_r": 8, "r": 16}}))).problems
    assert "'lora_r' is 8 here, but 'r' is 16" in problem.message
    assert today(tmp_path, passes={"lora": LORA | {"lora_r": 8, "r": 8}})["passes"]["lora"]["r"] == 8


def test_search_of_2024_has_todays_names(tmp_path):
    search = {
        "execution_order": "joint",
        "search_algorithm": "exhaustive",
        "search_algorithm_config": {"num_samples": 5, "seed": 0},
    }
    result, _ = migrated(tmp_path, config(search_strategy=search))
    assert result["search_strategy"] == {
        "execution_order": "joint",
        "sampler": "sequential",
        "sampler_config": {"max_samples": 5, "seed": 0},
    }


@pytest.mark.parametrize("key", ["clean_cache", "clean_evaluation_cache", "plot_pareto_frontier", "no_artifacts"])
def test_switches_that_change_no_result_are_dropped_and_said(tmp_path, key):
    for value in (False, True):
        assert key not in today(tmp_path, engine={key: value})
        assert any(f"'{key}' is dropped: " in note for note in notes(tmp_path, engine={key: value}))


def test_shared_cache_is_refused_where_it_is_asked_for(tmp_path):
    assert "enable_shared_cache" not in today(tmp_path, engine={"enable_shared_cache": False})
    (problem,) = load(written(tmp_path, config(engine={"enable_shared_cache": True}))).problems
    assert (problem.kind, "'enable_shared_cache'" in problem.message) == ("unsupported", True)


def test_evaluation_alone_is_a_command(tmp_path):
    assert "evaluation_only" not in today(tmp_path, engine={"evaluation_only": False})
    (problem,) = load(written(tmp_path, config(engine={"evaluation_only": True}))).problems
    assert problem.kind == "unsupported"
    assert "olivine evaluate" in problem.fix


@pytest.mark.parametrize(
    ("written_as", "task"),
    [
        ("text2text-generation-with-past", "text2text-generation"),
        ("translation_en_to_de", "translation"),
        ("translation_en_to_de-with-past", "translation"),
        ("text-generation-with-past", "text-generation-with-past"),
    ],
)
def test_task_is_that_of_the_hub_without_cache_and_languages(tmp_path, written_as, task):
    model = {"type": "HfModel", "model_path": "a/b", "task": written_as}
    assert today(tmp_path, input_model=model)["input_model"]["task"] == task


def test_output_name_is_the_last_folder_of_the_output(tmp_path):
    result = today(tmp_path, engine={"output_dir": "models", "output_name": "phi"})
    assert (result["output_dir"], "output_name" in result) == ("models/phi", False)
    assert today(tmp_path, output_name="phi")["output_dir"] == "outputs/phi"


def test_output_that_is_called_like_a_graph_is_a_file(tmp_path):
    result = today(tmp_path, output_dir="models/bert.onnx")
    assert (result["output_dir"], result["output_file"]) == ("models", "bert.onnx")
    assert today(tmp_path, output_dir="bert.onnx")["output_dir"] == "."


def test_one_packaging_needs_no_list(tmp_path):
    result = today(tmp_path, packaging_config={"type": "Zipfile", "name": "out"})
    assert result["packaging_config"] == [{"type": "Zipfile", "name": "out"}]


def test_cleaning_of_the_cache_leaves_its_folder(tmp_path):
    given = {"cache_dir": "c", "clean_cache": True, "enable_shared_cache": False}
    assert today(tmp_path, cache_config=given)["cache_dir"] == "c"


def test_optimizer_that_chooses_passes_is_nothing_beside_passes(tmp_path):
    assert "auto_optimizer_config" not in today(tmp_path, auto_optimizer_config={"opt_level": 0})


@pytest.mark.parametrize("written_as", ["float16", "torch.float16", "fp16"])
@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_type_that_a_model_is_loaded_in_has_one_name(tmp_path, key, written_as):
    load_kwargs = {key: written_as, "attn_implementation": "eager", "device_map": "auto", "extra_args": {"token": "x"}}
    result = today(tmp_path, input_model=MODEL | {"load_kwargs": load_kwargs})
    assert result["input_model"]["load_kwargs"] == {"dtype": "float16", "attn_implementation": "eager"}


def test_attention_of_another_package_is_that_of_torch(tmp_path):
    model = MODEL | {"load_kwargs": {"attn_implementation": "flash_attention_2"}}
    assert today(tmp_path, input_model=model)["input_model"]["load_kwargs"] == {"attn_implementation": "sdpa"}
    assert any("'sdpa' here" in note for note in notes(tmp_path, input_model=model))


def test_arguments_of_tokenizers_have_todays_names(tmp_path):
    given = {"type": "Huggingface_Pre_Process", "input_cols": ["a", "b"], "label_cols": ["y"], "max_length": 16}
    given |= {"padding": "max_length", "truncation": True, "kwargs": {"batch_size": 4}}
    data = DATA | {"pre_process_data_config": given, "dataloader_config": {"batch_size": 4}}
    (entry,) = today(tmp_path, data_configs=[data], passes={"b": {"type": "ModelBuilder"}})["data_configs"]
    assert entry["pre_process_data_config"] == {
        "type": "huggingface_pre_process",
        "text_cols": ["a", "b"],
        "label_col": "y",
        "max_seq_len": 16,
        "pad_to_max_len": True,
    }
    assert "dataloader_config" not in entry


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("workflow_host", "aml"),
        ("cache_config", {"cache_dir": "c", "account_name": "a"}),
        ("data_root", "azureml://datastores/x"),
        ("builds", {"a": {"pipeline": ["lora"]}}),
    ],
)
def test_wishes_to_the_old_engine_are_refused_with_what_to_use(tmp_path, key, value):
    (problem,) = load(written(tmp_path, config(**{key: value}))).problems
    assert problem.kind == "unsupported"
    assert f"'{key}'" in problem.message
    assert problem.fix


def test_several_flows_are_a_search(tmp_path):
    passes = {"a": {"type": "LoRA"}, "b": {"type": "ModelBuilder"}}
    result = today(tmp_path, passes=passes, pass_flows=[["a"], ["a", "b"]])
    assert result["search_strategy"] == {"sampler": "sequential"}
    assert result["pass_flows"] == [["a"], ["a", "merge", "b"]]
    (problem,) = load(written(tmp_path, config(passes=passes, pass_flows=[["a"], ["c"]]))).problems
    assert "'pass_flows' names the pass 'c', which 'passes' has not." in problem.message


def test_optimizer_without_passes_is_refused_once(tmp_path):
    content = {"input_model": MODEL, "auto_optimizer_config": {"opt_level": 0}}
    (problem,) = load(written(tmp_path, content)).problems
    assert "'auto_optimizer_config' is not served" in problem.message
    assert "olivine optimize" in problem.fix


def test_a_single_flow_is_the_order_of_the_passes(tmp_path):
    passes = {"a": {"type": "Merge"}, "b": {"type": "LoRA"}, "c": {"type": "ModelBuilder"}}
    assert list(today(tmp_path, passes=passes, pass_flows=[["b", "a"]])["passes"]) == ["b", "a"]
    assert any("without c" in note for note in notes(tmp_path, passes=passes, pass_flows=[["b", "a"]]))


def test_data_root_stands_before_relative_data_files(tmp_path):
    files = {"load_dataset_config": {"params": {"data_files": ["a.json", "/b.json"], "data_dir": "d"}}}
    result = today(tmp_path, data_root="root/", data_configs=[{"name": "train"} | files])
    load_config = result["data_configs"][0]["load_dataset_config"]
    assert load_config["data_files"] == ["root/a.json", "/b.json"]
    assert load_config["data_dir"] == "root/d"
    assert "data_root" not in result


def test_the_cache_folder_may_stand_in_cache_config(tmp_path):
    result = today(tmp_path, engine={"cache_config": {"cache_dir": "c", "clean_cache": False}})
    assert result["cache_dir"] == "c"


@pytest.mark.parametrize(
    "key", ["workflow_id", "log_to_file", "verbose", "ort_log_severity_level", "evaluate_input_model"]
)
def test_wishes_that_are_met_anyway_are_dropped_with_a_note(tmp_path, key):
    assert key not in today(tmp_path, **{key: 1})
    assert any(f"'{key}' is dropped" in note for note in notes(tmp_path, **{key: 1}))


def test_local_references_are_paths(tmp_path):
    model = {"type": "HfModel", "model_path": {"type": "local_folder", "config": {"path": "here"}}}
    files = {"type": "local_file", "config": {"path": "a.json"}}
    result = today(
        tmp_path, input_model=model, data_configs=[{"name": "t", "load_dataset_config": {"data_files": files}}]
    )
    assert result["input_model"]["model_path"] == "here"
    assert result["data_configs"][0]["load_dataset_config"]["data_files"] == "a.json"


def test_types_are_known_in_any_case(tmp_path):
    result = today(
        tmp_path,
        input_model={"type": "HFMODEL", "model_path": "a"},
        systems={"s": {"type": "LOCALSYSTEM"}},
        data_configs=[DATA | {"type": "huggingfacecontainer"}],
    )
    assert result["input_model"]["type"] == "HfModel"
    assert result["systems"]["s"]["type"] == "LocalSystem"
    assert result["data_configs"][0]["type"] == "HuggingfaceContainer"


def test_yaml_and_json_of_one_config_are_the_same_workflow(tmp_path):
    import yaml

    source = next(path for path in PUBLISHED if path.stem == "local-2024")
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(json.loads(source.read_text()), sort_keys=False))
    (tmp_path / "a.json").write_text(source.read_text())
    assert load(tmp_path / "a.yaml").workflow == load(tmp_path / "a.json").workflow


def test_the_input_of_a_migration_stays_as_it_is():
    document = read(next(path for path in PUBLISHED if path.stem == "local-2024"))
    before = json.dumps(document.root)
    migrate(document)
    assert json.dumps(document.root) == before


@pytest.mark.parametrize("junk", [None, 3, "x", [], [3], {}, {"a": 3}, {"a": [None]}, [{"type": []}], {"type": {}}])
@pytest.mark.parametrize(
    "key",
    [
        "input_model",
        "systems",
        "data_configs",
        "passes",
        "engine",
        "host",
        "search_strategy",
        "execution_providers",
        "pass_flows",
        "data_root",
        "cache_config",
        "evaluators",
        "evaluator",
        "quality",
        "azureml_client",
    ],
)
def test_junk_anywhere_is_explained_and_never_crashes(tmp_path, key, junk):
    for value in (config(**{key: junk}), {key: {"config": junk, "params_config": junk, "load_dataset_config": junk}}):
        loaded = load(written(tmp_path, value))
        assert all("\n" not in str(problem) for problem in loaded.problems)
        assert len(set(loaded.problems)) == len(loaded.problems)


def test_evaluator_in_place_and_settings_of_libraries_are_named_and_flat(tmp_path):
    metric = {
        "name": "acc",
        "type": "accuracy",
        "backend": "torch_metrics",
        "data_config": {"name": "mine", "params_config": {"data_name": "json", "data_files": "a.json"}},
        "user_config": {"batch_size": 4, "io_bind": True, "user_script": None},
        "sub_types": [
            {"name": "accuracy_score", "priority": 1, "metric_config": {"task": "multiclass", "num_classes": 3}},
            {"name": "f1_score", "priority": 2, "metric_config": {"task": "binary", "num_classes": None}},
            {"name": "recall", "metric_config": {"compute_params": {"average": "micro"}, "load_params": {"a": 1}}},
        ],
    }
    loaded = load(written(tmp_path, config(evaluator={"metrics": [metric]})))
    assert loaded.workflow.evaluator == "evaluator"
    (today,) = loaded.workflow.evaluators["evaluator"].metrics
    assert [one.metric_config for one in today.sub_types] == [{}, {"average": "binary"}, {"average": "micro"}]
    assert (today.data_config, today.user_config) == ("mine", {})
    assert loaded.workflow.data("mine").load_dataset_config.data_files == "a.json"


def test_evaluator_of_the_last_pass_is_that_of_the_workflow(tmp_path):
    evaluators = {"common": {"metrics": [{"name": "size", "type": "size_on_disk"}]}}
    passes = {"lora": {"type": "LoRA", "evaluator": None}, "merge": {"type": "merge", "evaluator": "common"}}
    loaded = load(written(tmp_path, config(evaluators=evaluators, passes=passes)))
    assert loaded.workflow.evaluator == "common"
    assert not [problem for problem in loaded.problems if "evaluator" in problem.message]
    passes["lora"]["evaluator"] = "common"
    loaded = load(written(tmp_path, config(evaluators=evaluators, passes=passes, evaluator="common")))
    assert not [problem for problem in loaded.problems if "evaluator" in problem.message]


def test_passes_of_other_packages_are_translated_with_a_warning_where_they_do_another_thing(tmp_path):
    steps = {
        "c": {"type": "OptimumConversion", "target_opset": 14, "extra_args": {"legacy": False}},
        "m": {"type": "OptimumMerging"},
        "o": {"type": "OrtTransformersOptimization", "use_gqa": True},
        "p": {"type": "OrtMixedPrecision", "atol": 1e-3},
    }
    made = today(tmp_path, passes=steps)["passes"]
    assert made["c"] == {"type": "OnnxConversion", "target_opset": 14}
    assert made["o"] == {"type": "OrtTransformersOptimization"}
    assert made["p"]["type"] == "OnnxFloatToFloat16"
    assert "Relu" in made["p"]["op_block_list"]
    assert "m" not in made
    told = " ".join(warnings(tmp_path, passes=steps))
    assert "ModelBuilder makes one with it" in told
    assert "use_gqa" in told


def test_a_pass_that_is_left_out_is_in_no_flow(tmp_path):
    steps = {"c": {"type": "OnnxConversion"}, "m": {"type": "OptimumMerging"}, "q": {"type": "OnnxDynamicQuantization"}}
    made = today(tmp_path, passes=steps, pass_flows=[["c", "m"], ["c", "m", "q"]])
    assert made["pass_flows"] == [["c"], ["c", "q"]]


def test_options_of_quantization_that_stand_beside_the_others_are_extra_options(tmp_path):
    step = {"type": "OnnxDynamicQuantization", "MatMulConstBOnly": True, "extra_options": {"WeightSymmetric": True}}
    made = today(tmp_path, passes={"q": step})["passes"]["q"]
    assert made["extra_options"] == {"WeightSymmetric": True, "MatMulConstBOnly": True}


def test_generation_config_of_the_model_is_search_of_the_builder_or_told_to_be_dropped(tmp_path):
    model = MODEL | {"generation_config": {"max_length": 20, "top_k": 5}}
    made = today(tmp_path, input_model=model, passes={"m": {"type": "ModelBuilder", "precision": "int4"}})
    assert made["passes"]["m"]["search"] == {"max_length": 20, "top_k": 5}
    without = {"input_model": model, "passes": {"c": {"type": "OnnxConversion"}}}
    assert "generation_config" not in today(tmp_path, **without)["input_model"]
    assert "generation_config.json is used" in " ".join(warnings(tmp_path, **without))


def test_words_of_2023_that_follow_from_the_path_are_dropped(tmp_path):
    model = {"type": "OptimumModel", "model_path": "some/model", "model_components": ["d.onnx"], "is_file": False}
    assert today(tmp_path, input_model=model)["input_model"] == {"type": "HfModel", "model_path": "some/model"}


ENCODER = {"type": "ONNXModel", "model_path": "encoder.onnx"}
DECODER = {"type": "ONNXModel", "model_path": "decoder.onnx"}
COMPOSITE = {"type": "CompositeModel", "model_components": [ENCODER, DECODER], "model_component_names": ["e", "d"]}


@pytest.mark.parametrize(
    "written_as",
    [
        {"type": "CompositeOnnxModel", "config": {key: COMPOSITE[key] for key in COMPOSITE if key != "type"}},
        COMPOSITE | {"model_components": [{"type": "onnxmodel", "config": {"model_path": "encoder.onnx"}}, DECODER]},
        {"type": "CompositeModelHandler", "model_components": {"e": ENCODER, "d": DECODER}},
        {"type": "CompositeModel", "model_components": [{"name": "e", **ENCODER}, {"name": "d", **DECODER}]},
        {"type": "CompositeModel", "model_path": [ENCODER, DECODER], "model_component_names": ["e", "d"]},
        {"model_components": [ENCODER, DECODER], "model_component_names": ["e", "d"]},
    ],
)
def test_models_of_several_parts_are_one_form_today(tmp_path, written_as):
    passes = {"f": {"type": "OnnxFloatToFloat16"}}
    assert today(tmp_path, input_model=written_as, passes=passes)["input_model"] == COMPOSITE


def test_parts_have_the_old_forms_of_models_themselves(tmp_path):
    hf_config = {"model_name": "some/model", "model_loading_args": {"torch_dtype": "float16"}}
    part = {"type": "pytorchmodel", "hf_config": hf_config}
    model = COMPOSITE | {"model_components": [part, part]}
    made = today(tmp_path, input_model=model, passes={"c": {"type": "OnnxConversion"}})["input_model"]
    plain = {"type": "HfModel", "model_path": "some/model", "load_kwargs": {"dtype": "float16"}}
    assert [dict(sorted(one.items())) for one in made["model_components"]] == [dict(sorted(plain.items()))] * 2


def test_components_of_hugging_face_are_parts_that_a_script_gives(tmp_path):
    component = {"name": "encoder", "io_config": "get_io", "component_func": "get_encoder"}
    hf_config = {"model_name": "openai/whisper-tiny", "model_class": "Whisper", "components": [component]}
    model = {"type": "PyTorchModel", "config": {"model_script": "a.py", "script_dir": "code", "hf_config": hf_config}}
    made = today(tmp_path, input_model=model, passes={"c": {"type": "OnnxConversion"}})["input_model"]
    assert made == {
        "type": "CompositeModel",
        "model_component_names": ["encoder"],
        "model_components": [
            {
                "type": "PyTorchModel",
                "model_path": "openai/whisper-tiny",
                "model_script": "a.py",
                "script_dir": "code",
                "io_config": "get_io",
                "component_func": "get_encoder",
            }
        ],
    }


def test_parts_half_of_which_have_a_name_are_told(tmp_path):
    model = {"type": "CompositeModel", "model_components": [{"name": "e", **ENCODER}, DECODER]}
    loaded = load(written(tmp_path, {"input_model": model, "passes": {"f": {"type": "OnnxFloatToFloat16"}}}))
    assert [problem.message for problem in loaded.problems] == ["1 of 2 parts have a name."]


def test_misspelt_key_of_a_part_is_told_where_it_stands(tmp_path):
    model = COMPOSITE | {"model_components": [ENCODER, DECODER | {"onnx_file_nam": "x.onnx"}]}
    loaded = load(written(tmp_path, {"input_model": model, "passes": {"f": {"type": "OnnxFloatToFloat16"}}}))
    (problem,) = loaded.problems
    assert "did you mean 'onnx_file_name'?" in problem.message
    line = next(n for n, text in enumerate((tmp_path / "config.json").read_text().splitlines(), 1) if '_nam"' in text)
    assert problem.where.endswith(f":{line}")


def test_a_check_of_a_graph_that_writes_no_text_is_left_out_and_its_limits_are_told(tmp_path):
    steps = {"c": {"type": "OnnxConversion"}, "d": {"type": "OnnxDiscrepancyCheck", "max_mae": 0.1}}
    assert list(today(tmp_path, passes=steps)["passes"]) == ["c"]
    assert "'max_mae' is no limit" in " ".join(warnings(tmp_path, passes=steps))
    builder = {"m": {"type": "ModelBuilder", "precision": "int4"}, "d": {"type": "OnnxDiscrepancyCheck"}}
    assert list(today(tmp_path, passes=builder)["passes"]) == ["m", "d"]


def of_metric(tmp_path, **metric):
    """A metric of a config of those years as it is today, with what is said of it."""
    sections = {"evaluators": {"ev": {"metrics": [{"name": "m"} | metric]}}, "evaluator": "ev", "data_configs": [DATA]}
    (told,) = today(tmp_path, **sections)["evaluators"]["ev"]["metrics"]
    return told, warnings(tmp_path, **sections)


def test_one_sub_type_of_2023_takes_the_goal_and_rank_beside_it(tmp_path):
    goal = {"type": "max-degradation", "value": 0.01}
    told, _ = of_metric(
        tmp_path, type="accuracy", sub_type="accuracy_score", goal=goal, priority_rank=1, data_config="train"
    )
    assert told["sub_types"] == [{"name": "accuracy_score", "goal": goal, "priority": 1}]
    assert told.keys() == {"name", "type", "data_config", "sub_types"}
    told, _ = of_metric(tmp_path, type="latency", sub_types=[{"name": "avg", "priority_rank": 2}])
    assert told["sub_types"] == [{"name": "avg", "priority": 2}]


@pytest.mark.parametrize(
    ("name", "given", "kept", "said"),
    [
        ("f1_score", {"multiclass": False}, {"average": "binary"}, ""),
        ("f1_score", {"multiclass": True, "average": "macro"}, {"average": "macro"}, ""),
        ("auc", {"reorder": True}, {}, ""),
        ("accuracy_score", {"task": "multiclass", "average": "micro", "num_classes": 3}, {}, ""),
        ("accuracy_score", {"average": "macro"}, {}, "ask for the sub type recall with average: macro"),
    ],
)
def test_params_of_libraries_that_mean_nothing_here_are_dropped(tmp_path, name, given, kept, said):
    sub_types = [{"name": name, "metric_config": given}]
    told, warned = of_metric(tmp_path, type="accuracy", sub_types=sub_types, data_config="train")
    assert told["sub_types"][0]["metric_config"] == kept
    assert bool(warned) == bool(said)
    assert said in "".join(warned)


def test_params_of_other_metrics_are_kept_whatever_they_are_called(tmp_path):
    params = {"threshold": 3, "task": "x"}
    told, _ = of_metric(tmp_path, type="perplexity", sub_types=[{"name": "perplexity", "metric_config": params}])
    assert told["sub_types"][0]["metric_config"] == params


def test_function_that_gets_the_model_is_the_one_that_is_called(tmp_path):
    both = {"user_script": "own.py", "evaluate_func": "ev", "metric_func": "fn", "metric_func_kwargs": {"a": 1}}
    for more in ({}, {"metric_func": "None"}):
        told, _ = of_metric(tmp_path, type="custom", user_config=both | more)
        assert told["user_config"] == {"user_script": "own.py", "evaluate_func": "ev"} | (
            {"metric_func_kwargs": {"a": 1}} if more else {}
        )


def test_models_beside_the_best_are_dropped_with_a_warning(tmp_path):
    assert "output_model_num" not in today(tmp_path, search_strategy={"output_model_num": 3})["search_strategy"]
    (said,) = warnings(tmp_path, search_strategy={"output_model_num": 3})
    assert "the best model is delivered" in said
    assert warnings(tmp_path, search_strategy={"output_model_num": 1}) == []
    assert notes(tmp_path, search_strategy={"output_model_num": None}) == []
