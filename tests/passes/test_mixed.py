"""`mixed` chooses bits and group of each matrix under a goal, by what rounding does to the model."""

import itertools

import onnx_ir
import pytest
import torch

from olivine.calibration.forms import n_bytes
from olivine.calibration.sensitivity import Sensitivity
from olivine.errors import Unsupported
from olivine.exporting.lazy_weights import Piece, Rows
from olivine.exporting.mixed import Goal, mixed
from olivine.exporting.quantize_graph import Choice, Matrix
from olivine.kernels.blockwise import Format, quantize
from olivine.models import Model
from olivine.models.tensors import LazyTensor
from olivine.passes import Context, Machine, passes
from olivine.work import Silent
from plain_genai import greedy
from reports import Told
from tiny import tiny_model

Build = passes.classes["build"]
MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)


def matrix(name, weight):
    source = LazyTensor(name, tuple(weight.shape), "float32", lambda: weight, lambda start, stop: weight[start:stop])
    return Matrix(f"/{name}", name, Rows((Piece(source, 0, len(weight), torch.float32),)))


@pytest.fixture(scope="module")
def few():
    """Three small matrices whose outputs matter very differently."""
    chance = torch.Generator().manual_seed(0)
    weights = {f"m{i}.weight": torch.randn((48, 128), generator=chance) * (1 + i) for i in range(3)}
    outputs = {name: torch.full((48,), 10.0 ** -(2 * i)) for i, name in enumerate(weights)}
    matrices = {name: matrix(name, weight) for name, weight in weights.items()}
    inputs = {name: torch.rand(128, generator=chance) for name in weights}
    chosen = {
        name: Choice(Format(4, 32, symmetric=False), importance=inputs[name], search=True, half_scales=True)
        for name in weights
    }
    return weights, matrices, chosen, Sensitivity(outputs, inputs, torch.zeros(128))


def damage(weight, choice, outputs):
    """Nats a token, slowly: every row."""
    method = "search" if choice.search else "rtn"
    rounded = quantize(weight, choice.fmt, method, choice.importance, half_scales=choice.half_scales).dequantized()
    return 0.5 * sum(
        float(outputs[n]) * float(((rounded[n] - weight[n]) ** 2) @ choice.importance) for n in range(len(weight))
    )


def forms(choice):
    from dataclasses import replace

    four = [replace(choice, fmt=Format(4, group, symmetric=False)) for group in (16, 32, 64, 128)]
    return [*four, *(replace(choice, fmt=Format(8, group, symmetric=False), search=False) for group in (32, 128))]


@pytest.mark.parametrize("bits", [4.3, 4.625, 5.5, 7.0])
def test_choice_under_a_size_is_that_of_brute_force(few, bits):
    weights, matrices, chosen, known = few
    n_weights = sum(weight.numel() for weight in weights.values())
    taken = mixed(Goal(known, bits), matrices, chosen)
    size = sum(n_bytes(matrices[name].shape, choice.fmt) for name, choice in taken.items())
    assert size * 8 <= bits * n_weights
    total = sum(damage(weights[name], choice, known.outputs[name]) for name, choice in taken.items())
    every = [
        sum(damage(weights[name], one, known.outputs[name]) for name, one in zip(weights, combination, strict=True))
        for combination in itertools.product(*(forms(choice) for choice in chosen.values()))
        if sum(n_bytes(matrices[n].shape, one.fmt) for n, one in zip(weights, combination, strict=True)) * 8
        <= bits * n_weights
    ]
    assert total == pytest.approx(min(every), rel=1e-4)


def test_choice_under_a_divergence_keeps_it_in_fewer_bytes_for_more_of_it(few):
    weights, matrices, chosen, known = few
    sizes, told = [], []
    for divergence in (0.2, 2.0, 8.0):
        taken = mixed(Goal(known, 0, divergence, told.append), matrices, chosen)
        total = sum(damage(weights[name], choice, known.outputs[name]) for name, choice in taken.items())
        assert total <= divergence
        assert told[-1]["predicted_divergence"] == pytest.approx(total, rel=1e-4)
        sizes.append(sum(n_bytes(matrices[name].shape, choice.fmt) for name, choice in taken.items()))
    assert sizes[0] > sizes[1] > sizes[2]


