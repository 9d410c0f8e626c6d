"""How far work falls behind the audio that it is for, and when it has to pause."""

SHORTEST_REST_S, LONGEST_REST_S = 0.5, 30.0
STEADY = 8  # times the last pause, after which an overrun has nothing to do with the one before


class Lateness:
    """Counts seconds of work against seconds of audio.

    What work takes beyond its audio is delay for whoever waits for it. Once that is too much the work should pause,
    until audio without work has made up for it. Work that is too slow all the time pauses longer and longer, so that
    one does not hear it come and go.

    Args:
        most_s: delay, in seconds, that is borne.
    Attributes:
        late_s: the delay now. overruns: how often it was too much. keeps_up: False while the work should pause.
    """

    def __init__(self, most_s: float):
        self._most_s = most_s
        self.overruns = 0
        self.begin()

    def begin(self) -> None:
        """Another stream, in time; overruns are counted on."""
        self.late_s, self.keeps_up = 0.0, True
        self._rest_s, self._left_s, self._steady_s = SHORTEST_REST_S, 0.0, 0.0

    def spent(self, work_s: float, audio_s: float) -> None:
        """So much work, perhaps none, went by with so much audio."""
        self.late_s = max(0.0, self.late_s + work_s - audio_s)
        if self.keeps_up:
            self._steady_s += audio_s
            if self.late_s > self._most_s:
                self._overrun()
            return
        self._left_s -= audio_s
        if self._left_s <= 0 and not self.late_s:
            self.keeps_up, self._steady_s = True, 0.0

    def _overrun(self) -> None:
        again = self.overruns and self._steady_s < STEADY * self._rest_s
        self._rest_s = min(2 * self._rest_s, LONGEST_REST_S) if again else SHORTEST_REST_S
        self.overruns += 1
        self.keeps_up, self._left_s = False, self._rest_s
