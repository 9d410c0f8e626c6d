"""The server's page, live: a fake microphone, stems that come back, prompts that change, a lost connection."""

import json
import struct

import numpy as np
import page_world as world
import pytest

from ussfast import Separator

RUNNING = "document.querySelector('#live-state').dataset.state === 'running'"
TOLERANCE = 1e-4
# Parts of a stream arrive when they do: a test waits for them, never for a time.
HEARD = "Number(document.querySelector('#late').dataset.pieces) > {}"


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    with world.served(tmp_path_factory.mktemp("server") / "data", snapshot_s=0.5, deadline_ms=1000) as found:
        yield found


@pytest.fixture
def line(address):
    made = world.Line(address)
    yield made
    made.close()


@pytest.fixture
def page(browser, line):
    with world.page(browser, line.address) as found:
        found.wire = Wire(found)
        found.goto(f"{line.address}/#live")
        found.wait_for_selector(world.READY)
        yield found


class Wire:
    """What went over the page's WebSockets, in order: ("sent" or "got", text or bytes), one list per connection."""

    def __init__(self, page):
        self.connections = []
        page.on("websocket", self._opened)

    def _opened(self, socket):
        frames = []
        self.connections.append(frames)
        socket.on("framesent", lambda data: frames.append(("sent", data)))
        socket.on("framereceived", lambda data: frames.append(("got", data)))

    def texts(self, kind):
        """Messages of the server of this type, over all connections."""
        frames = [frame for frames in self.connections for frame in frames]
        got = [json.loads(data) for way, data in frames if way == "got" and isinstance(data, str)]
        return [message for message in got if message["type"] == kind]

    @property
    def input(self):
        """All samples that the server was given, put where they belong; what was sent twice was the same."""
        found = np.zeros(0, np.float32)
        for frames in self.connections:
            place = None
            for way, data in frames:
                if way == "got" and isinstance(data, str):
                    message = json.loads(data)
                    place = {"started": 0, "resumed": message.get("next_input")}.get(message["type"], place)
                if way == "sent" and isinstance(data, bytes):
                    samples = np.frombuffer(data, "<f4")
                    again = found[place : place + len(samples)]
                    assert np.array_equal(again, samples[: len(again)])
                    found = np.concatenate([found[:place], samples, found[place + len(samples) :]])
                    place += len(samples)
        return found

    def output(self, label):
        """A stem from sample 0 on; silence where it was not asked for."""
        pieces, names = [], {}
        for frames in self.connections:
            for way, data in frames:
                if way == "got" and isinstance(data, str):
                    message = json.loads(data)
                    if "labels_id" in message:
                        names[message["labels_id"]] = message["labels"]
                elif way == "got":
                    version, kind, stems, labels, first, count, _ = struct.unpack_from("<BBHIQII", data)
                    assert (version, kind) == (1, 0)
                    rows = np.frombuffer(data, "<f4", offset=24).reshape(stems, count)
                    row = rows[names[labels].index(label)] if label in names[labels] else np.zeros(count, np.float32)
                    pieces.append((first, row))
        found = np.full(max(first + len(row) for first, row in pieces), np.nan, np.float32)
        for first, row in pieces:
            found[first : first + len(row)] = row
        assert not np.isnan(found).any(), "a sample never came"
        return found


def start(page):
    page.click("#start")
    world.until(page, RUNNING)


def listen(page, pieces):
    """Until so many pieces came in all."""
    world.until(page, HEARD.format(pieces))


def stop(page):
    page.click("#start")
    world.until(page, "document.querySelector('#live-figures').hidden")


def reference(wire, label, changes=()):
    """The stem of a session that is given the same audio: changes: (position, prompts)."""
    rate, audio = wire.texts("started")[0]["sample_rate"], wire.input
    session = Separator().session(rate, prompts=["speech", "sfxbg"], channels=1)
    found, place = [], 0
    for until, prompts in [*changes, (len(audio), None)]:
        for piece in (session.push(audio[None, place:until]), session.flush() if prompts is None else None):
            if piece is not None:
                found.append(piece[label][0] if label in piece.labels else np.zeros(piece.stems.shape[-1], np.float32))
        place = until
        if prompts is not None:
            session.set_prompts(prompts)
    return np.concatenate(found)


def test_stems_are_those_of_a_session(page):
    start(page)
    listen(page, 100)
    stop(page)
    for label in ("speech", "sfxbg"):
        stem, expected = page.wire.output(label), reference(page.wire, label)
        assert len(stem) > 44100 and np.abs(expected).max() > 0.05
        assert np.abs(stem - expected[: len(stem)]).max() <= TOLERANCE


def test_what_is_played_is_the_stem_that_is_on(page):
    """The first one is on at first; then the other, twice as loud."""
    start(page)
    listen(page, 50)
    rate, audio = world.heard(page, 1)
    page.get_by_role("button", name="Hear Speech").click()
    page.get_by_role("button", name="Hear Background").click()
    slider = page.get_by_role("slider", name="Gain of Background")
    slider.evaluate("s => { s.value = 2; s.dispatchEvent(new Event('input')) }")
    _, louder = world.heard(page, 1)
    listen(page, 250)  # what was played is among what came, however much is still on its way
    stop(page)
    assert rate == page.wire.texts("started")[0]["sample_rate"]
    for played, wanted in ((audio, page.wire.output("speech")), (louder[4096:], 2 * page.wire.output("sfxbg"))):
        assert longest_match(played, wanted) >= 2048


