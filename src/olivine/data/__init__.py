"""Rows of the user become text, tokens and samples; the same rows become the questions that models are scored on.

    config ─ read_rows ─> Rows ─ texts ─> str ─ samples ─> SampleSet
                           └─ examples ─> Example (prompt, target, label)

`data_files` and `check` use the standard library alone: the parent process calls them.
"""

from olivine.data._check import check
from olivine.data._files import data_files
from olivine.data._rows import Rows, read_rows
from olivine.data._samples import SampleSet, Statistics, samples
from olivine.data._split import split
from olivine.data._texts import Example, Text, columns, examples, target_column, texts

__all__ = [
    "Example",
    "Rows",
    "SampleSet",
    "Statistics",
    "Text",
    "check",
    "columns",
    "data_files",
    "examples",
    "read_rows",
    "samples",
    "split",
    "target_column",
    "texts",
]
