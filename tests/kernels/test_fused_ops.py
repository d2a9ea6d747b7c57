"""What a decoder layer does between its products: against autograd on a CPU, and each kernel against it on a GPU."""

import pytest
import torch
from torch.nn import functional

from olivine.kernels import fused_ops
from olivine.kernels.chunked_loss import IGNORED, Logits, chunked_loss
from olivine.kernels.fused_types import FLOAT8_LARGEST, Rotation, Update

N_ROWS, HIDDEN, INNER, RANK = 37, 320, 192, 3


def random(*shape, seed=0, scale=1.0, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(device, dtype)


def update(columns, n_parts, rank=RANK, **how):
    offsets = tuple(part * rank for part in range(n_parts))
    return Update(
        random(N_ROWS, n_parts * rank, scale=0.3, **how), random(sum(columns), rank, scale=0.3, **how), columns, offsets
    )


def with_update(y, change):
    parts = [change.u[:, ranks] @ change.b[columns].t() for columns, ranks in change.parts()]
    return y + torch.cat(parts, dim=1)


def rms_norm(h, weight, eps):
    return h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps) * weight


def gradient(function, *inputs, slope):
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(function(*leaves), leaves, slope)


def close(actual, expected):
    torch.testing.assert_close(actual.double(), expected.double(), atol=2e-5, rtol=1e-5)


def test_norm_of_an_updated_stream_and_its_slope_are_those_of_autograd():
    h, y, weight = random(N_ROWS, HIDDEN), random(N_ROWS, HIDDEN, seed=1), random(HIDDEN).float()
    change = update((HIDDEN,), 1)
    stream, x, inverse, _ = fused_ops.norm(h, y, change, weight, 1e-5)
    close(stream, h + with_update(y, change))
    close(x, rms_norm(stream, weight.double(), 1e-5))
    dx, beside, a = random(N_ROWS, HIDDEN, seed=2), random(N_ROWS, HIDDEN, seed=3), random(2 * RANK, HIDDEN)
    du = random(N_ROWS, 2 * RANK)
    along = ((dx + du @ a) * x).sum(1)
    found = fused_ops.norm_slope(dx, Update(du, a.t(), (HIDDEN,), (0,)), stream, weight, inverse, beside, along)
    (expected,) = gradient(lambda s: rms_norm(s, weight.double(), 1e-5), stream, slope=dx + du @ a)
    close(found, expected + beside)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("n_parts", [1, 2])
def test_gate_and_its_slopes_are_those_of_autograd(n_parts, gelu):
    gu, dact = random(N_ROWS, 2 * INNER), random(N_ROWS, INNER, seed=1)
    change = update((2 * INNER,) if n_parts == 1 else (INNER, INNER), n_parts)
    du, a = random(N_ROWS, RANK), random(RANK, INNER)

    def activation(both):
        gate, up = with_update(both, change).chunk(2, dim=1)
        return (functional.gelu(gate, approximate="tanh") if gelu else functional.silu(gate)) * up

    close(fused_ops.gate(gu, change, gelu=gelu), activation(gu))
    bias = random(2 * INNER)
    dgu, along, da = fused_ops.gate_slope(gu, change, dact, Update(du, a.t(), (INNER,), (0,)), bias, gelu=gelu)
    (expected,) = gradient(activation, gu, slope=dact + du @ a)
    close(dgu, expected)
    close(along, (expected * (with_update(gu, change) - bias)).sum(1))
    close(da, du.t() @ activation(gu))


