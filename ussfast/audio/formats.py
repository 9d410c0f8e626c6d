"""Formats of files to write: what each can hold, and what the settings mean for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ussfast.audio.resampling import whole_rate
from ussfast.errors import InputError

BIT_DEPTHS = {"wav": (32, 24, 16), "flac": (24, 16)}  # the first is the default
# Surround in Ogg has an order of channels of its own, which libsndfile does not put right: two at most.
MAX_CHANNELS = {"wav": 1024, "flac": 8, "mp3": 2, "ogg": 2, "opus": 2}
FORMATS = tuple(MAX_CHANNELS)
CLIPS = ("clamp", "rescale", "none")
RATES = {
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    "opus": (8000, 12000, 16000, 24000, 48000),
}
OGG_MAX_RATE = 200_000  # libvorbis has no setup for more, and libsndfile crashes there
# kbit/s of MPEG-1 (from 32 kHz), MPEG-2 (from 16 kHz) and MPEG-2.5.
_MPEG_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG_25 = (8, 16, 24, 32, 40, 48, 56, 64)
_LAME_TAG = 156  # bytes
OPUS_BITRATES = (6, 256)  # least and most, in kbit/s for each channel
DEFAULT_QUALITY = 8.0
DEFAULT_OPUS_BITRATE = 96  # kbit/s for each channel


@dataclass(frozen=True)
class OutputFormat:
    """How stems are written; what is None has a default of the format.

    format: "wav", "flac", "mp3", "ogg" (Vorbis) or "opus"; by default what a file's suffix says.
    bit_depth: WAV: 32 (IEEE float, the default), 24 or 16 (PCM); FLAC: 24 (the default) or 16.
    bitrate: kbit/s of all channels together. MP3: constant, one of those that MP3 has. Opus: the mean that the encoder
        aims at, 6 to 256 for each channel, by default 96.
    quality: of a variable bit rate, 0 (small) to 10 (good), by default 8. MP3: LAME's V(10 - quality). Ogg: that of
        oggenc -q.
    clip: what becomes of samples beyond full scale (1.0). "clamp": they become full scale; the default, except for
        float WAV. "rescale": all stems of a recording are scaled by one factor, so that none is beyond and they still
        add up. "none": they are written as they are; the default of float WAV, and not for PCM, which cannot.

    Raises:
        InputError: a value, or a combination, that no format takes.
    """

    format: str | None = None
    bit_depth: int | None = None
    bitrate: int | None = None
    quality: float | None = None
    clip: str | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip not in CLIPS:
            raise InputError(f"clip must be one of {', '.join(CLIPS)}, not {self.clip!r}")
        if self.bitrate is not None and self.quality is not None:
            raise InputError("bitrate and quality exclude each other: give one of them")
        if self.quality is not None and not 0 <= self.quality <= 10:
            raise InputError(f"quality must lie between 0 and 10, not at {self.quality}")
        if self.format is not None:
            self.name(None)

    @classmethod
    def of(cls, format: "str | OutputFormat | None", bit_depth: int | None = None) -> "OutputFormat":
        """From the two arguments of functions that write."""
        if not isinstance(format, OutputFormat):
            return cls(format, bit_depth)
        if bit_depth is not None:
            raise InputError("bit_depth belongs into the OutputFormat where there is one")
        return format

    def name(self, path: str | Path | None) -> str:
        """The format of the file at `path`, one of FORMATS; without a path, that of the settings.

        Raises:
            InputError: there is none of that name, or it cannot have these settings.
        """
        name = (self.format or Path(path or "").suffix[1:]).lower()
        if name not in FORMATS:
            last = f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]}"
            raise InputError(f"{name or 'no suffix'!r} is not a format to write: {last} are")
        depths = BIT_DEPTHS.get(name, ())
        if self.bit_depth is not None and self.bit_depth not in depths:
            allowed = f"bit_depth must be one of {sorted(depths)}" if depths else "bit_depth is for wav and flac"
            raise InputError(f"{name} of {self.bit_depth} bits: {allowed}")
        if self.quality is not None and name not in ("mp3", "ogg"):
            raise InputError(f"{name} has no quality to choose: mp3 and ogg have")
        if self.bitrate is not None and name not in ("mp3", "opus"):
            raise InputError(f"{name} has no bitrate to choose: mp3 and opus have")
        if self.clip == "none" and (self.bit_depth or (32 if name != "flac" else 24)) < 32:
            raise InputError("PCM holds nothing beyond full scale: clip must be clamp or rescale, not none")
        return name

    def for_file(self, path: str | Path, sample_rate: Any, channels: int) -> "FileSettings":
        """Settings of one file. Raises InputError: the file cannot have them, or this rate or channel count."""
        name = self.name(path)
        if not 1 <= channels <= MAX_CHANNELS[name]:
            raise InputError(f"{path}: {name} holds 1 to {MAX_CHANNELS[name]} channels, not {channels}")
        sample_rate = whole_rate(sample_rate, f"{path}: the sample rate", 2**31 - 1)
        depth = (self.bit_depth or BIT_DEPTHS[name][0]) if name in BIT_DEPTHS else None
        clip = self.clip or ("none" if depth == 32 else "clamp")
        rate = file_rate(name, sample_rate)
        if self.bitrate is not None:
            _check_bitrate(path, name, self.bitrate, rate, channels)
        return FileSettings(name, rate, channels, depth, self.bitrate, self.quality, clip)


@dataclass(frozen=True)
class FileSettings:
    """What one file has: `rate` in Hz, `bit_depth` None in lossy formats, `clip` one of CLIPS."""

    name: str
    rate: int
    channels: int
    bit_depth: int | None
    bitrate: int | None
    quality: float | None
    clip: str

    def encoder(self) -> dict[str, object]:
        """Arguments of soundfile.SoundFile for this file (not of WAV, which we write ourselves)."""
        if self.name == "flac":
            return {"format": "FLAC", "subtype": f"PCM_{self.bit_depth}"}
        # libsndfile has one number from 0 (large files) to 1 for all encoders.
        quality = DEFAULT_QUALITY if self.quality is None else self.quality
        level = min(1 - quality / 10, 0.999)  # LAME knows no V10
        if self.name == "ogg":
            return {"format": "OGG", "subtype": "VORBIS", "compression_level": level}
        if self.name == "opus":
            least, most = OPUS_BITRATES
            each = DEFAULT_OPUS_BITRATE if self.bitrate is None else self.bitrate / self.channels
            return {"format": "OGG", "subtype": "OPUS", "compression_level": (most - each) / (most - least)}
        mp3 = {"format": "MP3", "subtype": "MPEG_LAYER_III"}
        if self.bitrate is None:
            return mp3 | {"compression_level": level, "bitrate_mode": "VARIABLE"}
        least, most = (32, 320) if self.rate >= 32000 else (8, 160) if self.rate >= 16000 else (8, 64)
        # It rounds down to whole kbit/s: half of one more.
        level = max(0.0, (most - self.bitrate - 0.5) / (most - least))
        return mp3 | {"compression_level": level, "bitrate_mode": "CONSTANT"}


def file_rate(name: str, sample_rate: int) -> int:
    """The rate in Hz that a file of this format has for audio of `sample_rate`: the next higher one that it can have,
    or its highest."""
    if name == "ogg":
        return min(sample_rate, OGG_MAX_RATE)
    rates = RATES.get(name, (sample_rate,))
    return next((rate for rate in rates if rate >= sample_rate), rates[-1])


def mp3_bitrates(rate: int, channels: int = 1) -> tuple[int, ...]:
    """kbit/s that an MP3 of this rate in Hz can have.

    Not the lowest ones: there a frame is too small for LAME's tag, without which players do not know how much the
    encoder put before the sound (about 0.03 s) and after it.
    """
    everything = _MPEG_1 if rate >= 32000 else _MPEG_2 if rate >= 16000 else _MPEG_25
    # Bytes of side information in a frame, mono and stereo, and of a frame of 1 kbit/s at 1 Hz.
    side, frame = ((17, 32), 144_000) if rate >= 32000 else ((9, 17), 72_000)
    needed = 4 + side[channels > 1] + _LAME_TAG
    return tuple(kbits for kbits in everything if frame * kbits // rate >= needed)


def _check_bitrate(path: str | Path, name: str, bitrate: int, rate: int, channels: int) -> None:
    if name == "mp3" and bitrate not in (allowed := mp3_bitrates(rate, channels)):
        raise InputError(f"{path}: an MP3 of {rate} Hz cannot have {bitrate} kbit/s: one of {list(allowed)}")
    least, most = OPUS_BITRATES[0] * channels, OPUS_BITRATES[1] * channels
    if name == "opus" and not least <= bitrate <= most:
        raise InputError(f"{path}: bitrate of opus must be {least} to {most} kbit/s here, not {bitrate}")
