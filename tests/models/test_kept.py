"""What a killed step leaves is taken over when it is whole, and made again when it is not."""

import pytest
import torch

from olivine.models.kept import is_whole, keep, kept


def test_what_was_kept_is_found(tmp_path):
    assert kept(tmp_path / "none.safetensors") == {}
    keep(tmp_path / "a.safetensors", {"x": torch.arange(4.0)})
    assert torch.equal(kept(tmp_path / "a.safetensors")["x"], torch.arange(4.0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("n_bytes", [0, 5, 60, -1])
def test_what_was_cut_counts_as_none(n_bytes, tmp_path):
    file = tmp_path / "a.safetensors"
    keep(file, {"x": torch.arange(4.0)})
    file.write_bytes(file.read_bytes()[:n_bytes])
    assert not is_whole(file)
    assert kept(file) == {}
