"""Every pass of ours declares what the contract asks for; some are run by it too."""

from typing import ClassVar

import pytest

from olivine.models import Model
from olivine.passes import passes
from olivine.testing.passes import PassContract, PassDeclaration
from tiny import tiny_adapter, tiny_model

NEEDED = {
    "mixed_precision_overrides": {"overrides_config": {"logits": "QUInt16"}},
    "selective_mixed_precision": {"algorithm": "k_quant_mixed"},
} | {
    name: {"train_data_config": "rows"}
    for name, plugin in passes.own.items()
    if "train_data_config" in plugin.Params.model_fields
}


@pytest.mark.parametrize("name", sorted(passes.own))
class TestEveryPass(PassDeclaration):
    test_module_imports_no_framework = None  # test_architecture says it of all of them at once

    @pytest.fixture(autouse=True)
    def _pass(self, name, monkeypatch):
        monkeypatch.setattr(type(self), "plugin", passes.own[name], raising=False)
        monkeypatch.setattr(type(self), "params", NEEDED.get(name, {}))


class TestRtn(PassContract):
    plugin = passes.own["rtn"]
    params: ClassVar = {"group_size": 32}


class TestMerge(PassContract):
    plugin = passes.own["merge"]

    def model(self, folder):
        base = tiny_model(folder / "base")
        return Model("adapter", tiny_adapter(base, folder / "adapter"), base=Model("hf", base))
