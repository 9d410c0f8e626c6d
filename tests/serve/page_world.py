"""What tests of the server's page need: a server process, a browser, a connection that can be cut."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests/export"))
import chromium  # noqa: E402

DEMO = ROOT / "ussfast/demo"
MIXTURE = DEMO / "mixture.flac"
READY = "#work-room:not([hidden])"
RESULT = "#result:not([hidden])"
# Playwright has a pipe and a head of its own.
FLAGS = [flag for flag in chromium.FLAGS if flag not in ("--headless", "--remote-debugging-pipe")]
FAKE_MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@contextmanager
def served(data, **settings):
    """The address of `ussfast serve` in a process of its own; settings as USSFAST_SERVE_*."""
    port = free_port()
    names = {f"USSFAST_SERVE_{name.upper()}": str(value) for name, value in settings.items()}
    environment = os.environ | {"USSFAST_SERVE_RATE_PER_MINUTE": "6000", "OMP_NUM_THREADS": "1"} | names
    log = data.parent / f"{data.name}.log"
    command = [sys.executable, "-m", "ussfast", "serve", "--port", str(port), "--data", str(data)]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while not ready(address):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text(), log.read_text()


def ready(address):
    with suppress(OSError), urllib.request.urlopen(f"{address}/ready", timeout=5) as answer:
        return answer.status == 200
    return False


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(address, path):
    """Bytes of a path of the server, asked for without the page."""
    with urllib.request.urlopen(address + path, timeout=30) as answer:
        return answer.read()


@contextmanager
def browser(*flags):
    """A Chromium, driven by Playwright; a skip where there is none, unless FAIL_WITHOUT_CHROMIUM=1."""
    fails = os.environ.get("FAIL_WITHOUT_CHROMIUM") == "1"
    absent = pytest.fail if fails else pytest.skip
    program = chromium.program()
    if program is None:
        absent(f"no browser: none of {', '.join(chromium.NAMES)} is installed")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("playwright is not installed")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=[*FLAGS, *FAKE_MICROPHONE, *flags])
        try:
            yield opened
        finally:
            opened.close()


# The node that is connected to the loudspeaker can be listened to.
TAP = """
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...rest) {
  if (to === this.context.destination && this.context instanceof AudioContext) globalThis.tapped = this;
  return connect.call(this, to, ...rest);
};
"""
LISTEN = """
async (seconds) => {
  const { context } = tapped;
  await context.audioWorklet.addModule("/page/js/capture.js");
  const options = { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" };
  const node = new AudioWorkletNode(context, "capture", { ...options, processorOptions: { frames: 1024 } });
  const chunks = [];
  const done = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`${chunks.length} samples were heard`)), 30_000);
    node.port.onmessage = ({ data }) => {
      if (data) chunks.push(...data);
      if (chunks.length >= seconds * context.sampleRate) resolve();
    };
  });
  tapped.connect(node);
  await done;
  tapped.disconnect(node);
  return { rate: context.sampleRate, samples: chunks };
}
"""


@contextmanager
def page(opened, address, **settings):
    """A page of its own; afterwards nothing came from elsewhere, and the browser had nothing to say against it."""
    context = opened.new_context(**({"viewport": {"width": 1200, "height": 900}} | settings))
    found = context.new_page()
    found.set_default_timeout(120_000)
    found.complaints, asked = [], []
    found.expected = ()  # parts of complaints that a test provokes
    found.add_init_script(TAP)
    found.on("console", lambda m: m.type in ("error", "warning") and found.complaints.append(f"{m.text} {m.location}"))
    found.on("pageerror", lambda error: found.complaints.append(error.stack or str(error)))
    found.on("request", lambda request: asked.append(request.url))
    found.on("dialog", lambda dialog: dialog.accept())
    try:
        yield found
        complaints = [text for text in found.complaints if not any(part in text for part in found.expected)]
        assert not complaints
        assert not [url for url in asked if not url.startswith((address, f"blob:{address}", "data:"))]
    finally:
        context.close()


def until(found, expression, seconds=120):
    """Waits for an expression to be true; the page's policy forbids what Playwright's own waiting does."""
    end = time.monotonic() + seconds
    while not (value := found.evaluate(expression)):
        assert time.monotonic() < end, f"{expression} stays {value!r}; {found.complaints}"
        time.sleep(0.05)
    return value


def heard(found, seconds):
    """What goes to the loudspeaker from now on: (rate, samples)."""
    said = found.evaluate(LISTEN, seconds)
    return said["rate"], np.array(said["samples"], np.float32)


def downloaded(found, press):
    """(name, bytes) of what pressing something hands over."""
    with found.expect_download() as caught:
        press()
    return caught.value.suggested_filename, Path(caught.value.path()).read_bytes()


def separate(found, path, *prompts):
    """Gives the page a file and waits for its stems; the identifier of the job."""
    found.set_input_files("#file", str(path))
    if prompts:
        choose(found, *prompts)
    found.click("#separate")
    found.wait_for_selector(RESULT)
    until(found, "document.querySelector('#work').hidden")
    return found.evaluate("import('/page/js/main.js').then(({ app }) => app.files.results.job.id)")


def choose(found, *prompts):
    """Presses chips until these are on, and no others."""
    for chip in found.query_selector_all(".chip.on [data-prompt]"):
        found.click(f"[data-prompt='{chip.get_attribute('data-prompt')}']")
    for prompt in prompts:
        found.click(f"[data-prompt='{prompt}']")


def loop_for_the_microphone(path):
    """The demonstration at a rate of sound cards, which a fake microphone repeats."""
    audio, rate = soundfile.read(MIXTURE, dtype="float32")
    soundfile.write(path, soxr.resample(audio, rate, 48000), 48000, "PCM_16")
    return path


class Line:
    """A connection to the server that can be cut; `address` is what the browser calls."""

    def __init__(self, address):
        self._port = int(address.rsplit(":", 1)[1])
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._pairs, self._whole, self._ended = [], True, False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while not self._ended:
            try:
                caller, _ = self._listening.accept()
            except OSError:
                return
            if not self._whole:
                caller.close()
                continue
            there = socket.create_connection(("127.0.0.1", self._port))
            self._pairs.append((caller, there))
            for source, sink in ((caller, there), (there, caller)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def _carry(source, sink):
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """All connections end, and no new one begins."""
        self._whole = False
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def mend(self):
        self._whole = True

    def close(self):
        self._ended = True
        self.cut()
        self._listening.close()
