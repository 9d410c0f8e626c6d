"""Whether bytes that should be raw PCM are a file of some format: played as samples it would be loud noise."""

from collections.abc import Callable

ENOUGH = 4096  # bytes that tell: three headers of MP3 frames, the longest of which has 1441

# What files begin with, and what comes at some byte then.
_MAGIC = (
    *(("a WAV file", kind, 8, b"WAVE") for kind in (b"RIFF", b"RIFX", b"RF64", b"BW64")),
    ("a W64 file", b"riff", 4, b"\x2e\x91\xcf\x11"),
    ("a FLAC file", b"fLaC", 5, b"\0\0\x22"),
    ("an Ogg file", b"OggS", 4, b"\0\2"),
    ("an AIFF file", b"FORM", 8, b"AIF"),
    ("a CAF file", b"caff", 4, b"\0\1\0\0"),
    ("an AU file", b".snd\0\0", 12, b"\0\0\0"),
    *(("an MP3 file", b"ID3" + bytes([version]), 4, b"\0") for version in (2, 3, 4)),
    ("an MP4 file", b"\0\0\0", 4, b"ftyp"),
    ("a Matroska or WebM file", b"\x1a\x45\xdf\xa3", 4, b""),
    ("a WMA file", b"\x30\x26\xb2\x75", 4, b"\x8e\x66\xcf\x11"),
)

_BITRATES = {  # kbit/s of MPEG-1 and of MPEG-2 and 2.5, layer III
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def container(data: bytes, ended: bool = False) -> str | None:
    """What a stream that begins with these bytes is, "" if nothing that is known, None if more are needed to tell.

    At most ENOUGH bytes are needed, and of nearly all PCM a few, so that a live stream does not wait.

    ended: whether no more bytes come.
    """
    for name, first, at, second in _MAGIC:
        if data.startswith(first) and data.startswith(second, at) and len(data) >= at + len(second):
            return name
        begun = first.startswith(data[: len(first)]) and second.startswith(data[at : at + len(second)])
        if begun and len(data) < at + len(second) and not ended:
            return None
    for name, length in (("an MP3 file", _mp3_frame), ("an AAC file", _aac_frame)):
        frames = _frames(data, length)
        if frames is None and not ended and len(data) < ENOUGH:
            return None
        if frames:
            return name
    return ""


def _frames(data: bytes, length: Callable[[bytes], int]) -> bool | None:
    """Whether three frames of one kind follow each other from the first byte on; None if there are too few bytes."""
    at = 0
    for _ in range(3):
        head = data[at : at + 7]
        if head and head[0] != 0xFF:
            return False
        if len(head) < 7:
            return None
        size = length(head)
        if not size:
            return False
        at += size
    return True


def _mp3_frame(head: bytes) -> int:
    """Bytes of the layer III frame that begins so, 0 if none does."""
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rate, speed = head[2] >> 4, head[2] >> 2 & 3
    if head[1] >> 5 != 7 or version == 1 or layer != 1 or rate in (0, 15) or speed == 3 or head[3] & 3 == 2:
        return 0
    samples, kbits = (144, _BITRATES[3]) if version == 3 else (72, _BITRATES[2])
    return samples * 1000 * kbits[rate] // _RATES[version][speed] + (head[2] >> 1 & 1)


def _aac_frame(head: bytes) -> int:
    """Bytes of the ADTS frame that begins so, 0 if none does."""
    if head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size > 7 else 0
