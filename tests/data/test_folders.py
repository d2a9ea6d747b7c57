"""Folders of images and sounds are rows: a file each, its class the folder that it lies in."""

import json

import numpy as np
import pytest
from data_tools import config

from encoders import tiny_encoder
from olivine.data import data_files, read_rows
from olivine.errors import DataError
from olivine.evaluate import inputs_of, labelled_inputs_of
from olivine.models import Model
from olivine.store.hashes import Hashes
from olivine.workflow.keys import data_content


def bitmap(path, seed):
    """A file of pixels without any package: PPM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    path.write_bytes(b"P6 32 32 255\n" + pixels.tobytes())
    return pixels


def of_folder(folder, kind="imagefolder", **load):
    return config(folder, None, load={"data_name": kind, "data_dir": "pictures", **load})


@pytest.fixture
def pictures(tmp_path):
    for number, name in enumerate(("cat", "cat", "test tube")):
        bitmap(tmp_path / "pictures" / name / f"{number}.ppm", number)
    (tmp_path / "pictures" / "notes.txt").write_text("not a picture")
    return tmp_path


def test_class_of_a_file_is_its_folder(pictures):
    given = of_folder(pictures)
    rows = read_rows(given)
    assert [row["label"] for row in rows] == ["cat", "cat", "test tube"]
    assert [row["image"] for row in rows] == [str(path) for path in data_files(given)]
    assert rows.where(2).endswith("pictures/test tube/2.ppm: row 1")


def test_outermost_folders_that_are_called_as_splits_are_splits(pictures):
    (pictures / "pictures").rename(pictures / "all")
    (pictures / "all").rename(pictures / "train")
    (pictures / "pictures").mkdir()
    (pictures / "train" / "notes.txt").unlink()
    (pictures / "train").rename(pictures / "pictures" / "train")
    bitmap(pictures / "pictures" / "val" / "cat" / "9.ppm", 9)
    assert [row["label"] for row in read_rows(of_folder(pictures))] == ["cat", "cat", "test tube"]
    assert [row["label"] for row in read_rows(of_folder(pictures, split="validation"))] == ["cat"]


def test_files_without_folders_have_no_class(tmp_path):
    bitmap(tmp_path / "pictures" / "0.ppm", 0)
    assert [sorted(row) for row in read_rows(of_folder(tmp_path))] == [["image"]]


def test_rows_beside_the_files_are_not_passed_over(pictures):
    (pictures / "pictures" / "cat" / "metadata.jsonl").write_text(json.dumps({"file_name": "0.ppm", "label": "dog"}))
    with pytest.raises(DataError, match=r"beside it lies metadata\.jsonl, .* write data_name: json"):
        read_rows(of_folder(pictures))


def test_folder_of_rows_that_name_pictures_is_one_of_rows(pictures):
    (pictures / "pictures" / "rows.jsonl").write_text(json.dumps({"image": "cat/0.ppm"}) + "\n")
    given = config(pictures, None, load={"data_name": "pictures"})
    assert [path.name for path in data_files(given)] == ["notes.txt", "rows.jsonl"]


def test_another_class_is_other_data(pictures):
    before = data_content(of_folder(pictures), Hashes(pictures / "cache"))
    (pictures / "pictures" / "cat").rename(pictures / "pictures" / "dog")
    assert data_content(of_folder(pictures), Hashes(pictures / "cache")) != before


def test_pictures_are_inputs_and_folders_labels(pictures):
    from transformers import ViTImageProcessor

    folder = tiny_encoder(pictures / "vit", "vit")
    told = json.loads((folder / "config.json").read_text())
    told["id2label"] = {"0": "dog", "1": "test tube", "2": "cat", "3": "a", "4": "b"}
    (folder / "config.json").write_text(json.dumps(told))
    process = ViTImageProcessor(size={"height": 32, "width": 32})
    process.save_pretrained(folder)
    model = Model("hf", folder, task="image-classification")
    inputs, labels = labelled_inputs_of(model, of_folder(pictures), "label", 8)
    assert labels == [2, 2, 1]
    for number, row in enumerate(inputs):
        pixels = bitmap(pictures / "again.ppm", number)
        expected = process(pixels, return_tensors="np")["pixel_values"]
        assert np.abs(row["pixel_values"] - expected).max() < 1e-6
    assert len(inputs_of(model, of_folder(pictures, split="train[:2]"), 8)) == 2
