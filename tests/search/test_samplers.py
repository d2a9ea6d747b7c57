"""Every sampler of ours keeps the contract that third parties' inherit."""

from typing import ClassVar

import pytest

from olivine.search import Categorical, Float, Objective, Space, Trial
from olivine.search.samplers import samplers
from olivine.testing.sampler import SamplerContract


class TestSequential(SamplerContract):
    sampler = samplers.classes["sequential"]
    budget = 184


class TestLadder(SamplerContract):
    sampler = samplers.classes["ladder"]
    budget = 184


class TestRandom(SamplerContract):
    sampler = samplers.classes["random"]


class TestTpe(SamplerContract):
    sampler = samplers.classes["tpe"]

    @pytest.fixture(autouse=True)
    def _needs_optuna(self):
        pytest.importorskip("optuna")


class TestNsga2(SamplerContract):
    sampler = samplers.classes["nsga2"]
    params: ClassVar = {"population_size": 8}

    @pytest.fixture(autouse=True)
    def _needs_optuna(self):
        pytest.importorskip("optuna")


def test_names_of_old_configs_are_known():
    known = {name: samplers.find(name) for name in ("exhaustive", "Sequential", "TPESampler", "nsga-ii")}
    assert [sampler.name for sampler in known.values()] == ["sequential", "sequential", "tpe", "nsga2"]


def test_sequential_visits_points_in_the_order_they_are_written():
    space = Space({"a": Categorical(("x", "y")), "b": Categorical((1, 2), when={"a": ("y",)})})
    sampler = samplers.classes["sequential"](space, ())
    assert [sampler.ask() for _ in range(4)] == [{"a": "x"}, {"a": "y", "b": 1}, {"a": "y", "b": 2}, None]


@pytest.mark.parametrize(("name", "settings"), [("tpe", {}), ("nsga2", {"population_size": 10})])
def test_learning_samplers_come_closer_than_chance(name, settings):
    pytest.importorskip("optuna")
    space = Space({name: Float(0, 1) for name in ("x", "y", "z")})
    objectives = [Objective("error", higher_is_better=False)]

    def best(sampler_name, **settings):
        found = []
        for seed in (1, 2):
            params = samplers.classes[sampler_name].Params(seed=seed, **settings)
            sampler = samplers.classes[sampler_name](space, objectives, params)
            for _ in range(80):
                point = sampler.ask()
                sampler.tell(Trial(point, {"error": sum((value - 0.62) ** 2 for value in point.values())}))
            found.append(min(trial.values["error"] for trial in sampler.trials))
        return sum(found)

    assert best(name, **settings) < best("random")