def longest_match(played, wanted):
    """How long the longest passage is that was played as it came; between passages there are gaps on a busy machine."""
    best, block = 0, 1024
    for at in range(0, len(played) - block, block):
        start = played[at : at + block]
        if np.abs(start).max() < 1e-3:
            continue
        places = np.flatnonzero(np.abs(wanted[: len(wanted) - block] - start[0]) < 1e-6)
        for place in places:
            if np.abs(wanted[place : place + block] - start).max() < 1e-6:
                length = min(len(wanted) - place, len(played) - at)
                apart = np.abs(wanted[place : place + length] - played[at : at + length]) > 1e-6
                best = max(best, int(apart.argmax()) if apart.any() else length)
    return best


def test_prompts_change_while_it_runs(page):
    start(page)
    listen(page, 50)
    page.click("[data-prompt='drums']")
    page.wait_for_selector(".mix-row[data-label=drums]")
    listen(page, 150)
    stop(page)
    (change,) = page.wire.texts("prompts")
    assert change["labels"] == ["speech", "sfxbg", "drums"] and change["at"] > 0
    changes = [(change["at"], ["speech", "sfxbg", "drums"])]
    for label in ("speech", "drums"):
        stem, expected = page.wire.output(label), reference(page.wire, label, changes)
        assert np.abs(stem - expected[: len(stem)]).max() <= TOLERANCE


def test_a_lost_connection_is_gone_on_with(page, line):
    page.expected = ("ERR_CONNECTION", "ERR_EMPTY", "WebSocket", "ERR_SOCKET")
    start(page)
    listen(page, 80)
    line.cut()
    world.until(page, "document.querySelector('#live-state').dataset.state === 'waiting'")
    page.wait_for_timeout(1500)  # what is said meanwhile comes afterwards
    line.mend()
    world.until(page, RUNNING)
    before = page.evaluate("Number(document.querySelector('#late').dataset.pieces)")
    listen(page, before + 120)
    stop(page)
    (resumed,) = page.wire.texts("resumed")
    assert resumed["next_input"] > 0 and page.wire.texts("saved")
    assert any(way == "sent" and "ack" in str(data) for frames in page.wire.connections for way, data in frames)
    for label in ("speech", "sfxbg"):
        stem, expected = page.wire.output(label), reference(page.wire, label)
        assert len(stem) > resumed["next_output"] + 44100
        assert np.abs(stem - expected[: len(stem)]).max() <= TOLERANCE
    assert not page.locator("#problem").is_visible()


def test_a_server_that_forgot_the_stream_begins_another(page, line):
    page.expected = ("ERR_CONNECTION", "ERR_EMPTY", "WebSocket", "ERR_SOCKET", "Failed to load")
    start(page)
    listen(page, 30)
    # As after a time beyond resume_s: the identifier is unknown.
    page.evaluate("import('/page/js/main.js').then(({ app }) => (app.live.stream.id = '0'.repeat(32)))")
    line.cut()
    world.until(page, "document.querySelector('#live-state').dataset.state === 'waiting'")
    line.mend()
    world.until(page, RUNNING)
    world.until(page, "document.querySelector('#live-state').dataset.state === 'running'")
    assert len(page.wire.texts("started")) == 2
    stop(page)


def test_why_a_stream_is_refused(page, address):
    page.expected = ("Failed to load resource",)
    world.choose(page, "speech", "sfx", "drums", "bass", "vocals", "other")
    page.click("#start")
    page.wait_for_selector("#problem:not([hidden])")
    assert "4" in page.locator("#problem-text").text_content()
    assert page.locator("#start").text_content() == "Start listening" and page.locator("#start").is_enabled()


def test_a_sound_by_example_is_learned_again_while_it_is_heard(page):
    show(page, "the wind", world.DEMO / "sfxbg.flac")
    assert page.locator("[data-prompt='the wind']").get_attribute("aria-pressed") == "true"
    start(page)
    listen(page, 30)
    assert page.locator(".mix-row[data-label='the wind']").count() == 1
    show(page, "the wind", world.DEMO / "sfxbg.flac", world.DEMO / "speech.flac")
    listen(page, page.evaluate("Number(document.querySelector('#late').dataset.pieces)") + 30)
    assert [message["prompt"] for message in page.wire.texts("swapped")] == ["the wind"]
    stop(page)
    page.get_by_role("button", name="Delete the wind").click()
    page.wait_for_selector("[data-prompt='the wind']", state="detached")


def show(page, name, *clips):
    page.click("#examples-open")
    page.fill("#examples-name", name)
    page.set_input_files("#clips", [str(clip) for clip in clips])
    page.click("#examples-send")
    page.wait_for_selector("#examples", state="hidden")
