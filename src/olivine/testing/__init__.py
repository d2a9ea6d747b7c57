"""Contract tests: a plugin, ours or a third party's, is checked by a test class that inherits its kind's contract.

    from olivine.testing.sampler import SamplerContract

    class TestMine(SamplerContract):
        sampler = Mine

The contracts are plain pytest classes; nothing here is imported when olivine runs.
"""
