"""Convolutions with the norm in their weights: for inference, and for gradients of images and biases alone."""

import gc
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast.models import _folded
from ussfast.models._folded import SIZES, LaidOut, NormedConv, can_lay_out


def layer(channels_in: int, channels_out: int, up: bool) -> NormedConv:
    torch.manual_seed(channels_in * 10 + channels_out)
    made = NormedConv(channels_in, channels_out, 3, up)
    for tensor in (made.norm.running_mean, made.norm.weight, made.norm.bias):
        torch.nn.init.normal_(tensor)
    torch.nn.init.uniform_(made.norm.running_var, 0.5, 2)
    return made.eval().requires_grad_(False)


def outcome(made: NormedConv, x: torch.Tensor, bias: torch.Tensor) -> list[torch.Tensor]:
    x, bias = x.clone().requires_grad_(), bias.clone().requires_grad_()
    y = made(x, bias)
    weight = torch.linspace(-1, 1, y.numel()).view(y.shape)
    (y.float() * weight).sum().backward()
    return [y.detach().float(), x.grad, bias.grad]


@settings(deadline=None, max_examples=40)
@given(
    st.booleans(), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 13), st.integers(1, 13)
)  # fmt: skip
def test_gradients_of_images_and_biases(up, rows, channels_in, channels_out, height, width):
    made = layer(channels_in, channels_out, up)
    x, bias = torch.randn(rows, channels_in, height, width), torch.randn(rows, channels_out)
    plain = outcome(made, x, bias)
    made.prepare("float32")
    for got, want in zip(outcome(made, x, bias), plain, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-4 * want.abs().max())
    with torch.no_grad():
        assert torch.allclose(made(x, bias), plain[0], rtol=1e-4, atol=1e-4 * plain[0].abs().max())


@pytest.mark.parametrize("up", [False, True])
def test_gradients_in_bfloat16(up, monkeypatch):
    made = layer(16, 8, up)
    x, bias = torch.randn(2, 16, 12, 10), torch.randn(2, 8)
    plain = outcome(made, x, bias)
    monkeypatch.setattr(_folded, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(_folded, "can_lay_out", lambda x: False)  # the plain convolution takes it on any CPU
    made.prepare("bfloat16")
    assert made(x, bias).dtype == torch.bfloat16
    for got, want in zip(outcome(made, x, bias), plain, strict=True):
        assert got.dtype == want.dtype
        assert (got - want).norm() < 0.02 * want.norm()


def test_what_is_kept_for_gradients_is_a_byte_per_number():
    made = layer(8, 8, False)
    made.prepare("float32")
    kept = []

    def pack(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    x, bias = torch.randn(1, 8, 32, 32, requires_grad=True), torch.randn(1, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = made(x, bias)
    assert kept == [y.numel()]


def test_no_gradient_is_made_that_nobody_asks_for():
    made = layer(1, 8, False)
    made.prepare("float32")
    x, bias = torch.randn(1, 1, 8, 8), torch.randn(1, 8, requires_grad=True)
    made(x, bias).sum().backward()
    assert x.grad is None and torch.equal(bias.grad, torch.full((1, 8), 64.0))
    assert not made._prepared._back._kept


def test_weights_are_laid_out_once_per_size_of_images():
    weight = torch.randn(4, 3, 3, 3)
    run = LaidOut(lambda: weight, 1)
    shapes = [(1, 3, 8, 8), (2, 3, 5, 7), (1, 3, 16, 4)]
    for shape in (*shapes, *shapes):
        x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        want = torch.nn.functional.conv2d(x, weight, padding=1)
        assert torch.allclose(run(x, None), want, atol=1e-5)
        assert torch.allclose(run(x, None, relu=True), want.relu(), atol=1e-5)
    if can_lay_out(weight):
        assert list(run._kept) == [torch.Size(shape) for shape in shapes[-SIZES:]]


def test_several_threads_with_images_of_their_own():
    weight, wrong = torch.randn(4, 3, 3, 3), []
    run = LaidOut(lambda: weight, 1)

    def work(height: int) -> None:
        for _ in range(50):
            x = torch.randn(1, 3, height, 6).contiguous(memory_format=torch.channels_last)
            if not torch.allclose(run(x, None), torch.nn.functional.conv2d(x, weight, padding=1), atol=1e-5):
                wrong.append(height)

    threads = [threading.Thread(target=work, args=(4 + i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_prepared_goes_with_the_layer():
    made = layer(3, 4, True)
    made.prepare("float32")
    with torch.no_grad():
        made(torch.randn(1, 3, 8, 8), torch.zeros(1, 4))
    gone = weakref.ref(made)
    gc.disable()  # by its references alone
    try:
        del made
        assert gone() is None
    finally:
        gc.enable()
