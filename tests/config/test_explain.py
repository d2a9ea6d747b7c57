"""Mistakes: each once, with file and line, the value and the nearest known name."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from olivine.config import explain_params, load, read, where
from olivine.config.check import check
from olivine.config.dialects import translate
from olivine.config.nodes import Place, typed
from olivine.config.shape import shape

PUBLISHED = sorted((Path(__file__).parent / "published").glob("*.json"))
GOOD: dict[str, Any] = {
    "input_model": {"type": "HfModel", "model_path": "some/model"},
    "data_configs": [{"name": "train", "load_dataset_config": {"data_files": "a.json"}}],
    "passes": {"lora": {"type": "LoRA", "train_data_config": "train"}},
}


def problems(tmp_path: Path, value: dict[str, Any] | str) -> list[str]:
    path = tmp_path / "config.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1))
    return [f"{problem.kind} {problem}".replace(str(tmp_path) + "/", "") for problem in load(path).problems]


def with_data(**sections: Any) -> dict[str, Any]:
    return GOOD | {"data_configs": [{"name": "train"} | sections]}


def test_a_typo_a_wrong_type_and_an_obsolete_key_are_three_messages(tmp_path):
    text = """{
  "input_model": {"type": "HfModel", "model_path": "some/model"},
  "data_configs": [{
    "name": "train",
    "load_dataset_config": {"data_file": "a.json"},
    "pre_process_data_config": {
      "text_template": "{a}", "max_seq_len": "long"}
  }],
  "passes": {"lora": {"type": "LoRA", "train_data_config": "train"}},
  "workflow_host": "aml"
}"""
    assert problems(tmp_path, text) == [
        (
            "unknown-key config.json:5: unknown key 'data_file' in 'data_configs[0].load_dataset_config'; "
            "did you mean 'data_files'?"
        ),
        (
            "invalid-value config.json:7: 'data_configs[0].pre_process_data_config.max_seq_len' must be a whole number, "
            'but is "long".'
        ),
        ("unsupported config.json:10: 'workflow_host' is not served: \"aml\". Run olivine on that host itself."),
    ]


def test_a_misspelt_required_key_is_one_message(tmp_path):
    (message,) = problems(tmp_path, GOOD | {"input_model": {"model_pth": "some/model"}})
    assert "unknown key 'model_pth' in 'input_model'; did you mean 'model_path'?" in message
    bad = {key: value for key, value in GOOD.items() if key != "passes"} | {"pases": GOOD["passes"]}
    (message,) = problems(tmp_path, bad)
    assert "did you mean 'passes'?" in message


def test_a_missing_key_names_its_section_and_line(tmp_path):
    assert problems(tmp_path, GOOD | {"input_model": {"type": "HfModel"}}) == [
        "invalid-value config.json:2: the key 'model_path' is missing in 'input_model'."
    ]
    assert len(problems(tmp_path, {})) == 2


def test_keys_that_nobody_knows_list_those_that_there_are(tmp_path):
    (message,) = problems(tmp_path, GOOD | {"quality": {"zzz": 1}})
    assert "known keys are data_config, enabled, max_drop, max_samples, metrics, target" in message


def test_a_misspelt_old_name_is_known_too(tmp_path):
    (message,) = problems(tmp_path, with_data(pre_process_data_config={"source_max_leng": 5}))
    assert "did you mean 'source_max_len'?" in message
    (message,) = problems(tmp_path, GOOD | {"input_model": GOOD["input_model"] | {"from_pretrained_arg": {}}})
    assert "did you mean 'from_pretrained_args'?" in message


def test_a_value_out_of_a_list_is_named_with_the_nearest(tmp_path):
    (message,) = problems(tmp_path, with_data(pre_process_data_config={"train_on": "complete"}))
    assert "must be all, completion" in message
    assert "but is \"complete\". Did you mean 'completion'?" in message


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"max_seq_len": 1}, "must be greater than 1, but is 1"),
        ({"max_seq_len": 1.5}, "must be a whole number, but is 1.5"),
        ({"pad_to_max_len": "perhaps"}, 'must be true or false, but is "perhaps"'),
        ({"text_template": 3}, "must be a text, but is 3"),
        ({"text_cols": 3}, "must be a text or a list, but is 3"),
        ({"text_cols": ["a", 3]}, "text_cols[1]' must be a text, but is 3"),
    ],
)
def test_a_wrong_value_says_what_is_expected_and_what_is_there(tmp_path, section, expected):
    (message,) = problems(tmp_path, with_data(pre_process_data_config=section))
    assert expected in message


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (5, "'input_model.model_path' must be a text or a mapping, but is 5."),
        ({"type": "azureml_model", "confg": {"name": "a", "version": 1}}, "unknown key 'confg'"),
        ({"type": "azureml_modle", "config": {}}, "unknown type 'azureml_modle'; did you mean 'azureml_model'?"),
        ({"type": "azureml_model", "config": {"name": "a"}}, "the key 'version' is missing"),
        ({"type": "azureml_model", "config": {"nam": "a", "version": 1}}, "did you mean 'name'?"),
    ],
)
def test_of_a_choice_of_types_the_one_that_was_meant_is_explained(tmp_path, path, expected):
    found = [
        message
        for message in problems(tmp_path, GOOD | {"input_model": {"model_path": path}})
        if not message.startswith("unsupported")
    ]
    assert len(found) == 1
    assert expected in found[0]


def test_data_files_by_split_are_explained(tmp_path):
    (message,) = problems(tmp_path, with_data(load_dataset_config={"data_files": {"train": 5}}))
    assert "data_files.train' must be a text or a list, but is 5" in message


def test_settings_of_a_system_are_checked_by_its_type(tmp_path):
    aml = {"type": "AzureML", "aml_compute": "c", "aml_docker_config": {"base_imag": "i"}}
    (message,) = problems(tmp_path, GOOD | {"systems": {"aml": aml}})
    assert "unknown key 'base_imag' in 'systems.aml.aml_docker_config'; did you mean 'base_image'?" in message
    (message,) = problems(tmp_path, GOOD | {"systems": {"aml": {"type": "AzureML", "aml_comput": "c"}}})
    assert "did you mean 'aml_compute'?" in message
    (message,) = problems(tmp_path, GOOD | {"systems": {"here": {"type": "LocalSystem", "acelerators": []}}})
    assert "did you mean 'accelerators'?" in message
    (message,) = problems(tmp_path, GOOD | {"systems": {"here": {"type": "LocalSystm"}}})
    assert "unknown type 'LocalSystm'; did you mean 'LocalSystem'?" in message


def test_execution_providers_are_known_by_name(tmp_path):
    accelerators = [{"device": "gpu", "execution_providers": ["CUDAExecutionProvidr"]}]
    (message,) = problems(tmp_path, GOOD | {"systems": {"here": {"type": "LocalSystem", "accelerators": accelerators}}})
    assert "did you mean 'CUDAExecutionProvider'?" in message


def test_evaluators_are_checked(tmp_path):
    metric = {"name": "m", "type": "latency", "sub_types": [{"name": "avg", "gaol": {"type": "threshold", "value": 1}}]}
    used = GOOD | {"evaluators": {"e": {"metrics": [metric]}}, "evaluator": "e"}
    messages = problems(tmp_path, used)
    assert any("did you mean 'goal'?" in message for message in messages)
    assert problems(tmp_path, used | {"evaluator": None}) == []  # nothing asks for it


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"sampler": "tpee"}, "unknown sampler 'tpee'; did you mean 'tpe'?"),
        ({"max_time": 0}, "'search_strategy.max_time' must be greater than 0"),
        ({"max_iter": 0}, "'search_strategy.max_iter' must be greater than 0"),
        ({"stop_when_goal_met": True}, "did you mean 'stop_when_goals_met'?"),
        ({"execution_order": "sideways"}, "sideways"),
    ],
)
def test_mistakes_of_a_search_are_told(tmp_path, search, said):
    (message,) = problems(tmp_path, GOOD | {"search_strategy": search})
    assert said in message


def test_an_evaluator_that_is_not_defined_is_a_problem(tmp_path):
    (message,) = problems(tmp_path, GOOD | {"evaluator": "common"})
    assert message.endswith("no evaluator is named 'common'; there is none.")


def test_a_misspelt_section_is_one_message_whatever_stands_in_it(tmp_path):
    bad = {key: value for key, value in GOOD.items() if key != "passes"}
    (message,) = problems(tmp_path, bad | {"pases": {"lora": {"type": "LoRA", "config": {"lora_r": 8}}}})
    assert "unknown key 'pases'; did you mean 'passes'?" in message


def test_two_data_configs_of_one_name_are_a_problem(tmp_path):
    (message,) = problems(tmp_path, GOOD | {"data_configs": GOOD["data_configs"] * 2})
    assert "two data configs with the name 'train'" in message


def test_null_is_not_given(tmp_path):
    section = {"max_samples": None, "random_seed": None, "pad_to_max_len": None, "stride": None}
    assert problems(tmp_path, with_data(pre_process_data_config=section)) == []
    (message,) = problems(tmp_path, GOOD | {"input_model": {"model_path": None}})
    assert "'model_path' is missing" in message


def test_the_rest_of_a_wrong_config_can_still_be_planned(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GOOD | {"cache_dri": "there", "log_severity_level": 9}))
    loaded = load(path)
    assert len(loaded.problems) == 2
    assert loaded.workflow.cache_dir == "there"
    assert loaded.workflow.log_severity_level == 1
    path.write_text(json.dumps(with_data(load_dataset_config={"data_files": 5})))
    assert load(path).workflow is None


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid")

    r: int = Field(64, gt=0)
    alpha: float = 64
    method: Literal["plain", "rank-stabilised"] = "plain"
    target_modules: str | list[str] | None = None
    training_args: dict[str, Any] = Field(default_factory=dict)

    @field_validator("training_args")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        wrong = [f"unknown training argument '{key}'" for key in value if not key.startswith("known")]
        if wrong:
            raise ValueError("\n".join(wrong))
        return value


def test_params_of_a_pass_are_explained_like_the_rest(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("""{
 "passes": {
  "lora": {
   "type": "LoRA",
   "config": {
    "lora_r": 0,
    "alhpa": 1,
    "method": "plane",
    "target_modules": 5,
    "training_args": {
     "known": 1,
     "learning_rat": 2,
     "sed": 3
    }
   }
  }
 }
}""")
    document = load(path).document
    section = document.root["passes"]["lora"]
    params = {key: value for key, value in section.items() if key != "type"}
    with pytest.raises(ValidationError) as error:
        Params.model_validate(params)
    found = explain_params(document, ("passes", "lora"), error.value, Params.model_fields)
    assert [str(problem).replace(f"{path}:", "") for problem in found] == [
        "6: 'passes.lora.r' must be greater than 0, but is 0.",
        "7: unknown key 'alhpa' in 'passes.lora'; did you mean 'alpha'?",
        "8: 'passes.lora.method' must be plain or rank-stabilised, but is \"plane\". Did you mean 'plain'?",
        "9: 'passes.lora.target_modules' must be a text or a list, but is 5.",
        "12: unknown training argument 'learning_rat'.",
        "13: unknown training argument 'sed'.",
    ]
    assert [problem.kind for problem in found].count("unknown-key") == 3
    assert where(document, ("passes", "lora", "params", "r")) == f"{path}:6"


JUNK = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just([]) | st.just({}) | st.just([{}, 1])


@given(st.sampled_from(PUBLISHED), st.randoms(use_true_random=False), JUNK)
@settings(max_examples=300, deadline=None)
def test_junk_in_place_of_any_value_is_explained(path, random, junk):
    value = json.loads(path.read_text())
    node, last = value, None
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        last = random.choice(keys)
        if not (isinstance(node[last], dict | list) and node[last]) or random.random() < 0.2:
            break
        node = node[last]
    node[last] = junk
    root, _ = translate(typed(value, Place("x", 1, 1)))
    _, faults = check(shape(root))
    messages = [(fault.path, fault.message) for fault in faults]
    assert len(set(messages)) == len(messages)
    assert len(messages) <= 4


def test_where_gives_the_deepest_part_that_is_there(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"passes":\n {"a":\n  {"type": "x"}}}')
    document = read(path)
    assert where(document, ("passes", "a", "nothing", "at", "all")) == f"{path}:2"
    assert where(document, ("nothing",)) == f"{path}:1"
