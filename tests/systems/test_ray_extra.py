"""What a user without Ray is told, who names a cluster."""

import json

import pytest

from olivine import lazy
from olivine.cli import exit_code


@pytest.mark.skipif(lazy.installed_here("ray"), reason="Ray is installed here")
def test_config_that_names_a_cluster_says_how_to_install_ray(tiny_llama, tmp_path, capfd):
    config = {
        "input_model": {"type": "HfModel", "model_path": str(tiny_llama)},
        "systems": {"cluster": {"type": "RaySystem", "config": {"address": "ray://nowhere:10001"}}},
        "host": "cluster",
        "passes": {"small": {"type": "rtn", "group_size": 16}},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config, indent=1))
    assert exit_code(["run", "--config", str(path)]) == 2
    told = " ".join(capfd.readouterr().err.split())
    assert "pip install 'olivine[ray]'" in told
    assert not (tmp_path / "out").exists()