@pytest.mark.parametrize(("width", "half"), [(64, 32), (64, 24), (96, 48)])
@pytest.mark.parametrize("norms", [False, True])
def test_rotation_and_its_slope_are_those_of_autograd(width, half, norms):
    n_queries, n_keys = 4, 2
    columns = (n_queries * width, n_keys * width, n_keys * width)
    angle = random(N_ROWS, half)
    weights = (random(width).float(), random(width, seed=1).float(), 1e-6) if norms else ()
    rotation = Rotation(angle.cos(), angle.sin(), n_queries, n_keys, width, *weights)
    qkv, change = random(N_ROWS, sum(columns)), update(columns, 3)

    def turned(raw):
        heads = with_update(raw, change).unflatten(1, (-1, width))
        q, k, v = heads.split([n_queries, n_keys, n_keys], dim=1)
        if norms:
            q, k = rms_norm(q, weights[0].double(), 1e-6), rms_norm(k, weights[1].double(), 1e-6)
        cos, sin = (torch.cat([part, part], dim=1)[:, None] for part in (rotation.cos, rotation.sin))

        def turn(x):
            first, second, rest = x.split([half, half, width - 2 * half], dim=-1)
            both = torch.cat([first, second], dim=-1) * cos + torch.cat([-second, first], dim=-1) * sin
            return torch.cat([both, rest], dim=-1)

        return torch.cat([turn(q), turn(k), v], dim=1)

    expected, written = turned(qkv), qkv.clone()
    found = fused_ops.rotate(written, change, rotation)
    close(found[:, : 6 * width].unflatten(1, (-1, width)), expected[:, :6])
    close(written[:, 6 * width :].unflatten(1, (-1, width)), expected[:, 6:])
    slope = random(N_ROWS, 8, width, seed=5)
    (wanted,) = gradient(turned, qkv, slope=slope)
    slopes, bias = tuple(part.transpose(0, 1) for part in slope.split([4, 2, 2], dim=1)), random(sum(columns))
    back, along = fused_ops.rotate_slope(slopes, written, change, bias, rotation)
    close(back, wanted)
    close(along, (wanted * (with_update(qkv, change) - bias)).sum(1))


def test_slopes_of_an_update_are_those_of_autograd():
    columns = (64, 32, 32)
    g, change, inverse = random(N_ROWS, 128), update(columns, 3), random(N_ROWS).abs().float()
    du, db, scaled = fused_ops.slopes(g, change, 1.5, inverse)
    zero = torch.zeros(N_ROWS, 128, dtype=torch.float64)
    of_u, of_b = gradient(
        lambda u, b: with_update(zero, Update(u, b, columns, change.offsets)), change.u, change.b, slope=g
    )
    close(du, 1.5 * of_u)
    close(db, of_b)
    close(scaled, 1.5 * of_u * inverse[:, None])


def test_eight_bits_are_off_by_a_sixteenth_of_a_value_at_most():
    x, scales = random(40, HIDDEN).float(), random(HIDDEN).abs().float() + 0.1
    codes, of_rows = fused_ops.quantize(x, scales)
    wide = x * scales
    # three bits of mantissa: half a step is 2**-4 of the value; below the normal numbers, half of the smallest step
    smallest = of_rows * 2**-10
    assert bool(((codes.float() * of_rows - wide).abs() <= wide.abs() * 2**-4 + smallest).all())
    assert torch.equal(codes.float().abs().amax(1), torch.full((40,), FLOAT8_LARGEST))


needs_kernels = pytest.mark.skipif(
    not (torch.cuda.is_available() and fused_ops.HAS_TRITON), reason="the kernels run on CUDA"
)


def exact(tensor):
    """A tensor as bfloat16 holds it, for torch's operators in float64."""
    return tensor.bfloat16().double()


def on_gpu(tensor):
    return tensor.bfloat16().cuda()


def cast(change, how):
    return change and Update(how(change.u), how(change.b).contiguous(), change.columns, change.offsets)


def assert_near(found, expected, distance=1e-2):
    for one, other in zip(found, expected, strict=True):
        if one is not None:
            gap = (one.double().cpu() - other.double()).norm()
            assert gap < distance * other.double().norm(), (one.shape, float(gap / other.double().norm()))


@needs_kernels
@pytest.mark.parametrize("rank", [0, 3, 16, 64])
def test_norm_and_add_kernels_give_what_torch_gives(rank):
    h, y, dx, weight = (
        random(N_ROWS, HIDDEN),
        random(N_ROWS, HIDDEN, seed=1),
        random(N_ROWS, HIDDEN, seed=2),
        random(HIDDEN),
    )
    change, back = (update((HIDDEN,), n, rank) if rank else None for n in (1, 3))
    a = random(3 * rank, HIDDEN, scale=0.3)

    def run(how, device):
        w = weight.float().to(device)
        stream, x, inverse, _ = fused_ops.norm(how(h), how(y), cast(change, how), w, 1e-5)
        slope = Update(how(back.u), how(a).t(), (HIDDEN,), (0,)) if rank else None
        along = (exact(dx) * exact(y)).sum(1).float().to(device)
        dh = fused_ops.norm_slope(how(dx), slope, stream, w, inverse, how(y), along)
        return stream, x, inverse, dh, fused_ops.add(how(y), cast(change, how), how(h)), fused_ops.add(how(y), slope)

    assert_near(run(on_gpu, "cuda"), run(exact, "cpu"))


