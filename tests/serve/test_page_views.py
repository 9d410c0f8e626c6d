"""The server's page for everybody: axe-core in all views, light, dark and narrow; the token; a sound that learns."""

import re
import shutil
import subprocess

import numpy as np
import page_world as world
import pytest
import soundfile

AXE = "4.14.1"  # MPL-2.0, by Deque; of npm, for tests only
TOKEN = "a-token-of-the-tests"
ASKED = "path => import('/page/js/api.js').then(({ json }) => json(path))"


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    """A server that asks for a token."""
    with world.served(tmp_path_factory.mktemp("server") / "data", token=TOKEN) as found:
        yield found


@pytest.fixture(scope="module")
def axe(request):
    """The script of axe-core, from npm once."""
    folder = request.config.cache.mkdir(f"axe-core-{AXE}")
    script = folder / "package/axe.min.js"
    if not script.is_file():
        if not shutil.which("npm"):
            pytest.skip("npm, which brings axe-core, is not installed")
        command = ["npm", "pack", "--silent", f"axe-core@{AXE}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"npm does not give axe-core: {done.stderr.strip()[-200:]}")
        shutil.unpack_archive(folder / f"axe-core-{AXE}.tgz", folder, "gztar", filter="data")
    return script.read_text()


@pytest.fixture
def open_page(browser, address):
    """A function that opens the page with the token in its storage, as a tab that was asked before."""
    made = []

    def opened(view="files", **settings):
        context = world.page(browser, address, **settings)
        found = context.__enter__()
        made.append(context)
        found.add_init_script(f"sessionStorage.setItem('ussfast-token', {TOKEN!r})")
        found.goto(f"{address}/#{view}")
        found.wait_for_selector(world.READY)
        return found

    yield opened
    for context in made:
        context.__exit__(None, None, None)


def findings(page, axe):
    """What axe has against what is shown now, of all that is serious or critical."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations)")
    bad = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return {rule["id"]: [node["html"] + " " + node["failureSummary"] for node in rule["nodes"]] for rule in bad}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(open_page, axe, scheme):
    page = open_page(color_scheme=scheme)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert not findings(page, axe)
    world.separate(page, world.MIXTURE)
    page.check("input[value=both]")
    page.get_by_text("Keys", exact=True).click()
    page.get_by_role("button", name="Solo Speech").click()
    world.until(page, "document.querySelector('#status').textContent === ''")
    assert not findings(page, axe)
    page.click("#compare")
    assert not findings(page, axe)
    page.click("#examples-open")
    page.set_input_files("#clips", str(world.DEMO / "speech.flac"))
    page.check("#tune")
    page.click("#examples-send")  # without a name
    assert page.locator("#examples-problem").text_content() == "Give the sound a name."
    assert not findings(page, axe)
    page.click("#examples-close")
    page.click("#to-live")
    page.click("#start")
    world.until(page, "document.querySelector('#live-state').dataset.state === 'running'")
    world.until(page, "document.querySelector('#latency').textContent !== '-'")
    assert not findings(page, axe)
    page.click("#start")
    world.until(page, "document.querySelector('#live-figures').hidden")


def test_it_fits_a_telephone_and_four_times_the_size(open_page):
    """320 points are what 1280 are at 400 %."""
    page = open_page(viewport={"width": 320, "height": 600})
    world.separate(page, world.MIXTURE)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= 320
    page.click("#examples-open")
    page.set_input_files("#clips", str(world.DEMO / "speech.flac"))
    assert page.evaluate("document.querySelector('#examples').scrollWidth") <= 320
    page.click("#examples-close")
    page.click("#to-live")
    assert page.evaluate(width) <= 320


def test_the_keyboard_reaches_everything(open_page):
    """From the beginning of the page to Separate and beyond by the Tab key alone; each stop is seen."""
    page = open_page()
    page.set_input_files("#file", str(world.MIXTURE))
    page.evaluate("document.querySelector('.skip').focus()")
    names = []
    for _ in range(60):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.dataset.for || ''"))
        if names[-1] == "separate":
            break
    wanted = ["theme", "file", "record", "example", "toggle speech", "more speech", "toggle sfx", "examples-open"]
    wanted.append("separate")
    assert [name for name in names if name in wanted] == wanted
    page.keyboard.press("Enter")
    page.wait_for_selector(world.RESULT)
    world.until(page, "document.activeElement.id === 'play'")


def test_the_theme_stays_as_it_was_chosen(open_page):
    page = open_page(color_scheme="light")
    theme = "document.documentElement.dataset.theme"
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(theme) == "dark"
    page.reload()
    page.wait_for_selector(world.READY)
    assert page.evaluate(theme) == "dark"
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(theme) == "light"


def test_the_token_is_asked_for(browser, address, axe):
    with world.page(browser, address) as page:
        page.expected = ("401",)
        page.goto(address)
        page.wait_for_selector("#token-dialog[open]")
        assert not findings(page, axe)
        page.fill("#token", "this is the wrong one")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token-wrong:not([hidden])")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector(world.READY)
        world.separate(page, world.MIXTURE)  # an upload, events and stems, all with the token
        page.click("#to-live")
        page.click("#start")
        world.until(page, "document.querySelector('#live-state').dataset.state === 'running'")
        page.click("#start")
        assert page.evaluate("sessionStorage.getItem('ussfast-token')") == TOKEN
        assert page.evaluate("localStorage.length") == 0


@pytest.mark.slow
def test_a_sound_learns_from_clips(open_page, tmp_path):
    """Enrolled and tuned through the dialog, and then separated with."""
    audio, rate = soundfile.read(world.DEMO / "sfxbg.flac", dtype="float32")
    clips = [tmp_path / f"clip {at}.wav" for at in range(3)]
    for at, clip in enumerate(clips):
        soundfile.write(clip, audio[at * 2 * rate : (at * 2 + 2) * rate], rate)
    page = open_page()
    page.click("#examples-open")
    page.fill("#examples-name", "gale")
    page.set_input_files("#clips", [str(clip) for clip in clips])
    page.get_by_role("button", name="Remove clip 2.wav").click()
    assert page.locator("#clips-list li").count() == 2
    page.check("#tune")
    page.fill("#minutes", "0.05")
    page.click("#examples-send")
    page.wait_for_selector("#examples-work:not([hidden])")
    page.wait_for_selector("#examples", state="hidden")
    # In three seconds it need not have found anything better: then it is what it was enrolled as.
    job = page.evaluate(ASKED, "/v1/jobs")[0]
    (prompt,) = [one for one in page.evaluate(ASKED, "/v1/prompts") if one["name"] == "gale"]
    assert (job["kind"], job["status"], prompt["clips"]) == ("tune", "done", 2)
    chip = page.locator("[data-prompt=gale]")
    assert chip.get_attribute("aria-pressed") == "true"
    assert chip.get_attribute("aria-label") == f"gale, {prompt['kind']}"
    world.separate(page, world.MIXTURE, "speech", "gale")
    assert page.locator(".track h3").all_text_contents() == ["Mixture", "Speech", "gale"]
    _, content = world.downloaded(page, lambda: page.get_by_role("button", name="Download gale").click())
    (tmp_path / "gale.wav").write_bytes(content)
    stem, _ = soundfile.read(tmp_path / "gale.wav")
    assert np.abs(stem).max() > 0.01
    page.get_by_role("button", name="Delete gale").click()
    page.wait_for_selector("[data-prompt=gale]", state="detached")
    assert not re.search("gale", page.locator("#known").text_content())
