"""What the recorded outputs of ChimeraNet cannot show: how it begins, other settings, clusters, and what is refused."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from chimera_models import CONFIG, random_chimera, tiny
from golden_io import arrays
from sklearn.cluster import KMeans

from ussfast.errors import InputError
from ussfast.models.chimera import Chimera, activated
from ussfast.models.clustering import cluster_masks
from ussfast.models.presets import preset


def drawn(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_how_weights_begin(cell):
    model = random_chimera(cell=cell, hidden=64)
    for name, value in model.rnn.named_parameters():
        if "weight" in name:  # Xavier's normal distribution
            assert value.std().item() == pytest.approx((2 / sum(value.shape)) ** 0.5, rel=0.1), name
        else:
            quarter = len(value) // 4
            assert value[quarter : 2 * quarter].eq(1).all() and value.sum() == quarter, name
    for head in (model.embedding, model.mask):
        assert not head.bias.any()
        assert head.weight.std().item() == pytest.approx((2 / sum(head.weight.shape)) ** 0.5, rel=0.1)


def test_other_settings():
    spec = torch.complex(drawn(2, 7, 65), drawn(2, 7, 65, seed=1))
    for changes in ({"cell": "gru"}, {"bidirectional": False}, {"norm": "instance"}, {"layers": 1}, {"sources": 3}):
        model = random_chimera(**changes)
        masks = model(spec, None)
        assert masks.shape == (2, changes.get("sources", 2), 7, 65, 2)
        assert not masks[..., 1].any() and ((masks[..., 0] > 0) & (masks[..., 0] < 1)).all()
        masks.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert model.rnn.weight_ih_l0.grad.any() and model.embedding.weight.grad is None
    assert set(random_chimera(norm="instance").state_dict()) == {k for k in tiny().state_dict() if "norm." not in k}


def test_instance_norm_is_of_each_recording_by_itself():
    model = random_chimera(norm="instance")
    both = model.normed(drawn(2, 7, 65).abs() * torch.tensor([1.0, 0.01]).view(2, 1, 1))
    torch.testing.assert_close(both.mean((1, 2)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(both.var((1, 2), correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_silence_has_a_floor_and_finite_gradients():
    model = random_chimera()
    spec = torch.zeros(1, 4, 65, dtype=torch.complex64, requires_grad=True)
    heads = model.heads(model.magnitude(spec))
    (heads.mask.sum() + heads.embedding.sum()).backward()
    assert spec.grad.isfinite().all()
    assert model.normed(torch.zeros(1, 2, 65)).allclose(model.normed(torch.full((1, 2, 65), 1e-4)))


def test_activations():
    x = torch.tensor([[-1.0, 0.5, 2.0]])
    # The order in which they are listed does not matter, and only the first of the fixed order is taken.
    assert torch.equal(activated(x, ("softmax", "relu", "tanh", "sigmoid")), x.sigmoid())
    assert torch.equal(activated(x, ("softmax", "tanh")), x.tanh())
    assert torch.equal(activated(x, ("unit_norm", "relu")), x.relu() / x.relu().norm())
    assert torch.equal(activated(x, ("softmax",)), x.softmax(-1))
    torch.testing.assert_close(activated(x, ("l1_norm",)), x / 3.5)
    assert torch.equal(activated(x, ()), x) and not activated(torch.zeros(1, 3), ("unit_norm",)).any()


def test_masks_of_clusters_as_written_out():
    given, wanted = arrays("chimera_tiny", "inputs"), arrays("chimera_tiny", "outputs")
    embedding, magnitude = wanted["embedding"], given["mix_magnitude"]
    loud = magnitude.numpy() >= np.percentile(magnitude.numpy(), 90)
    centres = KMeans(2, n_init=10, random_state=0).fit(embedding.numpy()[loud]).cluster_centers_
    distance = np.linalg.norm(embedding.numpy()[..., None, :] - centres, axis=-1)
    near = np.exp(-5 * distance) + 1e-8
    found = cluster_masks(embedding[None], magnitude[None], 2)
    np.testing.assert_allclose(found[0].numpy(), near / near.sum(-1, keepdims=True), atol=1e-5)
    assert torch.equal(found, cluster_masks(embedding[None], magnitude[None], 2))  # the same each time


def test_clusters_are_the_sources():
    """Embeddings that say of each bin whose it is."""
    whose = torch.randint(3, (2, 20, 65), generator=torch.Generator().manual_seed(0))
    masks = cluster_masks(torch.eye(3)[whose], torch.rand(2, 20, 65), 3)
    assert masks.shape == (2, 20, 65, 3)
    for item, mask in zip(whose, masks, strict=True):
        sure, cluster = mask.max(-1)
        assert sure.min() > 0.99
        assert len({(a, b) for a, b in zip(item.flatten().tolist(), cluster.flatten().tolist(), strict=True)}) == 3


@pytest.mark.filterwarnings("error")
def test_clusters_of_little():
    silence = cluster_masks(torch.zeros(1, 4, 65, 5), torch.zeros(1, 4, 65), 2)
    torch.testing.assert_close(silence, torch.full((1, 4, 65, 2), 0.5))
    few = cluster_masks(torch.rand(1, 1, 2, 5), torch.rand(1, 1, 2), 3)  # fewer bins than clusters
    torch.testing.assert_close(few, torch.full((1, 1, 2, 3), 1 / 3))
    one = cluster_masks(torch.rand(1, 1, 3, 5), torch.tensor([[[1.0, 2.0, 3.0]]]), 2)  # only one of them is loud
    assert one.isfinite().all() and one.sum(-1).allclose(torch.ones(1, 1, 3))


def test_without_a_head_for_masks_there_are_clusters():
    model = random_chimera(masks=False)
    assert model.mask is None and not model.recordable and random_chimera().recordable
    spec = torch.complex(drawn(1, 30, 65), drawn(1, 30, 65, seed=1))
    masks, embedding = model(spec, None), model.heads(spec.abs()).embedding
    assert torch.equal(masks[..., 0].permute(0, 2, 3, 1), cluster_masks(embedding, spec.abs(), 2))
    assert not masks.requires_grad


def test_scikit_learn_is_only_needed_for_clusters(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("sklearn")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    spec = torch.complex(drawn(1, 30, 65), drawn(1, 30, 65, seed=1))
    random_chimera()(spec, None)
    with pytest.raises(InputError, match=r"needs scikit-learn: pip install 'ussfast\[clustering\]'"):
        random_chimera(masks=False)(spec, None)


def test_configurations_that_cannot_be():
    for changes, says in (
        ({"masks": False, "embedding": 0}, "needs a head"),
        ({"masks": False, "labels": ("a", "b")}, "labels are for masks"),
        ({"labels": ("a",)}, "sources 2 and labels"),
        ({"mask_activation": ("gelu",)}, "mask_activation.0. must be one of"),
        ({"dropout": 1.0}, "dropout must be 0 to 0.95"),
        ({"hidden": 0}, "hidden must be 1 to"),
        ({"cell": "rnn"}, "cell must be one of"),
    ):
        with pytest.raises(InputError, match=says):
            replace(CONFIG, **changes)


def test_published_sizes():
    config = preset("chimera")
    assert (config.hidden, config.layers, config.embedding, config.sample_rate) == (500, 4, 20, 16000)
    assert (config.stft.n_fft, config.stft.hop, config.stft.window) == (512, 128, "sqrt_hann")
    with torch.device("meta"):
        assert Chimera(preset("chimera-wham")).parameter_count() == 32_866_040
