"""Gradients of inputs alone, as a prompt is tuned: kernels against autograd of the reference in float64.

That reference is held to numerical derivatives in test_contract.py (test_registration_and_gradient).
"""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast import _ext
from ussfast.ops import _op, use_reference
from ussfast.ops._op import OPS, TRAINING
from ussfast.ops.biased_cross_attention import pack as pack_bias
from ussfast.ops.locoformer_attention import pack as pack_weights

pytestmark = [
    pytest.mark.usefixtures("nan_filled_empty"),
    pytest.mark.skipif(_op.IMPL != "native" or _ext.cpu_isa() is None, reason="the reference has no kernels"),
]

# Places of the arguments whose gradients have kernels.
INPUTS = {"locoformer_attention": (0,), "biased_cross_attention": (0, 1, 2), "stft_mask": (0,)}
TOL = 2e-6  # distance from float64 over its norm
KERNELS = "_TrainedBackward"


def gradients(function, arguments, places, wide=False):
    """The result's gradient function, and the gradients of some arguments for one fixed gradient of the result."""
    args = [a.detach() if torch.is_tensor(a) else a for a in arguments]
    if wide:
        args = [a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in args]
    leaves = [args[i].requires_grad_() for i in places]
    out = function(*args)
    # Without a period: where sources' gradients are nearly equal, the consistency correction leaves only rounding.
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out.dtype)
    return type(out.grad_fn).__name__, torch.autograd.grad(out, leaves, weight)


def check(name, args, places=None, tol=TOL):
    spec, places = OPS[name], INPUTS[name] if places is None else places
    by, found = gradients(spec, args, places)
    assert by == KERNELS
    _, wanted = gradients(spec.reference, args, places, wide=True)
    for place, a, b in zip(places, found, wanted, strict=True):
        assert a.shape == b.shape and a.dtype == torch.float32
        # The softmax of one key has no gradient at all, that of few a small one of larger numbers.
        least = 0 if name == "stft_mask" else TOL * b.numel() ** 0.5
        assert (a - b).norm() <= tol * b.norm() + least, f"argument {place}: {(a - b).norm() / b.norm():.2g}"


def cases():
    torch.manual_seed(0)
    for name in INPUTS:
        for i, args in enumerate(OPS[name].samples(torch.device("cpu"), torch.float32)):
            yield pytest.param(name, args, id=f"{name}-{i}")


@pytest.mark.parametrize("name, args", list(cases()))
def test_samples(name, args):
    check(name, args)


def attention(batch, frames, bands, group, groups, half, heads, axis, rope=True, eps=1e-5):
    channels, width = group * groups, 2 * half * heads
    return (
        torch.randn(batch, frames, bands, channels),
        torch.rand(channels) + 0.5,
        torch.randn(3 * width, channels) * channels**-0.5,
        torch.randn(channels, width) * width**-0.5,
        torch.rand(half) if rope else None,
        None, axis, groups, eps, heads, "float32",
    )  # fmt: skip


LENGTHS = st.integers(1, 40) | st.sampled_from([95, 96, 97, 130])  # a block of keys is 48 or 96


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 2), length=LENGTHS, other=st.integers(1, 3), group=st.integers(1, 19),
    groups=st.integers(1, 5), half=st.integers(1, 18), heads=st.integers(1, 3), axis=st.sampled_from([1, 2]),
    rope=st.booleans(),
)  # fmt: skip
def test_attention_of_any_shape(batch, length, other, group, groups, half, heads, axis, rope):
    frames, bands = (length, other) if axis == 1 else (other, length)
    args = attention(batch, frames, bands, group, groups, half, heads, axis, rope)
    # In groups of one or two channels normalised values are near signs, and gradients the difference of near numbers.
    check("locoformer_attention", args, tol=TOL if group > 2 else 2e-4)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_attention_as_in_tuss(precision, axis):
    *args, _ = attention(1, 300, 61, 16, 4, 16, 4, axis)
    check("locoformer_attention", (*args, precision))


def test_attention_with_sharp_scores():
    x, norm, qkv, *rest = attention(1, 150, 2, 8, 2, 4, 2, 1)
    args, spec = (x, norm, qkv * 6, *rest), OPS["locoformer_attention"]
    _, (wanted,) = gradients(spec.reference, args, (0,), wide=True)
    # Scores in the hundreds have few digits behind the point: no float32 is better.
    mine, plain = ((gradients(f, args, (0,))[1][0] - wanted).norm() for f in (spec, spec.reference))
    assert mine <= 2 * plain < 2e-4 * wanted.norm()


