"""Rows of the user become text, tokens and samples; the same rows become the questions that models are scored on.

    config ─ prepare ─> Prepared (tokens of every row, on the disk) ─ samples ─> SampleSet
       └──── read_rows ─> Rows ─ examples ─> Example (prompt, target, label)

`data_files`, `check` and `describe` use the standard library alone: the parent process calls them.
"""

from typing import TYPE_CHECKING

from olivine import lazy

if TYPE_CHECKING:
    from olivine.data._answers import doubled_sentence, seen_sentence
    from olivine.data._check import Look, check, check_split, look, seen
    from olivine.data._detect import (
        columns_without_form,
        describe,
        doubts,
        for_model,
        resolved,
        sample_of,
        text_columns,
        unread,
    )
    from olivine.data._encoder import Encoder, begins_itself
    from olivine.data._examine import examine, shared_rows
    from olivine.data._files import data_files, file_names, locate
    from olivine.data._named import named_file, named_files
    from olivine.data._plugins import check_names, plugin_modules
    from olivine.data._prepare import Prepared, prepare
    from olivine.data._raw import is_raw
    from olivine.data._rows import Rows, read_rows
    from olivine.data._samples import IGNORED, SampleSet, Statistics, samples
    from olivine.data._scripted import is_made_up, is_scripted, named_components, position, token_counts
    from olivine.data._settings import within_context
    from olivine.data._sizes import RowSizes, row_sizes
    from olivine.data._split import split
    from olivine.data._stream import content_of, may_move, pick_any, pick_rows
    from olivine.data._texts import Example, answered, columns, examples, target_column, texts
    from olivine.data.forms import Text
    from olivine.data.forms.chat import template_of

__all__ = [
    "IGNORED",
    "Encoder",
    "Example",
    "Look",
    "Prepared",
    "RowSizes",
    "Rows",
    "SampleSet",
    "Statistics",
    "Text",
    "answered",
    "begins_itself",
    "check",
    "check_names",
    "check_split",
    "columns",
    "columns_without_form",
    "content_of",
    "data_files",
    "describe",
    "doubled_sentence",
    "doubts",
    "examine",
    "examples",
    "file_names",
    "for_model",
    "is_made_up",
    "is_raw",
    "is_scripted",
    "locate",
    "look",
    "may_move",
    "named_components",
    "named_file",
    "named_files",
    "pick_any",
    "pick_rows",
    "plugin_modules",
    "position",
    "prepare",
    "read_rows",
    "resolved",
    "row_sizes",
    "sample_of",
    "samples",
    "seen",
    "seen_sentence",
    "shared_rows",
    "split",
    "target_column",
    "template_of",
    "text_columns",
    "texts",
    "token_counts",
    "unread",
    "within_context",
]

__getattr__ = lazy.names(
    __name__,
    {
        "_answers": "doubled_sentence seen_sentence",
        "_check": "Look check check_split look seen",
        "_detect": "columns_without_form describe doubts for_model resolved sample_of text_columns unread",
        "_encoder": "Encoder begins_itself",
        "_examine": "examine shared_rows",
        "_files": "data_files file_names locate",
        "_named": "named_file named_files",
        "_plugins": "check_names plugin_modules",
        "_prepare": "Prepared prepare",
        "_raw": "is_raw",
        "_rows": "Rows read_rows",
        "_samples": "IGNORED SampleSet Statistics samples",
        "_scripted": "is_made_up is_scripted named_components position token_counts",
        "_settings": "within_context",
        "_sizes": "RowSizes row_sizes",
        "_split": "split",
        "_stream": "content_of may_move pick_any pick_rows",
        "_texts": "Example answered columns examples target_column texts",
        "forms": "Text",
        "forms.chat": "template_of",
    },
)
