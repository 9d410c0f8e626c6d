"""The server's page from a file to its tracks, against a server process with the embedded model."""

import io
import json
import time
import zipfile

import numpy as np
import page_world as world
import pytest
import soundfile

from ussfast import Separator

PROMPTS = ("speech", "sfxbg")
LSB = 2**-15  # of the 16-bit input; stems are compared to what their own format can hold


@pytest.fixture(scope="module")
def browser():
    with world.browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    with world.served(tmp_path_factory.mktemp("server") / "data") as found:
        yield found


@pytest.fixture
def page(browser, address):
    with world.page(browser, address) as found:
        found.goto(address)
        found.wait_for_selector(world.READY)
        yield found


@pytest.fixture(scope="module")
def expected():
    """Stems of the demonstration by label, [samples], and the mixture."""
    audio, rate = soundfile.read(world.MIXTURE, dtype="float32")
    separation = Separator().separate(audio[None], rate, prompts=PROMPTS)
    stems = {label: np.asarray(separation[label])[0] for label in separation.labels}
    return stems | {"": audio}


def read(content):
    audio, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    assert rate == 32000
    return audio[:, 0]


def press(page, text):
    page.get_by_role("button", name=text, exact=True).click()


def set_gain(page, label, db):
    page.locator(f".track[data-label={label}] input[type=range]").evaluate(
        f"slider => {{ slider.value = {db}; slider.dispatchEvent(new Event('input')) }}"
    )


def position(page):
    return page.evaluate("import('/page/js/main.js').then(({ app }) => app.files.results.player.position)")


def test_stems_are_the_servers_and_the_separators(page, address, expected):
    job = world.separate(page, world.MIXTURE)
    for label, title in zip(PROMPTS, ("Speech", "Background"), strict=True):
        name, content = world.downloaded(page, lambda title=title: press(page, f"Download {title}"))
        assert name == f"mixture - {title}.wav"
        assert content == world.get(address, f"/v1/jobs/{job}/stems/{label}")
        assert np.abs(read(content) - expected[label]).max() <= 2 * LSB
    name, content = world.downloaded(page, lambda: press(page, "Download all"))
    assert name == "mixture.zip"
    with (
        zipfile.ZipFile(io.BytesIO(content)) as got,
        zipfile.ZipFile(io.BytesIO(world.get(address, f"/v1/jobs/{job}/archive"))) as said,
    ):
        assert len(got.namelist()) == 2
        assert {n: got.read(n) for n in got.namelist()} == {n: said.read(n) for n in said.namelist()}


def test_what_is_heard_is_the_mix_that_was_set(page, expected):
    world.separate(page, world.MIXTURE)

    def mix():
        return read(world.downloaded(page, lambda: press(page, "Download what you hear"))[1])

    speech, background, mixture = expected["speech"], expected["sfxbg"], expected[""]
    assert np.abs(mix() - (speech + background)).max() <= 4 * LSB
    set_gain(page, "sfxbg", 6)
    assert np.abs(mix() - (speech + 10 ** (6 / 20) * background)).max() <= 8 * LSB
    press(page, "Mute Speech")
    assert np.abs(mix() - 10 ** (6 / 20) * background).max() <= 8 * LSB
    press(page, "Mute Speech")
    press(page, "Solo Speech")
    assert np.abs(mix() - speech).max() <= 2 * LSB
    set_gain(page, "speech", -40)  # the end of the slider: off
    assert not mix().any()
    press(page, "Hear the mixture")
    assert np.abs(mix() - mixture).max() <= 2 * LSB
    press(page, "Hear the mixture")
    assert not mix().any()


def test_tracks_play_together_to_the_sample(page, expected):
    world.separate(page, world.MIXTURE)
    set_gain(page, "sfxbg", -6)
    page.locator(".track[data-label=speech] .wave").click(position={"x": 100, "y": 30})  # a seek on a drawing
    place = position(page)
    assert 0.5 < place < 2
    press(page, "Play")
    rate, audio = world.heard(page, 1.5)
    assert rate == 32000
    mix = expected["speech"] + 10 ** (-6 / 20) * expected["sfxbg"]
    at, found = aligned(audio, mix)
    assert place * rate <= at
    assert np.abs(found - mix[at : at + len(found)]).max() <= 8 * LSB
    # The same places, at once, in all drawings and on the slider; and again after a seek while it plays.
    page.locator("#position").evaluate("s => { s.value = 0.25; s.dispatchEvent(new Event('input')) }")
    rate, audio = world.heard(page, 1)
    at, found = aligned(audio, mix)
    assert 0.25 * rate <= at < len(mix) - len(found)
    assert np.abs(found - mix[at : at + len(found)]).max() <= 8 * LSB
    press(page, "Pause")
    places = page.evaluate(
        "[...document.querySelectorAll('.wave > div')].map((e) => e.shadowRoot.querySelector('.cursor').style.left)"
    )
    assert len(places) == 3 and len(set(places)) == 1
    shown = float(places[0].rstrip("%")) / 100 * 10
    assert shown == pytest.approx(position(page), abs=0.02)
    assert page.locator("#position").evaluate("s => Number(s.value)") == pytest.approx(position(page), abs=0.02)


