"""The page of export/web in a headless Chromium, from a file or a microphone to what comes out."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import chromium
import numpy as np
import pytest
import soundfile
import soxr

from ussfast import Separator

ROOT = Path(__file__).parents[2]
WEB = ROOT / "export/web"
DEMO = ROOT / "ussfast/demo/mixture.flac"
PROMPTS = ("speech", "sfx")  # the first two, which are chosen when the page opens
RATE, HOP = 32000, 512
READY = "!document.querySelector('#file').disabled || !document.querySelector('#problem').hidden"
DONE = "document.querySelector('#work').hidden && !document.querySelector('#file').disabled"


@pytest.fixture(scope="module")
def program():
    found = chromium.program()
    return found or pytest.skip(f"no browser: none of {', '.join(chromium.NAMES)} is installed")


@pytest.fixture(scope="module")
def runtime(program, tmp_path_factory):
    """onnxruntime-web: what make web brought, or from npm."""
    if (WEB / "ort/ort.wasm.min.mjs").is_file():
        return WEB / "ort"
    if not shutil.which("npm"):
        pytest.skip("neither export/web/ort (make web-ort) nor npm is there")
    folder = tmp_path_factory.mktemp("ort")
    done = subprocess.run(["sh", str(WEB / "get_ort.sh"), str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm does not give onnxruntime-web: {done.stderr.strip()[-200:]}")
    return folder


@pytest.fixture(scope="module")
def model(runtime, tmp_path_factory):
    pytest.importorskip("onnx", reason="onnx writes the graphs")
    from ussfast.export import export_onnx

    folder = tmp_path_factory.mktemp("model") / "default"
    export_onnx("default", folder, modes=["step"])
    return folder


@pytest.fixture(scope="module")
def site(model, runtime, tmp_path_factory):
    """The page, its model and the runtime in a folder; beside it pages that lack something."""
    root = tmp_path_factory.mktemp("site")

    def page(name, model, runtime):
        shutil.copytree(WEB, root / name, ignore=shutil.ignore_patterns("model", "ort"))
        for part, folder in (("model", model), ("ort", runtime)):
            if folder is not None:
                os.symlink(folder, root / name / part)

    damaged = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(model, damaged)
    step = bytearray((damaged / "step.onnx").read_bytes())
    step[len(step) // 2] ^= 1
    (damaged / "step.onnx").write_bytes(step)
    for name, parts in {"whole": (model, runtime), "bare": (None, runtime), "no-ort": (model, None)}.items():
        page(name, *parts)
    page("damaged", damaged, runtime)
    return root


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Stereo of 2.5 s, no multiple of a hop."""
    folder = tmp_path_factory.mktemp("sounds")
    mono, rate = soundfile.read(DEMO, dtype="float32")
    assert rate == RATE
    stereo = np.stack([mono[20000:100077], 0.5 * mono[60000:140077]], 1)
    assert len(stereo) % HOP
    soundfile.write(folder / "at its rate.wav", stereo, RATE, "PCM_16")
    soundfile.write(folder / "loop.wav", mono, RATE, "PCM_16")
    soundfile.write(folder / "other.flac", stereo[:, 0], 48000)  # faster and higher: only a rate to convert
    soundfile.write(folder / "empty.wav", stereo[:0], RATE)
    soundfile.write(folder / "not-finite.wav", np.where(stereo > 0.1, np.nan, stereo), RATE, "FLOAT")
    (folder / "text.wav").write_text("no audio at all")
    (folder / "nothing.wav").touch()
    return folder


@pytest.fixture(scope="module")
def browser(program, sounds, tmp_path_factory):
    flags = (
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={sounds / 'loop.wav'}",
    )  # fmt: skip
    with chromium.browser(tmp_path_factory.mktemp("profile"), *flags) as opened:
        yield opened


@pytest.fixture(scope="module")
def address(site):
    with chromium.served(site) as found:
        yield found


