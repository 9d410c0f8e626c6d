"""What interrupts streams in tests, and chunks that come at a pace while it does."""

import socket
import threading
import time

from stream_servers import by_label

FORWARD = 1 << 14
SIZE = 160  # of a chunk


class Relay:
    """Between client and server, so that connections can be cut, or go dead without anybody's knowing."""

    def __init__(self, port):
        self.port, self.pairs, self.dead = port, [], set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.port))
            self.pairs.append((near, far))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(near, one, other), daemon=True).start()

    def _pass(self, pair, one, other):
        try:
            while data := one.recv(FORWARD):
                if pair not in self.dead:
                    other.sendall(data)
        except OSError:
            pass
        if pair not in self.dead:
            for end in (one, other):
                end.close()

    def cut(self):
        for near, far in self.pairs:
            for end in (near, far):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)  # which wakes whoever waits there, too
        self._listener.close()
        self.dead.clear()
        self.cut()


def wait_until(done):
    limit = time.monotonic() + 60
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.01)


def paced(client, audio, acts, changes=(), size=SIZE, pace_s=0.004):
    """Chunks, with something done when so many samples were sent; changes: (at, prompts)."""
    acts, changes = dict(acts), dict(changes)
    for at in range(0, audio.shape[1], size):
        if at in changes:
            client.set_prompts(changes[at])
        if at in acts:
            acts[at]()
        yield audio[:, at : at + size]
        time.sleep(pace_s)


def heard(client, chunks):
    return by_label([(piece.labels, piece.stems) for piece in client.stream(chunks)])


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]
