"""model_flop against what PyTorch's counter sees in a run of the reference, and ops' counts against both."""

import dataclasses

import pytest
import torch
from tiny import CAUSAL, RATE, SFC, STACK, STEREO, STFT, TUSS, TUSS_SFC, UNCONDITIONAL
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ussfast import stft
from ussfast.errors import InputError
from ussfast.models import build
from ussfast.models.asp_unet import AspUnetConfig
from ussfast.models.chimera import ChimeraConfig
from ussfast.models.config import FfnConfig, StackConfig
from ussfast.models.presets import preset
from ussfast.models.tflocoformer import TfLocoformerConfig
from ussfast.ops import use_reference
from ussfast.ops._op import OPS
from ussfast.profiling.flops import model_flop
from ussfast.stft import StftConfig

POINTWISE = dataclasses.replace(
    STACK, blocks=2, freq_ffn=(FfnConfig(6), FfnConfig(10)), time_ffn=(FfnConfig(8),), attention_dim=12
)
CONVOLVING = dataclasses.replace(STACK, freq_ffn=(FfnConfig(8, 2),), time_ffn=(FfnConfig(8, 4), FfnConfig(8, 4, 2)))
TFLOCOFORMER = TfLocoformerConfig(RATE, STFT, sources=2, stack=POINTWISE)
ASP_UNET = AspUnetConfig(RATE, dataclasses.replace(STFT, padding="reflect"), 7, (3, 4, 6), 5)
CHIMERA = ChimeraConfig(RATE, STFT, hidden=5, layers=3, embedding=4, sources=2)
MODELS = {
    "tuss": dataclasses.replace(TUSS, cross_prompt=POINTWISE, extraction=POINTWISE, decoder_expansion=3),
    "tuss without start row": dataclasses.replace(TUSS, cross_prompt=POINTWISE, extraction=POINTWISE, sos=False),
    "bslocoformer": dataclasses.replace(UNCONDITIONAL, first=POINTWISE, second=POINTWISE),
    "tflocoformer": TFLOCOFORMER,
    "sfc, stereo": dataclasses.replace(STEREO, first=POINTWISE),
    "sfc, learnable": dataclasses.replace(
        TUSS_SFC, cross_prompt=POINTWISE, extraction=POINTWISE, sfc=dataclasses.replace(SFC, ffn=0)
    ),
    "sfc, adaptive": dataclasses.replace(
        TUSS_SFC, cross_prompt=POINTWISE, extraction=POINTWISE, sfc=dataclasses.replace(TUSS_SFC.sfc, ffn=3)
    ),
    "causal": CAUSAL,
    "asp_unet": ASP_UNET,
    "chimera": CHIMERA,
    "chimera, clusters": dataclasses.replace(CHIMERA, masks=False, cell="gru", bidirectional=False, layers=1),
}
SAMPLES = 4000


def counted(config, samples, sources, batch, device="cpu"):
    """Operations of one reference run by PyTorch's counter; on the meta device nothing is computed."""
    with torch.device(device):
        model = build(config).eval().requires_grad_(False)  # the counter's hooks stumble over views of parameters
        channels = [config.channels] if getattr(config, "channels", 1) > 1 else []
        frames = stft.frame_count(samples, config.stft)
        spec = torch.zeros(batch, *channels, frames, config.stft.bins, dtype=torch.complex64)
        size = model.prompt_size
        prompts = torch.zeros(sources, size) if size is not None else None
    # Of attention and recurrent layers, the counter does not know the CPU's kernels; the plain products it does.
    plain = sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False)
    with FlopCounterMode(display=False) as counter, plain[0], plain[1], torch.no_grad(), use_reference():
        model(spec, prompts)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch", [1, 3])
def test_without_convolutions_along_sequences_the_counts_are_equal(name, batch):
    config = MODELS[name]
    sources = getattr(config, "sources", 2)
    assert model_flop(config, SAMPLES, sources, batch) == counted(config, SAMPLES, sources, batch)


@pytest.mark.parametrize("name", [n for n in MODELS if n.split(",")[0] not in ("causal", "asp_unet", "chimera")])
def test_convolutions_of_stacks_count_with_their_border(name):
    stacks = {
        f.name for f in dataclasses.fields(MODELS[name]) if isinstance(getattr(MODELS[name], f.name), StackConfig)
    }
    config = dataclasses.replace(MODELS[name], **dict.fromkeys(stacks, CONVOLVING))
    sources = getattr(config, "sources", 2)
    assert model_flop(config, SAMPLES, sources) == counted(config, SAMPLES, sources, 1)


def test_a_published_model():
    """The figure that speeds of TUSS are quoted with: 2 prompts, 6 s, per second of audio."""
    config = preset("tuss-medium")
    ours = model_flop(config, 6 * 48000, 2)
    assert 92.5e9 < ours / 6 < 93.5e9
    assert ours == counted(config, 6 * 48000, 2, 1, "meta")


def test_a_fixed_number_of_sources():
    with pytest.raises(InputError, match="sources 2: this model always returns 3"):
        model_flop(UNCONDITIONAL, SAMPLES, 2)


def test_an_unknown_configuration():
    with pytest.raises(TypeError, match="no count"):
        model_flop(type("Config", (), {"stft": STFT, "sources": 1})(), SAMPLES, 1)


@pytest.mark.parametrize("padding", ["zero", "reflect"])
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("sizes", [(128, 64, 128), (128, 48, 128), (128, 30, 100), (64, 64, 64)])
def test_frames_are_those_of_the_stft(padding, drop, sizes):
    config = StftConfig(*sizes, padding=padding, drop_last_frame=drop)
    for samples in (2, 31, 32, 33, 64, 65, 500, 513):
        frames = stft.drop_frame(stft.analyze(torch.randn(1, samples), config), config).shape[1]
        assert stft.frame_count(samples, config) == frames >= 1


@pytest.mark.parametrize("name", [name for name, spec in OPS.items() if spec.flop])
def test_an_op_counts_no_more_than_its_reference_does(name):
    spec = OPS[name]
    for args in spec.samples(torch.device("cpu"), torch.float32):
        ours = spec.flop(*args)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            spec.reference(*args)
        theirs = counter.get_total_flops()
        assert isinstance(ours, int) and 0 <= ours <= theirs and (ours > 0) == (theirs > 0)


@pytest.mark.parametrize("axis", [1, 2])
def test_the_feed_forward_layers_of_a_stack(axis):
    """The op's count is the model's: 6 * rows * hidden * channels * kernel."""
    shape, hidden, kernel = (2, 10, 20, 8), 6, 4
    x, w1, w2 = torch.zeros(shape), torch.zeros(2 * hidden, 8, kernel), torch.zeros(hidden, 8, kernel)
    for stride in (1, 2):
        bias, args = torch.zeros(8), (None, axis, 2, 1e-5, stride, "float32")
        count = OPS["locoformer_ffn"].flop(x, bias, w1, torch.zeros(2 * hidden), w2, bias, *args)
        length, others = shape[axis], 2 * 10 * 20 // shape[axis]
        steps = -(-(length + kernel - stride) // stride)
        assert count == 6 * others * steps * hidden * 8 * kernel