def test_goals_that_no_form_meets_are_told_with_what_can_be_met(few):
    _, matrices, chosen, known = few
    with pytest.raises(Unsupported, match=r"mixed_bits 4.1 cannot be met: the smallest forms have 4.19 bits a weight"):
        mixed(Goal(known, 4.1), matrices, chosen)
    with pytest.raises(Unsupported, match="mixed_divergence 1e-09 cannot be met: the best forms are predicted to add"):
        mixed(Goal(known, 0, 1e-9), matrices, chosen)


def test_a_matrix_that_is_no_layer_of_the_decoder_stays_as_it_is(few):
    weights, matrices, chosen, known = few
    left = Sensitivity({name: known.outputs[name] for name in ("m0.weight", "m1.weight")}, {}, known.embedding)
    assert set(mixed(Goal(left, 4.625), matrices, chosen)) == set(weights) - {"m2.weight"}


def test_rows_of_a_large_matrix_are_sampled_in_stretches_that_stand_for_all():
    chance = torch.Generator().manual_seed(0)
    weight, outputs = torch.randn((5000, 64), generator=chance), torch.rand(5000, generator=chance)
    choice = Choice(Format(4, 32, symmetric=False), importance=torch.ones(64), search=True)
    told = []
    known = Sensitivity({"large.weight": outputs}, {}, torch.zeros(64))
    taken = mixed(Goal(known, 4.7, None, told.append), {"large": matrix("large.weight", weight)}, {"large": choice})
    assert told[0]["predicted_divergence"] == pytest.approx(damage(weight, taken["large"], outputs), rel=0.1)


def build(model, folder, report=None, **params):
    for name in ("built", "scratch"):
        (folder / name).mkdir(parents=True)
    step = Build(Build.Params(calibration_tokens=512, int4_algo_config="mixed", **params))
    result = step.run(model, Context(folder / "built", folder / "scratch", MACHINE, report or Silent()))
    step.ensures(result)
    return result.path


@pytest.mark.parametrize("tied", [True, False])
def test_exported_model_has_the_bits_that_were_asked_for_and_runs(tied, tmp_path):
    model = Model("hf", tiny_model(tmp_path / "m", "llama", tied=tied, hidden_size=128, intermediate_size=256))
    report = Told()
    folder = build(model, tmp_path, report, mixed_bits=5.0)
    facts = report.facts["mixed"]
    assert 4.5 < facts["bits_per_weight"] <= 5.0
    assert sum(facts["shares"].values()) == pytest.approx(1, abs=1e-3)
    graph = onnx_ir.load(folder / "model.onnx").graph
    used = {(n.attributes["bits"].as_int(), n.attributes["block_size"].as_int()) for n in graph if "NBits" in n.op_type}
    assert used <= {tuple(map(int, form.replace(" bits", "").split(","))) for form in facts["shares"]}
    assert len(used) > 1
    assert len(greedy(folder, [1, 40, 50], 8)) > 3


def test_without_a_goal_the_size_is_that_of_search(tmp_path):
    model = Model("hf", tiny_model(tmp_path / "m", "llama", hidden_size=128, intermediate_size=256))
    report = Told()
    build(model, tmp_path / "mixed", report)
    assert report.facts["mixed"]["bits_per_weight"] <= 4.625


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"mixed_bits": 5}, "mixed_bits is a goal of int4_algo_config mixed and best"),
        (
            {"int4_algo_config": "best", "mixed_divergence": 0.1},
            "mixed_divergence is a goal of int4_algo_config mixed.",
        ),
        ({"mixed_bits": 5, "mixed_divergence": 0.1}, "mixed_divergence is a goal"),
        (
            {"int4_algo_config": "mixed", "mixed_bits": 4.05},
            "4.05 bits a weight are asked for, and 4 bits in the widest",
        ),
        (
            {"int4_algo_config": "best", "mixed_bits": 4.05},
            "4.05 bits a weight are asked for, and 4 bits in the widest",
        ),
        ({"int4_algo_config": "mixed", "mixed_bits": 5, "mixed_divergence": 0.1}, "are two goals"),
        ({"int4_algo_config": "mixed", "use_qdq": True}, "mixed needs a graph that olivine quantizes"),
        ({"int4_algo_config": "best", "use_qdq": True}, "best needs a graph that olivine quantizes"),
    ],
)
def test_goals_without_a_choice_are_told_by_the_plan(params, told, tiny_llama):
    from olivine.models.inspect import read_facts

    problems = list(Build(Build.Params(**params)).check(read_facts(tiny_llama), MACHINE, {}))
    assert [told in problem.message for problem in problems] == [True]
