"""The pictures of the server's page, docs/images/page*.png, from a server that runs:

    ussfast serve                       # in another terminal
    python scripts/page_pictures.py     # needs the packages playwright and Pillow, and Chromium

A fake microphone hears the bundled recording.
"""

import argparse
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import soundfile
from PIL import Image

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs/images"
RECORDING = ROOT / "ussfast/demo/mixture.flac"
FLAGS = ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
COLOURS = 128


def save(name: str, shot: bytes) -> None:
    """With few colours, as the page has few: a third of the size."""
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
        PICTURES / name, optimize=True
    )
    print(f"docs/images/{name}: {(PICTURES / name).stat().st_size // 1024} KiB")


def separated(page: Any, view: str = "both") -> None:
    """The bundled recording and its stems, played to somewhere in the middle."""
    page.set_input_files("#file", RECORDING)
    page.click("#separate")
    page.wait_for_selector("#result:not([hidden])")
    page.check(f"input[value={view}]")
    page.locator("#position").evaluate("slider => { slider.value = 3.4; slider.dispatchEvent(new Event('input')) }")
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(1500)
    page.evaluate("document.querySelector('#status').textContent = ''")


def live(page: Any) -> None:
    page.click("#start")
    page.wait_for_selector("#live-state[data-state=running]")
    page.wait_for_timeout(6000)
    page.evaluate("document.querySelector('#status').textContent = ''")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="http://localhost:8400")
    address = parser.parse_args().address
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        sound = Path(folder) / "mixture.wav"
        soundfile.write(sound, *soundfile.read(RECORDING), "PCM_16")
        flags = [*FLAGS, f"--use-file-for-fake-audio-capture={sound}"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)

        @contextmanager
        def opened(path: str = "", width: int = 1100, height: int = 900, **settings: Any) -> Iterator[Any]:
            page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=1.5, **settings)
            page.goto(address + path)
            page.wait_for_selector("#work-room:not([hidden])")
            yield page
            page.close()

        def shot(name: str, work: Callable[[Any], None], element: str | None = None, **settings: Any) -> None:
            with opened(**settings) as page:
                work(page)
                save(name, page.locator(element).screenshot() if element else page.screenshot(full_page=True))

        shot("page.png", separated, "#result")
        shot("page-start.png", lambda page: None, height=800)
        shot("page-dark.png", separated, "#result", color_scheme="dark")
        shot("page-live.png", live, path="/#live")
        browser.close()


if __name__ == "__main__":
    main()