def test_attention_with_packed_weights():
    args = list(attention(1, 20, 5, 8, 2, 4, 2, 1))
    args[5] = pack_weights(*args[1:4], 2, 2, "float32")
    check("locoformer_attention", args)


def test_silence_has_the_gradient_of_a_small_sound():
    args = attention(1, 9, 2, 4, 2, 4, 2, 1, eps=0.1)
    args[0][0, 3, 0] = 0
    _, (found,) = gradients(OPS["locoformer_attention"], args, (0,))
    args[0][0, 3, 0] = 1e-7  # the reference takes the root of 0 there, and has no gradient
    _, (wanted,) = gradients(OPS["locoformer_attention"].reference, args, (0,), wide=True)
    torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-4)


def cross(batch, queries, keys, heads, width, bias=True, slope=True, shared=False):
    return (
        torch.randn(1 if shared else batch, queries, heads, width),
        torch.randn(batch, keys, heads, width),
        torch.randn(batch, keys, heads, width),
        torch.randn(heads, queries, keys) if bias else None,
        torch.rand(heads) if bias and slope else None,
        None,
    )


@settings(max_examples=40, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 17]), queries=LENGTHS, keys=LENGTHS, heads=st.integers(1, 3), width=st.integers(1, 35),
    bias=st.booleans(), slope=st.booleans(), shared=st.booleans(),
)  # fmt: skip
def test_cross_attention_of_any_shape(batch, queries, keys, heads, width, bias, slope, shared):
    check("biased_cross_attention", cross(batch, queries, keys, heads, width, bias, slope, shared), tol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("places", [(0,), (1,), (2,), (0, 2)])
def test_cross_attention_gives_what_is_asked_for(places, shared):
    check("biased_cross_attention", cross(3, 20, 30, 2, 6, shared=shared), places)


def test_cross_attention_with_packed_bias():
    args = list(cross(2, 40, 50, 2, 8))
    args[3][:, :, ::3] = float("-inf")
    args[5] = pack_bias(args[3], args[4])
    check("biased_cross_attention", args)


def masks(batch, sources, frames, n_fft, hop, samples, window, normalized=False, masked=True, consistency=False):
    bins = n_fft // 2 + 1
    return (
        torch.randn(batch, sources, frames, bins, 2),
        torch.randn(batch, frames, bins, 2) if masked else None,
        torch.rand(window) + 0.5,
        n_fft, hop, samples, normalized, consistency,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_masks_of_any_sizes(data):
    n_fft = data.draw(st.integers(1, 40), "n_fft")
    window = data.draw(st.integers(1, n_fft), "window")
    hop = data.draw(st.integers(1, window), "hop")
    frames = data.draw(st.integers(1, 60) | st.integers(250, 600), "frames")
    samples = data.draw(st.integers(0, frames * hop + 2 * n_fft), "samples")
    batch, sources = data.draw(st.integers(1, 2), "batch"), data.draw(st.integers(1, 3), "sources")
    masked = data.draw(st.booleans(), "masked")
    args = masks(
        batch, sources, frames, n_fft, hop, samples, window, data.draw(st.booleans(), "normalized"), masked,
        masked and data.draw(st.booleans(), "consistency"),
    )  # fmt: skip
    check("stft_mask", args)


@pytest.mark.parametrize("n_fft, window", [(2048, 2048), (1536, 1024), (1018, 1000)])
def test_masks_in_several_blocks(n_fft, window):
    check("stft_mask", masks(2, 2, 150, n_fft, 256, 150 * 256, window, consistency=True))


LARGE = {
    "locoformer_attention": lambda: attention(1, 150, 7, 16, 4, 12, 3, 1),
    "biased_cross_attention": lambda: cross(20, 70, 150, 3, 12, shared=True),
    "stft_mask": lambda: masks(2, 2, 200, 768, 192, 200 * 192, 700, consistency=True),
}


@pytest.mark.parametrize("name", LARGE)
def test_threads_do_not_change_a_bit(name):
    args, before, found = LARGE[name](), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(gradients(OPS[name], args, INPUTS[name])[1])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


@pytest.mark.parametrize("name", LARGE)
def test_a_gradient_of_any_strides(name):
    args = [a.requires_grad_(i in INPUTS[name]) if torch.is_tensor(a) else a for i, a in enumerate(LARGE[name]())]
    leaves = [args[i] for i in INPUTS[name]]
    found = torch.autograd.grad(OPS[name](*args).sum(), leaves)  # the same number everywhere: strides of 0
    wanted = torch.autograd.grad(OPS[name](*args), leaves, torch.ones_like(OPS[name](*args)))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", LARGE)
def test_kernels_do_what_they_can_only(name):
    args = LARGE[name]()
    first = INPUTS[name][-1] + 1
    for place in range(first, len(args)):
        if not torch.is_tensor(args[place]):
            continue
        by, found = gradients(OPS[name], args, (*INPUTS[name], place))
        assert by != KERNELS
        _, wanted = gradients(OPS[name].reference, args, (*INPUTS[name], place))
        torch.testing.assert_close(found, wanted)
    wide = [a.double() if torch.is_tensor(a) else a for a in args]
    assert gradients(OPS[name], wide, INPUTS[name])[0] != KERNELS
    with use_reference():
        assert gradients(OPS[name], args, INPUTS[name])[0] != KERNELS
    assert not TRAINING["locoformer_attention"].takes((*attention(1, 3, 2, 4, 1, 2, 1, 1)[:-1], "int8"))


def test_second_derivatives_are_those_of_the_reference():
    args = masks(1, 2, 3, 8, 2, 6, 8)

    def second(function):
        mask = args[0].detach().requires_grad_()
        (first,) = torch.autograd.grad(function(mask, *args[1:]).square().sum(), mask, create_graph=True)
        return torch.autograd.grad(first.square().sum(), mask)[0]

    torch.testing.assert_close(second(OPS["stft_mask"]), second(OPS["stft_mask"].reference), rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused():
    private = torch.ops.ussfast
    args = attention(1, 9, 2, 4, 2, 4, 2, 1)
    out, kept = private._locoformer_attention_forward(*args)
    with pytest.raises(RuntimeError, match="does not fit"):
        private._locoformer_attention_backward(out[:, 1:], kept, *args)
    with pytest.raises(RuntimeError, match="does not fit"):
        private._locoformer_attention_backward(out, kept[1:], *args)
    with pytest.raises(RuntimeError, match="int8"):
        private._locoformer_attention_backward(out, kept, *args[:-1], "int8")
    args = cross(2, 5, 6, 2, 4)
    out, kept = private._biased_cross_attention_forward(*args)
    for wrong in ((out[:1], out, kept), (out, out[:1], kept), (out, out, kept[:1]), (out, out, kept.double())):
        with pytest.raises(RuntimeError, match="does not fit"):
            private._biased_cross_attention_backward(*wrong, *args)
    with pytest.raises(RuntimeError, match="does not fit"):
        private._stft_mask_backward(torch.randn(1, 2, 7), *masks(1, 2, 3, 8, 2, 6, 8))


FORCED = """
import sys, torch
torch.set_num_threads(1)
from ussfast import _ext, ops
from ussfast.ops._op import OPS
arguments = torch.load(sys.argv[1])
out = {}
for name, (places, args) in arguments.items():
    args = [a.requires_grad_(i in places) if torch.is_tensor(a) else a for i, a in enumerate(args)]
    y = OPS[name](*args)
    assert type(y.grad_fn).__name__ == "_TrainedBackward"
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    out[name] = torch.autograd.grad(y, [args[i] for i in places], weight)
torch.save((_ext.cpu_isa(), out), sys.argv[2])
"""


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "avx512_vnni", "avx512_bf16"])
def test_every_instruction_set(tmp_path, isa):
    arguments = {name: (INPUTS[name], make()) for name, make in LARGE.items()}
    torch.save(arguments, tmp_path / "arguments")
    command = [sys.executable, "-c", FORCED, tmp_path / "arguments", tmp_path / "found"]
    run = subprocess.run(command, env=os.environ | {"USSFAST_FORCE_ISA": isa}, text=True, capture_output=True)
    if "this CPU has only" in run.stderr:
        pytest.skip(f"this CPU has no {isa}")
    assert run.returncode == 0, run.stderr
    used, found = torch.load(tmp_path / "found")
    assert used == isa
    for name, (places, args) in arguments.items():
        _, wanted = gradients(OPS[name].reference, args, places, wide=True)
        for a, b in zip(found[name], wanted, strict=True):
            assert (a - b).norm() <= TOL * b.norm(), f"{name}: {(a - b).norm() / b.norm():.2g}"