@pytest.fixture
def page(browser, address):
    """The page, with its model; afterwards the browser must have had nothing to say against it."""
    opened(browser, address + "whole/")
    assert "default" in browser.text("#status") and "one thread" in browser.text("#status")
    yield browser
    assert not browser.logged
    # The worker's are among them.
    assert {f"{address}whole/page.js", f"{address}whole/model/step.onnx"} <= set(browser.requests)
    assert not [url for url in browser.requests if not re.match(rf"{address}|blob:{address}|data:", url)]


def opened(browser, url):
    browser.open(url)
    browser.wait(READY, 120)


def problem(browser):
    """The error that the page shows, or nothing."""
    return browser.value("(problem => problem.hidden ? '' : problem.textContent)(document.querySelector('#problem'))")


def kept(browser):
    """The stems, kept by a click on each: [channels, samples] by name of the file."""
    stems = {}
    for at in range(browser.value("document.querySelectorAll('#stems a').length")):
        link = f"#stems li:nth-child({at + 1}) a"
        path = browser.downloads / browser.value(f"document.querySelector('{link}').download")
        browser.click(link)
        until = time.monotonic() + 20
        while not path.is_file():
            assert time.monotonic() < until, f"{path.name} does not come"
            time.sleep(0.05)
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert rate == RATE and soundfile.info(path).subtype == "FLOAT"
        stems[path.name] = audio.T
        path.unlink()
    return stems


def separated(browser, path, drop=False):
    """What the page makes of a file that is chosen, or dropped."""
    browser.drop("#drop", path) if drop else browser.choose("#file", path)
    browser.wait("document.querySelectorAll('#stems li').length || !document.querySelector('#problem').hidden", 120)
    assert not problem(browser)
    browser.wait(DONE)
    return kept(browser)


def reference(path):
    """The same by `Separator`, float32."""
    return Separator("default", PROMPTS, device="cpu", dtype="float32").separate(path)


def test_a_file_as_ussfast_separates_it(page, sounds):
    path = sounds / "at its rate.wav"
    expected = reference(path)
    stems = separated(page, path)
    assert list(stems) == [f"at its rate-{prompt}.wav" for prompt in PROMPTS]
    for prompt, stem in zip(PROMPTS, stems.values(), strict=True):
        assert stem.shape == expected[prompt].shape
        assert np.abs(stem - expected[prompt]).max() <= 1e-3 * np.abs(expected[prompt]).max()
    assert re.fullmatch(r"2\.5 s of audio in [\d.]+ s: RTF [\d.]+", page.text("#speed"))
    assert page.width_on(340) == 340
    players = "[...document.querySelectorAll('#stems audio')]"
    page.wait(f"{players}.every(audio => audio.readyState > 0)", 20)
    assert page.value(f"{players}.map(audio => Math.abs(audio.duration - 80077 / 32000) < 0.01)") == [True, True]


def test_a_dropped_file_at_another_rate_is_converted(page, sounds):
    path = sounds / "other.flac"
    mono, rate = soundfile.read(path, dtype="float32")
    resampled = soxr.resample(mono, rate, RATE)
    soundfile.write(sounds / "resampled.wav", resampled, RATE, "FLOAT")
    expected = reference(sounds / "resampled.wav")
    for prompt, stem in zip(PROMPTS, separated(page, path, drop=True).values(), strict=True):
        assert abs(stem.shape[1] - len(resampled)) <= 1
        whole, made = expected[prompt][0, : stem.shape[1]], stem[0, : len(resampled)]
        # Two ways to convert a rate differ where the new one ends.
        assert np.corrcoef(whole, made)[0, 1] > 0.99