def aligned(audio, whole):
    """(where in `whole` it is that `audio` lies, `audio` from its middle on)."""
    audio = audio[len(audio) // 4 :]
    size = 1 << int(np.ceil(np.log2(len(whole) + len(audio))))
    scores = np.fft.irfft(np.fft.rfft(whole, size) * np.conj(np.fft.rfft(audio, size)), size)[: len(whole) - len(audio)]
    energy = np.concatenate([[0], np.cumsum(whole.astype(np.float64) ** 2)])
    scores = scores - 0.5 * (energy[len(audio) : len(audio) + len(scores)] - energy[: len(scores)])
    return int(scores.argmax()), audio


def test_keys(page):
    world.separate(page, world.MIXTURE)
    state = (
        "import('/page/js/main.js').then(({ app: { files: { results: { player: p } } } }) => ({ playing: p.playing, "
        "comparing: p.comparing, solo: p.tracks.map(t => t.solo), mute: p.tracks.map(t => t.mute) }))"
    )
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Space")
    assert page.evaluate(state)["playing"]
    page.keyboard.press("Space")
    assert not page.evaluate(state)["playing"]
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert position(page) == pytest.approx(6)
    page.keyboard.press("ArrowLeft")
    assert position(page) == pytest.approx(5)
    page.keyboard.press("a")
    assert page.evaluate(state)["comparing"]
    assert page.get_by_role("button", name="Hear the mixture").get_attribute("aria-pressed") == "true"
    page.keyboard.press("a")
    page.keyboard.press("2")
    assert page.evaluate(state)["solo"] == [False, False, True]
    page.keyboard.press("m")  # of the track where the focus is now
    assert page.evaluate(state)["mute"] == [False, False, True]
    page.locator("#play").focus()
    page.keyboard.press("Space")  # the button's own, once
    assert page.evaluate(state)["playing"]


def test_a_running_job_is_cancelled(page, address, tmp_path):
    noise = np.random.default_rng(0).standard_normal(32000 * 600).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "long.flac", noise, 32000, "PCM_16")
    page.set_input_files("#file", str(tmp_path / "long.flac"))
    page.click("#separate")
    world.until(
        page,
        "document.querySelector('#progress-text').textContent.includes('%')"
        " && !document.querySelector('#progress-text').textContent.startsWith('Sending')",
    )
    press(page, "Cancel")
    world.until(page, "document.querySelector('#work').hidden && !document.querySelector('#separate').disabled")
    assert not page.locator("#result").is_visible() and not page.locator("#problem").is_visible()
    until = time.monotonic() + 30
    while (job := json.loads(world.get(address, "/v1/jobs"))[0])["status"] == "running":
        assert time.monotonic() < until
        time.sleep(0.1)
    assert job["status"] == "cancelled" and job["input"]["name"] == "long.flac"


def test_problems_are_told_as_the_server_says_them(page, tmp_path):
    page.expected = ("Failed to load resource",)  # the browser's own note of a status of 4xx
    (tmp_path / "text.wav").write_text("no audio at all")
    page.set_input_files("#file", str(tmp_path / "text.wav"))
    with page.expect_response("**/v1/audio/separations") as answer:
        page.click("#separate")
    page.wait_for_selector("#problem:not([hidden])")
    detail = answer.value.json()["detail"]
    shown = page.locator("#problem-text").text_content()
    assert shown.lower().rstrip(".") == detail.lower().rstrip(".") and shown.endswith(".")
    press(page, "Close the message")
    assert not page.locator("#problem").is_visible()


def test_a_recording_of_the_microphone(page):
    press(page, "Record")
    world.until(page, "document.querySelector('#record').textContent.includes('(1 s)')")
    page.click("#record")
    page.wait_for_selector("#chosen:not([hidden])")
    page.click("#separate")
    page.wait_for_selector(world.RESULT)
    assert page.locator(".track").count() == 3
    seconds = page.evaluate("import('/page/js/main.js').then(({ app }) => app.files.results.player.duration)")
    assert 1 <= seconds < 10


def test_a_dropped_file_and_the_rest(page):
    """A real file of a drop comes from the system: here the page's own example becomes one."""
    page.evaluate("""async () => {
      const audio = await (await fetch("/page/example.flac")).blob();
      const files = new DataTransfer();
      files.items.add(new File([audio], "dropped.flac"));
      const drop = document.querySelector("#drop");
      for (const kind of ["dragover", "drop"]) {
        drop.dispatchEvent(new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true }));
      }
    }""")
    assert "dropped.flac" in page.locator("#chosen").text_content()
    page.get_by_text("Options").click()
    page.check("#residual")
    page.select_option("#format", "flac")
    world.choose(page, "sfx")
    page.get_by_role("button", name="One more Sound effect").click()
    page.click("#separate")
    page.wait_for_selector(world.RESULT)
    titles = page.locator(".track h3").all_text_contents()
    assert titles == ["Mixture", "Sound effect 1", "Sound effect 2", "The rest"]
    name, content = world.downloaded(page, lambda: press(page, "Download The rest"))
    assert name == "dropped - The rest.flac" and content[:4] == b"fLaC"