@needs_kernels
@pytest.mark.parametrize("rank", [0, 3, 16])
@pytest.mark.parametrize("n_parts", [1, 2])
@pytest.mark.parametrize("gelu", [False, True])
def test_gate_kernels_give_what_torch_gives(rank, n_parts, gelu):
    gu, dact, a = random(N_ROWS, 2 * INNER), random(N_ROWS, INNER), random(rank, INNER, scale=0.3)
    columns = (2 * INNER,) if n_parts == 1 else (INNER, INNER)
    change, back = (update(columns, n_parts, rank), update((INNER,), 1, rank)) if rank else (None, None)

    def run(how):
        slope = Update(how(back.u), how(a).t(), (INNER,), (0,)) if rank else None
        act = fused_ops.gate(how(gu), cast(change, how), gelu=gelu)
        bias = how(random(2 * INNER)) if n_parts == 1 else None
        return act, *fused_ops.gate_slope(how(gu), cast(change, how), how(dact), slope, bias, gelu=gelu)

    assert_near(run(on_gpu), run(exact))


@needs_kernels
@pytest.mark.parametrize(("width", "half"), [(64, 32), (96, 48), (64, 24), (128, 64)])
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("rank", [0, 16])
def test_rotation_kernels_give_what_torch_gives(width, half, norms, rank):
    columns = (4 * width, 2 * width, 2 * width)
    qkv, angle, change = random(N_ROWS, 8 * width), random(N_ROWS, half), update(columns, 3, rank) if rank else None
    slopes = [random(heads, N_ROWS, width, seed=heads) for heads in (4, 2, 2)]

    def run(how, device):
        weights = [random(width, seed=seed).float().to(device) for seed in (0, 1)] if norms else [None, None]
        rotation = Rotation(how(angle.cos()), how(angle.sin()), 4, 2, width, *weights, 1e-6)
        written = how(qkv)
        turned = fused_ops.rotate(written, cast(change, how), rotation)
        bias = how(random(8 * width, seed=7)) if half * 2 == width else None
        back = fused_ops.rotate_slope(tuple(map(how, slopes)), written, cast(change, how), bias, rotation)
        return turned[:, : 6 * width], written[:, 6 * width :], *back

    assert_near(run(on_gpu, "cuda"), run(exact, "cpu"))


@needs_kernels
@pytest.mark.parametrize("columns", [(256, 64, 64), (384,), (48, 16, 16), (200,)])
def test_slopes_kernel_gives_what_torch_gives(columns):
    g, change, inverse = random(600, sum(columns)), update(columns, len(columns)), random(600).abs().float()
    change = Update(random(600, change.u.shape[1]), change.b, columns, change.offsets)

    def run(how, device):
        return fused_ops.slopes(how(g), cast(change, how), 0.5, inverse.to(device))

    assert_near(run(on_gpu, "cuda"), run(exact, "cpu"))


@needs_kernels
def test_kernels_of_eight_bits_give_what_torch_gives():
    x, scales = random(40, 5000).bfloat16(), random(5000).abs().float() + 0.1
    codes, of_rows = fused_ops.quantize(x.cuda(), scales.cuda())
    expected, of_rows_too = fused_ops.quantize(x, scales)
    torch.testing.assert_close(of_rows.cpu(), of_rows_too)
    assert_near([codes.float() * of_rows], [expected.float() * of_rows_too])
    turned = fused_ops.transpose(codes)
    assert torch.equal(turned.view(torch.uint8), codes.view(torch.uint8).t())


@needs_kernels
@pytest.mark.parametrize("logits", [Logits(), Logits(0.5, 30.0)])
def test_loss_kernel_gives_what_torch_gives(logits):
    hidden, head = random(30, 64), torch.nn.Linear(64, 5000, bias=False).requires_grad_(requires_grad=False)
    targets = torch.randint(0, 5000, (30,), generator=torch.Generator().manual_seed(0))
    targets[3] = IGNORED

    def run(states, layer, tokens):
        states = states.requires_grad_()
        loss = chunked_loss(states, layer, tokens, logits)
        return loss.detach(), torch.autograd.grad(loss, states)[0]

    rounded = head.weight.data.bfloat16()
    head.weight.data = rounded.float()
    expected = run(hidden.bfloat16().float(), head, targets)
    found = run(on_gpu(hidden), head.bfloat16().cuda(), targets.cuda())
    assert_near(found, expected, 3e-2)
