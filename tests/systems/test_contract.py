"""Every system, the one here and those that lie elsewhere, keeps to the contract."""

from olivine.systems.local import Local
from olivine.testing.system import SystemContract
from toy_far import Calling, Queue
from toy_system import Toy


class TestLocal(SystemContract):
    system = Local


class TestToy(SystemContract):
    system = Toy

    def make(self, folder):
        return Toy(Toy.Params(folder=str(folder)))


class TestCalling(SystemContract):
    system = Calling

    def make(self, folder):
        return Calling(Calling.Params(folder=str(folder)))


class TestQueue(SystemContract):
    system = Queue

    def make(self, folder):
        (folder / "node").mkdir(exist_ok=True)
        return Queue(Queue.Params(url=(folder / "files").as_uri(), folder=str(folder / "node")))
