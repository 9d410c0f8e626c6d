"""What a run says while it goes on."""

import sys
import time

from tqdm import tqdm

from ussfast.train.log import Row, measured

QUIET_SECONDS = 30.0
MOST_NAMES = 6  # figures of a validation in one line; of more, the mean alone


def clock() -> str:
    return time.strftime("%H:%M:%S")


class Console:
    """Rows of the log as lines; with a terminal, a bar with loss, learning rate and speed instead of most of them.

    Without a terminal no more than QUIET_SECONDS pass without a line, if steps do not take longer.
    """

    def __init__(self, steps: int, step: int, data: str = "mixtures"):
        self.live, self.steps, self.said, self.data = sys.stderr.isatty(), steps, time.monotonic(), data
        self.bar = tqdm(total=steps, initial=step, unit="step", disable=not self.live)

    def step(self, row: Row) -> None:
        if self.live:
            speed = f"{row['mixtures_per_second']:.1f} {self.data}/s"
            self.bar.set_postfix_str(f"loss {row['loss']:.2f}, lr {row['lr']:.1e}, {speed}", refresh=False)
            self.bar.update()
        elif time.monotonic() - self.said > QUIET_SECONDS:
            speed = f"{row['mixtures_per_second']:.1f} {self.data}/s"
            self.say(f"{clock()}  step {row['step']} of {self.steps}: loss {row['loss']:.3f} in this one, {speed}")

    def row(self, row: Row) -> None:
        at = clock()
        measure = measured(row)
        if measure is not None:
            found = row[measure.key]
            each = [f"{name} {measure.shown(value, unit=False)}" for name, value in found.items()]
            each = each if len(each) <= MOST_NAMES else [f"of {len(each)}"]
            mean = f"mean {measure.shown(row['mean'])}"
            self.say(f"{at}  step {row['step']}: {measure.name} {'  '.join([*each, mean])}")
        elif not self.live:
            loss = "not finite" if row["loss"] is None else f"{row['loss']:.3f}"
            speed = f"{row['mixtures_per_second']:.1f} {self.data}/s"
            self.say(f"{at}  step {row['step']}: loss {loss}, {row['hours']:.2f} h, {speed}")

    def say(self, line: str) -> None:
        if self.live:
            self.bar.write(line)
        else:
            print(line, flush=True)
        self.said = time.monotonic()

    def close(self) -> None:
        self.bar.close()
