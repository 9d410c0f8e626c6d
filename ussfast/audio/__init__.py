"""Audio in and out: files as bounded blocks, callers' arrays, folders, rates. Samples are float32 [channels, frames].

Nothing here needs torch.
"""

from ussfast.audio.arrays import as_samples, validate
from ussfast.audio.atomic import atomic_write
from ussfast.audio.formats import FORMATS, OutputFormat
from ussfast.audio.given import known_rate, load
from ussfast.audio.held import given_file, is_file
from ussfast.audio.picture import Track, check_picture, draw, draw_files
from ussfast.audio.reading import AUDIO_SUFFIXES, AudioInfo, AudioReader, find_inputs, probe, read
from ussfast.audio.resampling import Resampler, resample
from ussfast.audio.stems import StemWriter, Written, stem_files
from ussfast.audio.writing import AudioWriter

__all__ = [
    "AUDIO_SUFFIXES", "FORMATS", "AudioInfo", "AudioReader", "AudioWriter", "OutputFormat", "Resampler", "StemWriter",
    "Track", "Written", "as_samples", "atomic_write", "check_picture", "draw", "draw_files", "find_inputs",
    "given_file", "is_file", "known_rate", "load", "probe", "read", "resample", "stem_files", "validate",
]  # fmt: skip
