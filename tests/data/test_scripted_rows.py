"""Rows of a user's script, in every form that scripts give them, and rows that are made up."""

import numpy as np
import pytest

from olivine.config.schema import DataConfig
from olivine.data import data_files, is_scripted, look, may_move, pick_any
from olivine.errors import DataError

SCRIPT = """
import numpy as np
from olive.data.registry import Registry

@Registry.register_dataset()
def pairs(count=4):
    return [({"x": np.full(3, index, "float32")}, index % 2) for index in range(count)]

@Registry.register_dataset()
def endless():
    index = 0
    while True:
        yield {"x": np.full(3, index)}
        index += 1

@Registry.register_pre_process()
def labels_of(rows, column):
    return [({"x": np.asarray(row["numbers"], "float32")}, row[column]) for row in rows]

@Registry.register_dataloader()
def in_twos(rows, batch_size):
    for first in range(0, len(rows), batch_size):
        part = rows[first : first + batch_size]
        yield {"x": np.stack([row["x"] for row, _ in part])}, np.asarray([label for _, label in part])

def loader(data_dir, batch_size, scale=1):
    import torch
    assert data_dir == "images"
    for first in range(0, 4, batch_size):
        yield torch.full((batch_size, 3), float(scale)), torch.arange(first, first + batch_size)

def bare(data_dir, batch_size, *args, **kwargs):
    assert data_dir is None
    yield np.ones((batch_size, 2)), np.full(batch_size, 7)

@Registry.register_dataset()
def broken():
    raise OSError("no images here")
"""


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "rows.py").write_text(SCRIPT)

    def read(n_most=100, **sections):
        config = DataConfig(name="d", folder=str(tmp_path), user_script=str(tmp_path / "rows.py"), **sections)
        assert is_scripted(config)
        return pick_any(config, lambda n_rows: range(min(n_rows, n_most)))

    return read


def test_registered_data_set_gives_inputs_and_label(rows):
    picked = rows(3, load_dataset_config={"type": "pairs", "params": {"count": 5}})
    assert [row["label"] for row in picked] == [0, 1, 0]
    assert picked[2]["x"].tolist() == [2, 2, 2]
    assert picked.where(1) == "data config 'd': row 2"


def test_what_has_no_end_is_taken_from_its_beginning(rows):
    picked = rows(2, load_dataset_config={"type": "endless"})
    assert [row["x"][0] for row in picked] == [0, 1]


def test_registered_pre_processing_gets_the_rows_of_the_files(rows, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"numbers": [1, 2], "y": 1}\n{"numbers": [3, 4], "y": 0}\n')
    picked = rows(
        load_dataset_config={"data_files": "rows.jsonl"},
        pre_process_data_config={"type": "labels_of", "params": {"column": "y"}},
    )
    assert [(row["x"].tolist(), row["label"]) for row in picked] == [([1, 2], 1), ([3, 4], 0)]


def test_batches_of_a_registered_loader_are_taken_apart(rows):
    sections = {"load_dataset_config": {"type": "pairs"}, "dataloader_config": {"type": "in_twos"}}
    sections["dataloader_config"]["params"] = {"batch_size": 3}
    picked = rows(**sections)
    assert [(row["x"].shape, row["label"]) for row in picked] == [((1, 3), 0), ((1, 3), 1), ((1, 3), 0), ((1, 3), 1)]


def test_function_of_2023_makes_the_batches_by_itself(rows):
    params = {"data_dir": "images", "batch_size": 2, "scale": 5}
    picked = rows(dataloader_config={"type": "loader", "params": params})
    assert [row["label"] for row in picked] == [0, 1, 2, 3]
    assert picked[3]["#0"].tolist() == [[5, 5, 5]]  # by its position: a tensor has no name


def test_function_of_2023_gets_its_two_arguments_where_the_config_names_none(rows):
    picked = rows(dataloader_config={"type": "bare"})
    assert [(row["#0"].tolist(), row["label"]) for row in picked] == [([[1, 1]], 7)]


def test_failure_of_a_script_names_the_data(rows):
    with pytest.raises(DataError, match=r"data config 'd': broken of .*rows.py failed: OSError: no images here"):
        rows(load_dataset_config={"type": "broken"})
    with pytest.raises(DataError, match="registers no load_dataset 'gone'"):
        rows(load_dataset_config={"type": "gone"})


def test_plan_looks_at_the_files_of_a_script_and_no_further(tmp_path):
    (tmp_path / "rows.py").write_text("raise SystemExit")
    config = DataConfig(name="d", user_script=str(tmp_path / "rows.py"), load_dataset_config={"type": "pairs"})
    assert look(config).problems == ()
    assert data_files(config) == [tmp_path / "rows.py"]
    assert not may_move(config)


def test_dummy_rows_have_the_shapes_that_are_named():
    load = {"type": "dummy_dataset", "input_shapes": [[1, 4], [2]], "input_names": ["a", "b"]}
    load |= {"input_types": ["int64", "float32"], "max_samples": 3}
    picked = pick_any(DataConfig(name="d", load_dataset_config=load), range)
    assert len(picked) == 3
    assert (picked[0]["a"].shape, picked[0]["a"].dtype, picked[0]["b"].shape) == ((1, 4), np.int64, (2,))
    with pytest.raises(DataError, match="go together"):
        pick_any(DataConfig(name="d", load_dataset_config=load | {"input_names": ["a"]}), range)


def test_rows_of_labels_that_are_filtered_are_left_out(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"x": 1, "y": "quiet"}\n{"x": 2, "y": "loud"}\n{"x": 3, "y": "quiet"}\n')
    config = DataConfig(
        name="d",
        folder=str(tmp_path),
        load_dataset_config={"data_files": "rows.jsonl"},
        pre_process_data_config={"label_col": "y", "labels_to_filter": ["loud"]},
    )
    assert [row["x"] for row in pick_any(config, range)] == [1, 3]
