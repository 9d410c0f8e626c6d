"""SNR and SDR by hand and against museval, and ideal masks."""

import numpy as np
import pytest
import torch
from tiny import STFT, noise

from ussfast.evaluate.metrics import audible, level_db, sdr, si_sdr, snr
from ussfast.evaluate.oracle import ORACLES, oracle_estimates, phase_sensitive_mask, ratio_mask
from ussfast.stft import StftConfig, analyze

RATE = 8000


def pair(seed, samples):
    """References and estimates, float64 [2, samples]: the first estimate gets better, the second worse."""
    one, other = np.random.default_rng(seed).standard_normal((2, samples))
    swell = np.linspace(0.05, 1, samples)
    references = np.stack([0.3 * one, 0.2 * other])
    return references, np.stack([0.3 * one * swell + 0.05 * other, 0.1 * other + 0.1 * one * swell])


def test_snr_by_hand():
    # |s|^2 = 10, |s - e|^2 = 1; scaling costs: 10 / (1 + 1).
    assert snr(np.array([3.0, 2.0]), np.array([3.0, 1.0])) == pytest.approx(10)
    assert snr(np.array([2.0, 0.0]), np.array([3.0, 1.0])) == pytest.approx(10 * np.log10(5))
    reference = noise(1, 500)
    assert snr(0 * reference, reference) == pytest.approx(0) and snr(reference, reference) == 100
    assert snr(2 * reference, reference) == pytest.approx(0) and si_sdr(2 * reference, reference) == 100


# museval 0.4.1: bss_eval(references, estimates, window=16000, hop=16000, bsseval_sources_version=False,
# framewise_filters=False), SDR of each 2 s segment; where the first reference is silent it gives no figure.
MUSEVAL = {
    (0, 45000): [[1.8849325920535673, 6.343263169264618], [5.771254772079604, 4.864299856768866]],
    (1, 80000): [[1.1787802334538269, None, 5.939516791614113, 9.49291407884536, 14.06602007561214],
                 [5.916261631990779, None, 4.963878736434283, 4.223644565689796, 3.4001433188396604]],
}  # fmt: skip


@pytest.mark.parametrize("case", MUSEVAL, ids=str)
def test_sdr_is_that_of_museval(case):
    references, estimates = pair(*case)
    if case[0] == 1:
        references[:, 16000:32000] = 0  # museval skips a segment for all sources if one is silent
    for reference, estimate, expected in zip(references, estimates, MUSEVAL[case], strict=True):
        for i, value in enumerate(expected):
            part = slice(16000 * i, 16000 * (i + 1))
            found = sdr(estimate[part], reference[part], RATE)
            assert found is None if value is None else found == pytest.approx(value, abs=1e-9)
        median = np.median([value for value in expected if value is not None])
        assert sdr(estimate, reference, RATE) == pytest.approx(median, abs=1e-9)


def test_sdr_takes_whole_loud_segments():
    reference = noise(1, 40000)[0]
    estimate = reference + 0.1 * noise(1, 40000, seed=1)[0]
    spoilt = estimate.copy()
    spoilt[32000:] = 9  # after the last whole segment
    assert sdr(spoilt, reference, RATE) == sdr(estimate, reference, RATE)
    half = estimate.copy()
    half[:16000] = 0
    assert sdr(half, reference, RATE) == pytest.approx(snr(estimate[16000:32000], reference[16000:32000]))
    assert sdr(0 * estimate, reference, RATE) is None and sdr(estimate[:15999], reference[:15999], RATE) is None
    assert sdr(estimate[:999], reference[:999], RATE, seconds=0.1) == snr(estimate[:800], reference[:800])


def test_levels():
    mixture = noise(1, 800)[0]
    assert level_db(0.1 * mixture, mixture) == pytest.approx(-20) and level_db(0 * mixture, mixture) == -100
    rms = np.sqrt(np.mean(mixture**2))
    assert audible(mixture / rms * 0.00101) and not audible(mixture / rms * 0.00099)
    assert audible(mixture, floor_db=20 * np.log10(rms) - 0.1) and not audible(mixture, 20 * np.log10(rms) + 0.1)


def test_masks_by_hand():
    one, other = torch.tensor([[3 + 0j, 1j, 0j, 2 + 0j]]), torch.tensor([[1 + 0j, 1 + 0j, 0j, -1 + 0j]])
    sources = torch.stack([one, other])
    expected = torch.tensor([[[0.9, 0.5, 0, 0.8]], [[0.1, 0.5, 0, 0.2]]])
    torch.testing.assert_close(ratio_mask(sources), expected)
    # Shares of the mixture 4, 1+j, 0, 1; the last two are 2 and -1 before they are clipped.
    expected = torch.tensor([[[0.75, 0.5, 0, 1]], [[0.25, 0.5, 0, 0]]])
    torch.testing.assert_close(phase_sensitive_mask(sources), expected)


@pytest.mark.parametrize("config", [STFT, StftConfig(256, 64, 256, window="hann", padding="reflect")], ids=str)
def test_oracles(config):
    time = np.arange(6000) / RATE
    tone = (0.3 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    references = np.stack([tone, noise(1, 6000)[0]])
    mixture = references.sum(0)
    found = oracle_estimates(mixture, references, config)
    assert tuple(found) == ORACLES
    reached = {name: [snr(e, r) for e, r in zip(of, references, strict=True)] for name, of in found.items()}
    for j, reference in enumerate(references):
        assert reached["oracle_psm"][j] > reached["oracle_irm"][j] > snr(mixture, reference) + 6
    # Shares of the ratio mask add up to the mixture.
    np.testing.assert_allclose(found["oracle_irm"].sum(0), mixture, atol=1e-5)
    # No other mask in 0..1 comes closer to the spectrum, so none of a hundred random changes does.
    spectrum, sources = analyze(torch.from_numpy(mixture)[None], config), analyze(torch.from_numpy(references), config)
    mask = phase_sensitive_mask(sources)
    error = (mask * spectrum - sources).abs().square().sum()
    for _ in range(100):
        other = (mask + 0.1 * torch.randn_like(mask)).clamp(0, 1)
        assert (other * spectrum - sources).abs().square().sum() > error
