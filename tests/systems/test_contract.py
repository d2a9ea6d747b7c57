"""Every system, the one here and those that lie elsewhere, keeps to the contract."""

import ast
from pathlib import Path

from olivine.systems import systems
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


def test_every_system_keeps_to_the_contract():
    """Those that need an engine, an SDK or a cluster are skipped where there is none, with the reason."""
    tested = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "SystemContract" for base in node.bases):
                named = (one for one in node.body if isinstance(one, ast.Assign))
                tested |= {ast.unparse(one.value) for one in named if ast.unparse(one.targets[0]) == "system"}
    assert {plugin.__name__ for plugin in systems.classes.values()} <= tested
