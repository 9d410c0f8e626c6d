"""Triton kernels of locoformer_attention in the interpreter: odd shapes, both paths, tiles, backward pass."""

import importlib
import importlib.util
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast.ops.locoformer_attention import reference, samples

# triton is an extra; `make test` installs it, so this runs in CI.
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
module = importlib.import_module("ussfast.ops._triton.locoformer_attention")
tiles = importlib.import_module("ussfast.ops._triton.locoformer_attention.tiles")
calling = importlib.import_module("ussfast.ops._triton._call")

pytestmark = pytest.mark.usefixtures("nan_filled_empty")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Of the peak. With "bfloat16" the forward pass rounds half a dozen times to the 11 bits of float16, the backward pass
# about as often to the 8 bits of bfloat16, and there small differences of probabilities count.
TOL = {"float32": 2e-5, "bfloat16": 5e-3}
GRADIENT_TOL = {"float32": 1e-4, "bfloat16": 3e-2}


def case(x, groups=2, heads=2, head=4, axis=1, rope=True, precision="float32", eps=1e-5):
    """Arguments in schema order."""
    channels, width = x.shape[3], heads * head
    frequencies = torch.rand(head // 2, device=DEVICE) if rope else None
    return (
        x, torch.rand(channels, device=DEVICE) + 0.5, torch.randn(3 * width, channels, device=DEVICE) * channels**-0.5,
        torch.randn(channels, width, device=DEVICE) * width**-0.5, frequencies, None, axis, groups, eps, heads,
        precision,
    )  # fmt: skip


def draw(*shape):
    return torch.randn(shape, device=DEVICE)


def same(actual, expected, tol):
    assert actual.shape == expected.shape and actual.dtype == expected.dtype and actual.is_contiguous()
    assert (actual - expected).abs().max() <= tol * expected.abs().max(), (actual - expected).abs().max()


def check(args, tol=None):
    """The launcher's result, held to the reference's."""
    y = module.locoformer_attention(*args)
    same(y, reference(*args), tol or TOL[args[-1]])
    return y


def force(monkeypatch, long=None, **sizes):
    """Sends every length to one of the paths, and tiles to these sizes, so that small inputs have several blocks."""
    if long is not None:
        monkeypatch.setattr(tiles, "longest_short", lambda capability, lay: 0 if long else 64)
    for name, options in sizes.items():
        monkeypatch.setattr(tiles, name, lambda capability, lay, options=options: (calling.tile(**options),))


@pytest.fixture
def small_blocks(monkeypatch):
    """16 positions per block everywhere, on the path of long sequences."""
    both, one = {"ROWS": 16, "KEYS": 16}, {"ROWS": 16}
    force(monkeypatch, long=True, flash=both, keys=both, queries=both, rows=one)


SHAPES = {
    "length": st.integers(1, 20),
    "groups": st.integers(1, 3),
    "group": st.integers(1, 9),
    "heads": st.integers(1, 3),
    "head": st.sampled_from([2, 6, 24, 34]),
    "axis": st.sampled_from([1, 2]),
    "rope": st.booleans(),
    "precision": st.sampled_from(["float32", "bfloat16"]),
}


def drawn(length, groups, group, heads, head, axis, rope, precision):
    torch.manual_seed(length)
    shape = (2, length, 2) if axis == 1 else (2, 2, length)
    x = draw(*shape, groups * group)
    return case(x, groups, heads, head, axis, rope, precision=precision, eps=1e-2)


@settings(max_examples=8, deadline=None)
@given(**SHAPES)
def test_any_shape(**shape):
    check(drawn(**shape))


@settings(max_examples=4, deadline=None)
@given(**SHAPES)
def test_gradient_of_any_shape(**shape):
    check_gradients(drawn(**shape))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_paths_agree(monkeypatch, precision):
    """Seven positions: nine sequences to a program of the short path, with a row to spare, and a last one with less."""
    args = case(draw(2, 7, 5, 12), heads=3, head=6, precision=precision)
    force(monkeypatch, long=False, short={"ROWS": 64})
    short = check(args)
    force(monkeypatch, long=True)
    same(check(args), short, TOL[precision])


def test_several_blocks(small_blocks):
    check(case(draw(1, 1, 53, 8), heads=1, axis=2))
    check_gradients(case(draw(1, 37, 1, 8), heads=1))


@pytest.mark.parametrize("long", [False, True])
def test_input_of_any_strides(monkeypatch, long):
    force(monkeypatch, long=long)
    turned = draw(12, 3, 8, 2).permute(3, 2, 1, 0)  # channels are scattered
    sliced = draw(2, 6, 3, 2 * 12)[:, ::2, :, 5:17]  # and begin where no vector does
    for x in (turned, sliced, draw(1, 5, 1, 12).expand(2, 5, 3, 12), draw(3, 2, 4, 12).transpose(0, 2)):
        check(case(x, heads=1, axis=1))
        check(case(x, heads=1, axis=2))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_candidate_tile_gives_the_same(monkeypatch, precision):
    args, used = case(draw(1, 70, 1, 8), heads=1, precision=precision), set()
    force(monkeypatch, long=True)

    def each(choose, call, device):
        chosen = call.tiles[choose % len(call.tiles)]
        used.add((call.name, chosen))
        call.run(chosen)

    found = []
    for choose in range(4 if precision == "bfloat16" else 2):
        monkeypatch.setattr("ussfast.ops._triton.locoformer_attention.calls.launch", partial(each, choose))
        torch.manual_seed(0)  # of the gradient that comes in
        found.append((check(args), *(g for g in gradients(args, GRADIENT_TOL[precision]) if g is not None)))
    assert len(used) > len({name for name, _ in used}) == 6
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            same(two, one, GRADIENT_TOL[precision])


def test_every_candidate_tile_of_the_short_path(monkeypatch):
    args = case(draw(2, 5, 30, 8), precision="bfloat16")
    for lay_tile in tiles.short(90, module.setting(*args[:5], *args[6:]).lay):
        force(monkeypatch, long=False, short=lay_tile.options())
        check(args)


def test_types_of_input_and_weights():
    args = list(case(draw(1, 9, 2, 12)))
    for x, other in ((torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, torch.float16)):
        given_args = [args[0].to(x), *(t.to(other) for t in args[1:5]), *args[5:]]
        same(module.locoformer_attention(*given_args), reference(*given_args), 2e-2)


def test_positions_in_the_thousands(monkeypatch):
    """Angles of thousands of radians: only a float32 product, then an exact cosine, is the reference's rotation."""
    force(monkeypatch, long=True, rows={"ROWS": 1024}, flash={"ROWS": 512, "KEYS": 512})
    check(case(draw(1, 2100, 1, 4), heads=1, head=2, groups=1))


def test_changed_weights_are_laid_out_again():
    args = case(draw(1, 5, 2, 8))
    first = check(args)
    for weight in args[1:5]:
        weight.mul_(1.5)
        second = check(args)
        assert not torch.equal(first, second)
        first = second


def test_silence_and_what_no_kernel_takes():
    assert torch.equal(check(case(torch.zeros(1, 4, 3, 8, device=DEVICE), eps=1e-5), tol=1), torch.zeros(1, 4, 3, 8))
    wide = case(draw(1, 3, 2, 520), head=4)
    int8 = case(draw(1, 3, 2, 8), precision="int8")
    double = tuple(a.double() if torch.is_tensor(a) else a for a in case(draw(1, 3, 2, 8)))
    for args in (wide, int8, double, case(draw(1, 3, 2, 8), head=130), case(draw(0, 3, 2, 8))):
        assert torch.equal(module.locoformer_attention(*args), reference(*args))
        assert module.locoformer_attention_backward(args[0], list(args), (True,) + 10 * (False,)) is None


def gradients(args, tol, need=(True, True, True, True)):
    """The backward launcher's gradients, each held to that of the reference."""
    leaves = [a.detach().requires_grad_() if n else a for a, n in zip(args, need, strict=False)]
    y = reference(*leaves, *args[len(need) :])
    grad = torch.randn_like(y).transpose(1, 2).contiguous().transpose(1, 2)
    expected = iter(torch.autograd.grad(y, [a for a, n in zip(leaves, need, strict=True) if n], grad))
    wanted = (*need, *(False,) * (len(args) - len(need)))
    found = module.locoformer_attention_backward(grad, list(args), wanted)
    assert len(found) == len(args) and [g is not None for g in found] == list(wanted)
    for gradient, wants in zip(found, wanted, strict=True):
        if wants:
            same(gradient, next(expected), tol)
    return found


def check_gradients(args):
    gradients(args, GRADIENT_TOL[args[-1]])


@pytest.mark.parametrize("number, args", list(enumerate(samples(DEVICE, torch.float32))))
def test_gradients_of_the_samples(number, args):
    if not args[0].numel():
        assert module.locoformer_attention_backward(args[0], list(args), (True,) + 10 * (False,)) is None
        return
    check_gradients(args)


@pytest.mark.parametrize("which", range(4))
def test_only_the_gradient_that_is_needed(which):
    gradients(case(draw(1, 6, 2, 12)), GRADIENT_TOL["float32"], tuple(i == which for i in range(4)))


def test_frequencies_are_left_to_the_reference():
    args = case(draw(1, 6, 2, 8))
    assert module.locoformer_attention_backward(args[0], list(args), (True, *3 * (False,), True, *6 * (False,))) is None


def test_gradient_in_bfloat16_throughout():
    args = [a.bfloat16() if torch.is_tensor(a) else a for a in case(draw(1, 20, 2, 12))]
    gradients(args, GRADIENT_TOL["bfloat16"])