def test_the_microphone(page):
    for text in ("Listening.", "The microphone is off."):
        page.click("#live")
        page.wait(f"document.querySelector('#status').textContent === '{text}'")
    page.click("#live")
    page.wait("document.querySelector('#rtf').dataset.rtf > 0", 120)
    page.wait("[...document.querySelectorAll('#mix meter')].some(meter => meter.dataset.level > 0.001)")
    page.wait("document.querySelector('#heard').dataset.level > 0.001")
    assert page.width_on(340) == 340
    nameless = [role for role, name in page.parts() if not name]
    assert not nameless and {"slider", "meter"} <= {role for role, _ in page.parts()}
    assert page.value("[...document.querySelectorAll('#mix li span')].map(e => e.textContent)") == list(PROMPTS)
    assert re.match(r"[\d.]+, slowest [\d.]+", page.text("#rtf"))
    assert re.fullmatch(r"\d+ ms: model 32 ms, buffer \d+ ms, output \d+ ms", page.text("#latency"))
    assert re.fullmatch(r"\d+ gaps, \d+ ms left out", page.text("#gaps"))
    assert not problem(page) and page.text("#status") == "Listening."
    assert page.value("document.querySelector('#file').disabled")
    page.value(
        "document.querySelectorAll('#mix input').forEach(slider => {"
        " slider.value = 0; slider.dispatchEvent(new Event('input')) })"
    )
    page.wait("document.querySelector('#heard').dataset.level == 0")
    page.click("#live")
    page.wait("document.querySelector('#status').textContent === 'The microphone is off.'")
    assert not page.value("document.querySelector('#file').disabled")


def test_stop_ends_the_work_and_the_page_goes_on(page, sounds):
    page.choose("#file", sounds / "loop.wav")
    page.wait("document.querySelector('#progress').value > 0")
    page.click("#cancel")
    page.wait("document.querySelector('#status').textContent === 'Stopped.'")
    page.wait(DONE)
    assert not kept(page)


def test_files_without_audio_are_told(page, sounds):
    told = {
        "text.wav": "text.wav is not audio that this browser reads.",
        "nothing.wav": "nothing.wav is empty.",
        "empty.wav": "empty.wav: the WAV has no samples.",
        "not-finite.wav": "not-finite.wav is damaged: not all its samples are numbers.",
    }
    for name, text in told.items():
        page.choose("#file", sounds / name)
        page.wait("!document.querySelector('#problem').hidden")
        page.wait(DONE)
        assert problem(page) == text
    for prompt in PROMPTS:
        page.click(f"#sounds input[name={prompt}]")
    page.choose("#file", sounds / "at its rate.wav")
    page.wait("document.querySelector('#problem').textContent === 'Choose at least one sound.'")
    page.wait(DONE)
    page.click("#live")
    assert problem(page) == "Choose at least one sound."


def test_what_is_missing_or_damaged_is_told(browser, address):
    told = {
        "bare": "model/export.json is missing beside the page (404): make web puts it there.",
        "no-ort": "ort/ort.wasm.min.mjs is missing beside the page: make web puts it there.",
        "damaged": "model/step.onnx is not what export.json means: export the model again.",
    }
    for name, text in told.items():
        opened(browser, f"{address}{name}/")
        assert problem(browser) == text
        assert browser.value("document.querySelector('#live').disabled && document.querySelector('#file').disabled")


def test_no_microphone_is_told(address, program, tmp_path):
    with chromium.browser(tmp_path, "--use-fake-ui-for-media-stream") as other:
        opened(other, address + "whole/")
        other.click("#live")
        other.wait("!document.querySelector('#problem').hidden")
        assert problem(other) == "There is no microphone."
        assert other.text("#live") == "Start" and not other.value("document.querySelector('#live').disabled")


def test_threads_that_are_not_to_be_had_are_told(browser, address):
    opened(browser, address + "whole/?threads=0")
    assert re.match(r"threads must be a whole number from 1 to \d+\.$", problem(browser))
    if os.cpu_count() > 1:
        opened(browser, address + "whole/?threads=2")
        assert problem(browser).startswith("Browsers give threads to isolated pages only")


@pytest.mark.skipif(os.cpu_count() < 2, reason="one core: no two threads")
def test_threads_where_the_page_is_isolated(browser, site, sounds):
    path = sounds / "at its rate.wav"
    with chromium.served(site, isolated=True) as address:
        opened(browser, address + "whole/?threads=2")
        assert "2 threads" in browser.text("#status")
        expected = reference(path)
        for prompt, stem in zip(PROMPTS, separated(browser, path).values(), strict=True):
            assert np.abs(stem - expected[prompt]).max() <= 1e-3 * np.abs(expected[prompt]).max()
