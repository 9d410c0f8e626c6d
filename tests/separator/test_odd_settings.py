"""Settings that cannot be: one line that names them, at once, and no memory taken for them."""

import decimal
import fractions

import numpy as np
import pytest
import soundfile
from tiny import CAUSAL, RATE, SHORT, TUSS, UNCONDITIONAL, noise, tiny_model

from ussfast import AudioError, InputError, SegmentPolicy, Separator, UssfastError
from ussfast.engine.settings import Settings
from ussfast.values import flag, number, shown, whole

ODD = (
    float("nan"), float("inf"), -float("inf"), -1, "1", True, np.True_, [1], (), {}, 1 + 2j, 1e300, 10**5000, object(),
    np.ones(3), np.float64("nan"), fractions.Fraction(10**400, 3), decimal.Decimal(1), b"1", lambda: 1,
)  # fmt: skip
NUMBERS = ("segment", "overlap", "look_ahead", "batch", "max_attenuation")
WORDS = ("sum_to_mixture", "channels", "stitch", "dtype", "backend", "device")


def one_line(make):
    with pytest.raises(UssfastError) as error:
        make()
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    return str(error.value)


@pytest.mark.parametrize("config", [CAUSAL, TUSS], ids=["causal", "tuss"])
@pytest.mark.parametrize("name", NUMBERS + WORDS)
def test_separators(config, name):
    model = tiny_model(config)
    odd = [v for v in ODD if not (name == "sum_to_mixture" and isinstance(v, (bool, np.bool_)))]
    for value in odd:
        says = one_line(lambda: Separator.from_model(model, "speech", **{"device": "cpu", name: value}))  # noqa: B023
        assert name in says


@pytest.mark.parametrize(("name", "value"), [("segment", 1e12), ("segment", 1e-9), ("batch", 2**40), ("batch", 0),
                                             ("batch", 1.5), ("max_attenuation", 1e12)])  # fmt: skip
def test_out_of_range(name, value):
    assert name in one_line(lambda: Separator.from_model(tiny_model(), "speech", device="cpu", **{name: value}))


def test_an_overlap_of_more_than_the_segment():
    for policy in ({"segment": 1, "overlap": 1}, {"segment": 1, "overlap": 2}):
        with pytest.raises(InputError, match="overlap from 0 s to below the segment"):
            Separator.from_model(tiny_model(), "speech", device="cpu", **policy)
    with pytest.raises(InputError, match="solve_permutation"):
        SegmentPolicy(1, 0.1, "published", "yes")


def test_numbers_of_every_type_are_taken_as_plain_ones():
    settings = Settings(batch=np.int64(3), max_attenuation=np.float32(6), sum_to_mixture=np.True_)
    assert settings == Settings(batch=3, max_attenuation=6.0, sum_to_mixture=True)
    assert [type(v) for v in (settings.batch, settings.max_attenuation, settings.sum_to_mixture)] == [int, float, bool]
    audio = noise(1, 900)
    one = Separator.from_model(
        tiny_model(), "speech", device="cpu", segment=np.float32(0.5), overlap=np.int64(0), look_ahead=0,
        max_attenuation=np.int16(6), sum_to_mixture=np.True_,
    )  # fmt: skip
    assert one.separate(audio, RATE).stems.shape == (1, 1, 900)
    assert type(one.policy.segment) is float and type(one.policy.overlap) is float


SESSION = {"channels": 2**40, "max_prompts": 10**9, "threads": 10**9}


@pytest.mark.parametrize("name", [*SESSION, "latency"])
def test_sessions(name):
    separator = Separator.from_model(tiny_model(), ("speech", "sfx"), device="cpu", **SHORT)
    for value in (*ODD, SESSION.get(name, 1e12), 0):
        assert name in one_line(lambda: separator.session(RATE, **{name: value}))  # noqa: B023
    assert separator.session(RATE, channels=np.int64(2), threads=1.0, max_prompts=4).channels == 2


@pytest.mark.parametrize("name", [*SESSION, "size"])
def test_pools(name):
    separator = Separator.from_model(tiny_model(CAUSAL), ("speech", "sfx"), device="cpu")
    for value in (*ODD, SESSION.get(name, 10**9), 0):
        assert name in one_line(lambda: separator.pool(**({"size": 2, "sample_rate": RATE} | {name: value})))  # noqa: B023
    # Each may be, all together would take the machine's memory.
    with pytest.raises(InputError, match="more than 131072 together"):
        separator.pool(1000, RATE, channels=1000, max_prompts=100)


def test_checks_of_numbers():
    assert whole(2.0, "x", 1, 3) == 2 and type(whole(np.float32(2), "x", 1, 3)) is int
    assert number(10**17, "x", 0, 1e18) == 1e17 and number(fractions.Fraction(1, 2), "x", 0, 1) == 0.5
    assert flag(np.False_, "x") is False
    with pytest.raises(InputError, match="^x must be a number from 0 s to 3 s, got 4$"):
        number(4, "x", 0, 3, "s")
    assert shown(10**9000) and "\n" not in shown(np.ones((9, 9)))


def test_samples_far_beyond_full_scale(tmp_path):
    """Squares of them overflow: what came out was not a number."""
    for config in (CAUSAL, TUSS, UNCONDITIONAL):
        separator = Separator.from_model(tiny_model(config), () if config is UNCONDITIONAL else "speech", device="cpu")
        audio = noise(2, 800)
        audio[1, 7] = 1e9
        assert np.isfinite(separator.separate(audio, RATE).stems).all()
        audio[1, 7] = -1e30
        with pytest.raises(AudioError, match="there is a sample of 1e.30, where full scale is 1"):
            separator.separate(audio, RATE)
        soundfile.write(tmp_path / "in.wav", audio.T, RATE, "FLOAT")
        with pytest.raises(AudioError, match="there is a sample of 1e.30"):
            separator.separate_file(tmp_path / "in.wav", tmp_path / "out")
        assert not list((tmp_path / "out").glob("*"))


def test_strides_below_zero():
    separator = Separator.from_model(tiny_model(CAUSAL), "speech", device="cpu")
    for audio in (noise(2, 1)[:, ::-1], noise(1, 90)[::-1], noise(2, 90)[::-1, ::-1]):
        session = separator.session(RATE)
        session.push(audio)
        assert session.flush().mixture.shape == audio.shape
        assert separator.separate(audio, RATE).stems.shape[1:] == audio.shape


def test_on_bad_of_another_kind():
    separator = Separator.from_model(tiny_model(CAUSAL), "speech", device="cpu")
    for value in (*ODD, None):
        for open_one in (separator.session, lambda rate, **more: separator.pool(2, rate, **more)):
            assert "on_bad must be one of silence, raise" in one_line(lambda: open_one(RATE, on_bad=value))  # noqa: B023
