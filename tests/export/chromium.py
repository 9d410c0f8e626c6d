"""A headless Chromium that tests drive through a pipe, by the DevTools protocol."""

import fcntl
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

NAMES = ("chromium", "chromium-browser", "google-chrome")
UNHEARD = 1 << 30  # of questions whose answers nobody waits for
# Without these Chromium asks for servers of its own. No name is resolved: a page that needs a network fails.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--autoplay-policy=user-gesture-required",
    "--remote-debugging-pipe",
)  # fmt: skip


def program():
    """The browser's path, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def high(descriptor):
    """The same file under a number that a shell does not use."""
    found = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20)
    os.close(descriptor)
    return found


class Browser:
    """One page of a browser.

    logged: what went wrong on it, by the browser's own account. requests: addresses it asked for, also those of its
    worker. downloads: the folder of what is kept.
    """

    def __init__(self, profile, *flags):
        reads, self._to = os.pipe()
        self._from, writes = os.pipe()
        # Chromium reads from 3 and writes to 4, where a shell puts the pipes.
        reads, writes = high(reads), high(writes)
        shell = f'exec 3<&{reads} 4>&{writes} {reads}<&- {writes}>&-; exec "$@"'
        command = [program(), *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command], pass_fds=(reads, writes), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(reads)
        os.close(writes)
        self._count, self._answers, self._session = 0, queue.Queue(), None
        self.logged, self.requests, self._turn = [], [], threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()
        self.downloads = profile / "downloads"
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self):
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for room in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{room}.enable")
        # Workers wait until they are heard, too.
        self.call("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True)

    def _listen(self):
        held = b""
        while data := os.read(self._from, 1 << 16):
            *messages, held = (held + data).split(b"\0")
            for message in map(json.loads, messages):
                if message.get("id") == UNHEARD:
                    continue
                if "id" in message:
                    self._answers.put(message)
                else:
                    self._note(message["method"], message.get("params", {}))
        self._answers.put(None)

    def _note(self, method, said):
        if method == "Target.attachedToTarget":
            for order in ("Network.enable", "Runtime.enable", "Runtime.runIfWaitingForDebugger"):
                self._send({"id": UNHEARD, "method": order, "sessionId": said["sessionId"]})
        if method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        if method == "Runtime.exceptionThrown":
            self.logged.append(str(said["exceptionDetails"].get("exception", said["exceptionDetails"])))
        if method == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.logged.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")

    def call(self, method, **params):
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._send(message)
        answer = self._answers.get(timeout=60)
        assert answer is not None, "the browser ended"
        assert answer["id"] == self._count and "error" not in answer, answer
        return answer["result"]

    def _send(self, message):
        with self._turn:
            os.write(self._to, json.dumps(message).encode() + b"\0")

    def value(self, expression):
        """What an expression is on the page; promises are awaited."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression, seconds=60):
        """The value of an expression as soon as it is true."""
        until = time.monotonic() + seconds
        while not (value := self.value(expression)):
            assert time.monotonic() < until, f"{expression} stays {value!r}; logged: {self.logged}"
            time.sleep(0.05)
        return value

    def open(self, address):
        self.logged.clear()
        self.requests.clear()
        self.call("Page.navigate", url=address)
        self.wait(f"location.href.startsWith({json.dumps(address)}) && document.readyState === 'complete'")

    def choose(self, selector, *paths):
        """Gives files to an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def drop(self, selector, path):
        """Drags a file onto an element."""
        x, y = self._middle(selector)
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def click(self, selector):
        """Presses the middle of an element, as a user does."""
        x, y = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _middle(self, selector):
        return self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )

    def text(self, selector):
        return self.value(f"document.querySelector({json.dumps(selector)}).textContent")

    def width_on(self, width):
        """How wide the page is on a screen of so many points."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=700, deviceScaleFactor=2, mobile=True)
        found = self.value("document.documentElement.scrollWidth")
        self.call("Emulation.clearDeviceMetricsOverride")
        return found

    def parts(self):
        """What a screen reader tells of what can be used: roles and names."""
        roles = {"button", "checkbox", "slider", "meter", "progressbar"}
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        found = [(n["role"]["value"], n.get("name", {}).get("value")) for n in nodes if not n["ignored"]]
        return [(role, name) for role, name in found if role in roles]

    def close(self):
        self._session = None
        try:
            self.call("Browser.close")
            self.process.wait(10)
        except (AssertionError, OSError, queue.Empty, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self._to)


@contextmanager
def browser(profile, *flags):
    opened = Browser(profile, *flags)
    try:
        yield opened
    finally:
        opened.close()


class Quiet(SimpleHTTPRequestHandler):
    isolated = False

    def end_headers(self):
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *args):
        pass


@contextmanager
def served(folder, isolated=False):
    """The address of a folder, as `python -m http.server` serves it; isolated: with the headers that allow threads."""
    handler = type("Handler", (Quiet,), {"isolated": isolated})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
