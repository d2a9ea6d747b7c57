"""The gradient of all ranks: buckets lose and mix up nothing."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from olivine.kernels import averaging

SHAPES = some.lists(some.lists(some.integers(1, 4), min_size=0, max_size=3), max_size=8)


@settings(deadline=None, max_examples=50)
@given(shapes=SHAPES, bucket_bytes=some.integers(1, 200))
def test_buckets_hold_every_tensor_once_and_give_each_its_own_values(shapes, bucket_bytes):
    types = (torch.float32, torch.bfloat16)
    tensors = [torch.full(shape, float(index), dtype=types[index % 2]) for index, shape in enumerate(shapes)]
    buckets = list(averaging.buckets(tensors, bucket_bytes))
    assert sorted(id(tensor) for bucket in buckets for tensor in bucket) == sorted(map(id, tensors))
    for bucket in buckets:
        averaging.copy_back(averaging.flattened(bucket) + 1, bucket)
    assert [float(tensor.flatten()[0]) for tensor in tensors] == [index + 1.0 for index in range(len(tensors))]
