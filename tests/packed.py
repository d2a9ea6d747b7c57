"""Quantized checkpoints packed one number at a time, as slowly and plainly as the formats are described."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def quantized(weight, bits=4, group=32, symmetric=False, seed=0):
    """Codes [N, K], float16 scales and zero points [N, K / group] of a weight, on a plain grid."""
    n, k = weight.shape
    random = np.random.default_rng(seed)
    blocks = weight.numpy().reshape(n, k // group, group)
    top = 2**bits - 1
    scales = ((blocks.max(-1) - blocks.min(-1)) / top).astype(np.float16)
    zeros = random.integers(0, top + 1, scales.shape)  # any will do, the extremes among them
    if symmetric:
        scales, zeros = (2 * abs(blocks).max(-1) / top).astype(np.float16), np.full(scales.shape, 2 ** (bits - 1))
    codes = np.round(blocks / scales.astype(np.float32)[..., None] + zeros[..., None]).clip(0, top)
    return codes.reshape(n, k).astype(int), scales, zeros.astype(int)


def dequantized(codes, scales, zeros, group_of):
    """float32 [N, K]: group_of[k] is the group of input k."""
    values = np.zeros(codes.shape, np.float32)
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            place = group_of[column]
            values[row, column] = np.float32(codes[row, column] - zeros[row, place]) * np.float32(scales[row, place])
    return torch.from_numpy(values)


def words(numbers, bits, order=None):
    """Python integers -> the 32-bit words of a line, number `order[j]` of each word at bit `bits * j`."""
    size = 32 // bits
    found = []
    for start in range(0, len(numbers), size):
        part = [int(number) for number in numbers[start : start + size]]
        part += [0] * (size - len(part))
        found.append(sum(part[place] << (bits * j) for j, place in enumerate(order or range(size))))
    return found


def matrix(lines):
    """Lines of words as int32."""
    return torch.from_numpy(np.array(lines, dtype=np.uint32).view(np.int32).copy())


def pack_gptq(codes, scales, zeros, bits, version=1, group_of=None):
    """The tensors of a GPTQ layer; version 1 takes one from every zero point, word by word."""
    n, k = codes.shape
    ones = sum(1 << (bits * j) for j in range(32 // bits))
    lines = [words(zeros[:, place], bits) for place in range(zeros.shape[1])]
    if version == 1:
        lines = [[(word - ones) % 2**32 for word in line] for line in lines]
    group = k // scales.shape[1]
    return {
        "qweight": matrix([words(codes[row], bits) for row in range(n)]).T.contiguous(),
        "qzeros": matrix(lines),
        "scales": torch.from_numpy(scales.T.copy()),
        "g_idx": torch.tensor([place // group for place in range(k)] if group_of is None else group_of).int(),
    }


def pack_awq(codes, scales, zeros):
    """The tensors of an AWQ layer in the packing of its GEMM kernel."""
    return {
        "qweight": matrix([words(codes[:, place], 4, AWQ_ORDER) for place in range(codes.shape[1])]),
        "qzeros": matrix([words(zeros[:, place], 4, AWQ_ORDER) for place in range(zeros.shape[1])]),
        "scales": torch.from_numpy(scales.T.copy()),
    }


def pack_compressed(codes, scales, zeros, bits, symmetric=False):
    """The tensors of a layer in compressed-tensors' pack-quantized."""
    found = {
        "weight_packed": matrix([words(line, bits) for line in codes]),
        "weight_scale": torch.from_numpy(scales.copy()),
        "weight_shape": torch.tensor(codes.shape),
    }
    if not symmetric:
        lines = [words(zeros[:, place], bits) for place in range(zeros.shape[1])]
        found["weight_zero_point"] = matrix(lines).T.contiguous()
    return found


def packed_model(base: Path, folder: Path, config: dict, pack, keep: tuple[str, ...] = ()) -> tuple[Path, dict]:
    """A copy of a tiny model whose projections are packed, but those that `keep` names.

    pack: (name, weight) -> (tensors of the layer, codes, scales, zeros, group of each input). Gives the folder and,
    for each weight, the last four.
    """
    shutil.copytree(base, folder)
    file = folder / "model.safetensors"
    tensors, expected = load_file(file), {}
    packed = [name for name in tensors if name.endswith("_proj.weight") and not any(part in name for part in keep)]
    for name in packed:
        module = name.removesuffix(".weight")
        parts, *expected[name] = pack(module, tensors.pop(name))
        tensors |= {f"{module}.{leaf}": part for leaf, part in parts.items()}
    save_file(tensors, file, {"format": "pt"})
    change_config(folder, quantization_config=config)
    return folder, expected


def change_config(folder: Path, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@dataclass(frozen=True)
class Case:
    """A way of packing; group 0: one for each row."""

    method: str
    bits: int = 4
    group: int = 32
    symmetric: bool = False
    version: int = 1

    @property
    def config(self):
        size = -1 if self.group == 0 else self.group
        if self.method == "gptq":
            config = {"bits": self.bits, "group_size": size, "sym": self.symmetric, "desc_act": False}
            return config | {"quant_method": "gptq", **({"checkpoint_format": "gptq_v2"} if self.version == 2 else {})}
        if self.method == "awq":
            return {
                "bits": 4,
                "group_size": size,
                "zero_point": not self.symmetric,
                "quant_method": "awq",
                "version": "gemm",
            }
        weights = {"num_bits": self.bits, "type": "int", "symmetric": self.symmetric, "group_size": size}
        weights["strategy"] = "group" if self.group else "channel"
        return compressed({"g": {"targets": ["Linear"], "weights": weights}})

    def pack(self, module, weight, group_of=None):
        group = self.group or weight.shape[1]
        seed = sum(module.encode())
        codes, scales, zeros = quantized(weight, self.bits, group, self.symmetric, seed)
        if self.method == "gptq":
            parts = pack_gptq(codes, scales, zeros, self.bits, self.version, group_of)
        elif self.method == "awq":
            parts = pack_awq(codes, scales, zeros)
        else:
            parts = pack_compressed(codes, scales, zeros, self.bits, self.symmetric)
        usual = [place // group for place in range(weight.shape[1])]
        return parts, codes, scales, zeros, usual if group_of is None else group_of


def compressed(groups, **more):
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups, **more}
