"""The bundled demonstration: a real voice in real wind, and how well the embedded model takes them apart."""

from pathlib import Path

from ussfast.audio import read
from ussfast.evaluate.metrics import si_sdr
from ussfast.separator import Separator

HERE = Path(__file__).parent
PROMPTS = ("speech", "sfxbg")


def run(output: Path, device: str = "auto") -> None:
    """Separates the bundled mixture into `output` and prints where to listen and the SI-SDR improvement."""
    separator = Separator("default", PROMPTS, device=device)
    mixture = HERE / "mixture.flac"
    paths = separator.separate_file(mixture, output)
    mixed = read(mixture)[0]
    print(f"model: {separator.info.name}, {separator.info.parameters / 1e6:.2f} M parameters")
    print(f"mixture (a voice in the wind, both recorded): {mixture}")
    for name, path in zip(PROMPTS, paths, strict=True):
        reference = read(HERE / f"{name}.flac")[0]
        before, after = si_sdr(mixed, reference), si_sdr(read(path)[0], reference)
        print(f"{name:7} SI-SDR {before:5.1f} dB -> {after:5.1f} dB ({after - before:+.1f} dB)  listen: {path}")
