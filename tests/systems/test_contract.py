"""Both systems, the one here and one that lies elsewhere, keep to the contract."""

from olivine.systems.local import Local
from olivine.testing.system import SystemContract
from toy_system import Toy


class TestLocal(SystemContract):
    system = Local


class TestToy(SystemContract):
    system = Toy

    def make(self, folder):
        return Toy(Toy.Params(folder=str(folder)))
