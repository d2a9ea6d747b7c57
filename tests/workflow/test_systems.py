"""What systems ask for is done, or refused by name: no key of the config is read by nobody."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

import olivine
from olivine.config import schema
from olivine.config.schema import Accelerator, System, Workflow
from olivine.systems import Probe
from olivine.workflow import accelerators
from olivine.workflow.machine import choose

CUDA = "CUDAExecutionProvider"
PLAIN = Probe(4 * 2**30, 2, system="posix", versions={"torch": "2.13.0", "onnxruntime-gpu": "1.32.0"})
WITH_GPU = replace(PLAIN, has_nvidia=True, n_gpus=1)
MODEL = {"type": "HfModel", "model_path": "model"}


def workflow(passes=None, **fields):
    systems = {
        name: System(accelerators=[Accelerator(**one) for one in accelerators])
        for name, accelerators in fields.pop("systems", {}).items()
    }
    return Workflow(input_model=MODEL, passes=passes or {}, systems=systems, **fields)


def only(asked):
    (problem,) = accelerators.check(asked)
    return problem


CPU_AND_GPU = {"here": [{"device": "cpu"}], "box": [{"device": "gpu", "execution_providers": [CUDA]}]}


def test_pass_on_the_workflow_s_host_says_what_happens_anyway():
    asked = {"lora": {"type": "LoRA", "host": "here"}}
    assert list(accelerators.check(workflow(asked, systems=CPU_AND_GPU, host="here"))) == []
    assert list(accelerators.check(workflow(asked, systems={"here": [{"device": "cpu"}]}))) == []


@pytest.mark.parametrize("role", ["host", "target"])
def test_second_accelerator_of_a_system_in_use_is_refused(role):
    both = {"two": [{"device": "cpu"}, {"device": "gpu"}], "other": [{"device": "cpu"}]}
    assert only(workflow(systems=both, **{role: "two"})).key == ("systems", "two", "accelerators", 1)
    assert list(accelerators.check(workflow(systems=both, host="other", target="other"))) == []


@pytest.mark.parametrize(
    ("written", "n_bytes"),
    [(1000, 1000), ("1000", 1000), ("16GB", 16 * 10**9), ("1.5 GiB", 3 * 2**29), ("8g", 8 * 10**9), ("1e9", 10**9)],
)
def test_memory_of_an_accelerator_is_a_limit(written, n_bytes, tmp_path):
    assert accelerators.memory_bytes(written) == n_bytes
    asked = workflow(systems={"here": [{"device": "cpu", "memory": written}]})
    assert list(accelerators.check(asked)) == []
    machine = choose(asked, tmp_path, "config.json:1", PLAIN, offline=True).machine
    assert machine.memory_bytes == min(n_bytes, PLAIN.memory_bytes)


@pytest.mark.parametrize("written", ["much", "-1GB", 0, "12 apples", "", "1e999"])
def test_memory_that_is_no_size_is_a_problem(written):
    asked = workflow(systems={"here": [{"device": "cpu", "memory": written}]})
    assert only(asked).key == ("systems", "here", "accelerators", 0, "memory")


def test_memory_of_a_gpu_limits_the_gpu(tmp_path):
    for there, limit in ((80 * 10**9, 10**9), (0, 10**9), (10**8, 10**8)):
        probe = replace(WITH_GPU, gpu_memory_bytes=there)
        asked = workflow(systems={"here": [{"device": "gpu", "memory": "1GB"}]})
        machine = choose(asked, tmp_path, "config.json:1", probe, offline=True).machine
        assert machine.device_memory_bytes == limit
        assert machine.memory_bytes == probe.memory_bytes


def test_provider_without_a_device_means_its_device(tmp_path):
    choice = choose(workflow(systems={"here": [{"execution_providers": [CUDA]}]}), tmp_path, "c:1", PLAIN, offline=True)
    assert [problem.kind for problem in choice.problems] == ["hardware"]
    choice = choose(
        workflow(systems={"here": [{"execution_providers": [CUDA]}]}), tmp_path, "c:1", WITH_GPU, offline=True
    )
    assert choice.machine.device == "cuda"


def test_cpu_named_last_does_not_stand_in_for_a_gpu_in_silence(tmp_path):
    listed = [{"device": "gpu", "execution_providers": [CUDA, "CPUExecutionProvider"]}]
    choice = choose(workflow(systems={"here": listed}), tmp_path, "c:1", PLAIN, offline=True)
    assert [problem.kind for problem in choice.problems] == ["hardware"]


def test_device_that_contradicts_its_provider_is_a_problem():
    asked = workflow(systems={"here": [{"device": "cpu", "execution_providers": [CUDA]}]})
    assert only(asked).key[-1] == "device"


def test_npu_is_refused_where_nothing_else_refuses_it():
    assert only(workflow(systems={"here": [{"device": "npu"}]})).kind == "unsupported"


SOURCE = Path(olivine.__file__).parent
# refused as a whole where one of their keys is set, or settings of what is refused as a whole
REFUSED = {
    *schema.RESOURCE_SETTINGS.values(),
    *(schema.SearchStrategy, schema.Goal, schema.SubType, schema.Metric, schema.Evaluator),
    schema.IoConfig,  # taken as a whole into the record of the model
    *(schema.AzureMLClient, schema.Resource),
}
# for people, or a table of names that is looked into as a whole
READ_OTHERWISE = {
    *(
        ("Workflow", "environment"),
        ("Workflow", "search_strategy"),
        ("PassConfig", "disable_search"),
        ("PassConfig", "searched"),
        ("LocalSettings", "hf_token"),
        ("AzureMLSettings", "is_dev"),
        ("System", "config"),
        ("LoadKwargs", "attn_implementation"),
        ("Workflow", "pass_flows"),  # of the document, by a search
    ),
}


def test_every_key_of_the_schema_is_read_refused_or_said_to_have_no_effect():
    code = "\n".join(path.read_text("utf-8") for path in SOURCE.rglob("*.py") if path.name != "schema.py")
    sections = [one for one in vars(schema).values() if isinstance(one, type) and issubclass(one, BaseModel)]
    unread = []
    for section in sections:
        if section in REFUSED or section.__module__ != schema.__name__:
            continue
        for name, field in section.model_fields.items():
            marked = isinstance(field.json_schema_extra, dict)
            if not marked and not re.search(rf"\.{name}\b", code) and (section.__name__, name) not in READ_OTHERWISE:
                unread.append((section.__name__, name))
    assert unread == []
