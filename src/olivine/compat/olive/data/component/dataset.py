"""Data sets of pairs of inputs and label, as scripts make and give them."""

from collections.abc import Sequence
from typing import Any


class BaseDataset:
    """Pairs that are there already: `data[index]` is one."""

    def __init__(self, data: Any, max_samples: int | None = None, **_: Any) -> None:
        self.data, self.max_samples = data, max_samples

    def __len__(self) -> int:
        n_rows = len(self.data)
        return n_rows if self.max_samples is None else min(n_rows, self.max_samples)

    def __getitem__(self, index: int) -> Any:
        return self.data[range(len(self))[index]]


class ClassificationDataset(BaseDataset):
    """Rows as mappings, one of whose columns is the label."""

    def __init__(self, data: Any, label_col: str, max_samples: int | None = None, **_: Any) -> None:
        super().__init__(data, max_samples)
        self.label_col = label_col

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        row = super().__getitem__(index)
        return {name: value for name, value in row.items() if name != self.label_col}, row[self.label_col]


class DummyDataset(BaseDataset):
    """Ones of the shapes that are named."""

    def __init__(
        self,
        input_shapes: Sequence[Sequence[int]],
        input_names: Sequence[str] | None = None,
        input_types: Sequence[str] | None = None,
        max_samples: int | None = 32,
        **_: Any,
    ) -> None:
        import numpy as np

        types = input_types or ["float32"] * len(input_shapes)
        arrays = [np.ones(shape, dtype) for shape, dtype in zip(input_shapes, types, strict=True)]
        inputs: Any = dict(zip(input_names, arrays, strict=True)) if input_names else tuple(arrays)
        super().__init__([(inputs, 0)] * (max_samples or 32))
