"""What every sampler keeps to, as tests that a sampler's own test class inherits."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from olivine.search import Categorical, Float, Goal, Int, Objective, Point, Sampler, Space, Trial
from olivine.testing._plugin import check_help, check_params, give_name, refusal

_N_SOME = 12


class SamplerContract:
    """Set `sampler` to the class; `params` to what it is made with beside the seed.

    budget: trials within which it has to find the best of 184 points, or one of those next to it.
    """

    sampler: ClassVar[type[Sampler]]
    params: ClassVar[Mapping[str, object]] = {}
    budget: ClassVar[int] = 60

    space: ClassVar[Space] = Space(
        {
            "method": Categorical(("rtn", "gptq", "awq")),
            "group_size": Int(16, 128, 16),
            "share": Float(0, 1, step=0.1, when={"method": ("gptq", "awq")}),
        }
    )
    objectives: ClassVar[Sequence[Objective]] = (Objective("error", higher_is_better=False),)

    def measure(self, point: Point) -> dict[str, float]:
        """What stands in for a model: the error is 0 at gptq, 64, 0.3, and grows with the distance from there."""
        error = 0.0 if point["method"] == "gptq" else 1.0
        return {"error": error + abs(point["group_size"] - 64) / 16 + 10 * abs(point.get("share", 0.0) - 0.3)}

    def make(self, seed: int = 1, trials: Sequence[Trial] = (), **params: object) -> Sampler:
        """A sampler over the contract's space."""
        give_name(self.sampler)
        given = self.sampler.Params.model_validate({**self.params, "seed": seed, **params})
        return self.sampler(self.space, self.objectives, given, trials)

    def run(self, sampler: Sampler, n_trials: int) -> list[Trial]:
        """Ask, measure, tell, as often as there are points."""
        trials = []
        for _ in range(n_trials):
            point = sampler.ask()
            if point is None:
                break
            trials.append(Trial(point, self.measure(point)))
            sampler.tell(trials[-1])
        return trials

    def test_docstring_and_params_can_be_shown_and_written(self) -> None:
        """The help of the plugin is the first line of its docstring."""
        check_help(self.sampler)
        check_params(self.sampler.Params)

    def test_every_point_lies_in_the_space(self) -> None:
        """A value for each dimension that is active, and for no other."""
        for trial in self.run(self.make(), _N_SOME):
            self.space.check(trial.point)

    def test_no_point_is_asked_for_twice_and_the_space_is_used_up(self) -> None:
        """Every point comes once, then none."""
        dimensions = {"method": self.space.dimensions["method"], "bits": Int(2, 4, when={"method": ("gptq",)})}
        sampler = self.sampler(Space(dimensions), self.objectives, self.sampler.Params.model_validate(self.params))
        keys = []
        while (point := sampler.ask()) is not None:
            keys.append(Trial(point, None).key)
            sampler.tell(Trial(point, {"error": float(len(keys))}))
        assert len(set(keys)) == len(keys) == 5

    def test_points_that_are_on_their_way_are_not_asked_for_again(self) -> None:
        """Several are measured at once."""
        sampler = self.make()
        points = [point for point in (sampler.ask() for _ in range(_N_SOME)) if point is not None]
        assert len({Trial(point, None).key for point in points}) == _N_SOME
        assert list(sampler.pending) == points
        sampler.tell(Trial(points[0], self.measure(points[0])))
        assert list(sampler.pending) == points[1:]

    def test_budget_is_kept(self) -> None:
        """What is on its way counts, and what somebody else chose."""
        sampler = self.make(max_samples=3)
        assert sampler.ask() is not None
        sampler.tell(Trial({"method": "rtn", "group_size": 128}, {"error": 5.0}))
        assert sampler.ask() is not None
        assert sampler.ask() is None

    def test_same_seed_asks_for_the_same_points(self) -> None:
        """A search can be told again."""
        assert self.run(self.make(3), _N_SOME) == self.run(self.make(3), _N_SOME)

    def test_search_goes_on_from_its_trials_as_if_it_had_never_stopped(self) -> None:
        """The trials are the whole state."""
        trials = self.run(self.make(), 2 * _N_SOME)
        resumed = self.make(trials=trials[:_N_SOME])
        assert self.run(resumed, _N_SOME) == trials[_N_SOME:]

    def test_failed_points_are_taken_and_not_tried_again(self) -> None:
        """A point that could not be run has no values; one may also lack a number."""
        sampler = self.make()
        failed = []
        for values in (None, {}, {"error": float("nan")}) * 4:
            point = sampler.ask()
            assert point is not None
            failed.append(Trial(point, values))
            sampler.tell(failed[-1])
        later = self.run(sampler, _N_SOME)
        assert not {trial.key for trial in later} & {trial.key for trial in failed}

    def test_wrong_points_are_refused_in_a_sentence(self) -> None:
        """A point outside the space, and one that was told before."""
        sampler = self.make()
        good = Trial({"method": "gptq", "group_size": 64, "share": 0.3}, {"error": 0.0})
        sampler.tell(good)
        for wrong in (good, Trial({"method": "rtn", "group_size": 17}, {"error": 0.0}), Trial({}, None)):
            assert refusal(partial(sampler.tell, wrong))

    def test_planted_optimum_is_found_within_the_budget(self) -> None:
        """The best point, or a neighbour of it, whatever the seed."""
        for seed in (1, 2):
            trials = self.run(self.make(seed), self.budget)
            assert min((trial.values or {})["error"] for trial in trials) <= 1.0 + 1e-9

    def test_several_objectives_with_goals_are_taken(self) -> None:
        """Every objective is told; the front is somebody else's to make."""
        objectives = (
            Objective("error", higher_is_better=False, goal=Goal("threshold", 3.0)),
            Objective("speed", higher_is_better=True, goal=Goal("min-improvement", 1.0), baseline=2.0),
        )
        given = self.sampler.Params.model_validate({**self.params, "seed": 1})
        sampler = self.sampler(self.space, objectives, given)
        for _ in range(2 * _N_SOME):
            point = sampler.ask()
            assert point is not None
            sampler.tell(Trial(point, {**self.measure(point), "speed": float(point["group_size"]) / 16}))
        assert len(sampler.trials) == 2 * _N_SOME

    def test_space_without_end_is_searched_or_refused(self) -> None:
        """A sampler that lists points says so in a sentence."""
        space = Space({"rate": Float(1e-5, 1e-1, log=True), "method": Categorical(("rtn", "gptq"))})
        if self.sampler.lists:
            assert "rate" in refusal(lambda: self.sampler(space, self.objectives))
            return
        sampler = self.sampler(space, self.objectives)
        for _ in range(_N_SOME):
            point = sampler.ask()
            assert point is not None
            space.check(point)
            sampler.tell(Trial(point, {"error": point["rate"]}))
