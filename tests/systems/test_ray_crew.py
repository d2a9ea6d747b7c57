"""Workers of a cluster that is played by a stand-in for the connection to it: nodes go away when they are told to."""

import pytest

from olivine import __version__
from olivine.errors import RequestError
from olivine.systems._ray_crew import Crew
from olivine.systems._ray_line import Lost, of_team

NODES = [{"id": "a", "resources": {"CPU": 1}}, {"id": "b", "resources": {"CPU": 1}}]


class StandIn:
    """Answers for a cluster on which so many workers are lost before they begin; the others have that olivine."""

    def __init__(self, n_lost=0, olivine=__version__):
        self.n_lost, self.olivine, self.asked = n_lost, olivine, []

    def ask(self, what, **given):
        self.asked.append((what, given.get("name") or given.get("holder")))
        return getattr(self, what, lambda **_: None)(**given)

    def nodes(self):
        return NODES

    def held(self, hashes):
        return {}

    def where(self, name, seconds):
        if self.n_lost:
            self.n_lost -= 1
            raise Lost("was ended, and its actor with it", with_node=True)
        return {"id": "b", "name": "two", "olivine": self.olivine}

    def gathered(self, names, **_):
        places = []
        for index, name in enumerate(names):
            with of_team(index, len(names)):
                places.append(self.where(name, 1.0))
        return places

    def told(self, what):
        return [name for asked, name in self.asked if asked == what]


def crew(cluster):
    return Crew(cluster, lambda nodes: {"num_cpus": 1}, waits=False)


def test_worker_whose_node_goes_before_it_has_begun_is_asked_for_again():
    cluster = StandIn(n_lost=1)
    member = crew(cluster).take([], str, bool)
    first, second = cluster.told("start")
    assert (member.name, member.node_name) == (second, "two")
    assert cluster.told("kill") == [first]


def test_worker_that_ends_every_node_is_asked_for_three_times():
    cluster = StandIn(n_lost=9)
    with pytest.raises(Lost, match="was ended"):
        crew(cluster).take([], str, bool)
    assert cluster.told("kill") == cluster.told("start")
    assert len(cluster.told("start")) == 3


def test_node_of_several_that_goes_before_it_has_begun_is_named_and_the_place_given_back():
    cluster = StandIn(n_lost=1)
    with pytest.raises(Lost, match="node 1 of 2 is gone") as lost:
        crew(cluster).gather(2, str, bool)
    assert lost.value.with_node
    assert cluster.told("kill") == cluster.told("gather")


@pytest.mark.parametrize(("there", "said"), [("0.0.1", "has olivine 0.0.1"), (None, "has olivine of another release")])
def test_node_with_another_olivine_is_given_no_job(there, said):
    cluster = StandIn(olivine=there)
    with pytest.raises(RequestError, match=f"the node 'two' {said}, but this is {__version__}: install it on all"):
        crew(cluster).take([], str, bool)
    with pytest.raises(RequestError, match=f"the node 'two' {said}"):
        crew(cluster).gather(2, str, bool)
    assert len(cluster.told("kill")) == 2
