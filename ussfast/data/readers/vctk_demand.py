"""VCTK-DEMAND (the noisy speech database of C. Valentini-Botinhao), with DEMAND's rooms if they lie beside it.

Only its clean speech is read: the noisy files hold the same speech, and their difference is not the noise alone.
"""

from collections.abc import Iterator
from pathlib import Path

from ussfast.data.readers._base import Clip, Problem, Reader

TRAIN = ("clean_trainset_28spk_wav", "clean_trainset_56spk_wav")
DEV_SPEAKERS = {"p226", "p287"}  # of the 28 in the training part; customarily held out
# The rooms that the database's own test part was mixed with, and two that it does not use.
TEST_ROOMS = {"DLIVING", "OOFFICE", "TBUS", "SCAFE", "SPSQUARE"}
DEV_ROOMS = {"DWASHING", "NPARK"}


def find(folder: Path, work: Path) -> Iterator[Clip | Problem]:
    for part in (*TRAIN, "clean_testset_wav"):
        for path in sorted((folder / part).glob("*.wav")):
            speaker = path.stem.partition("_")[0]
            split = "test" if part not in TRAIN else "dev" if speaker in DEV_SPEAKERS else "train"
            yield Clip(
                path=path,
                prompt="speech",
                split=split,
                source="VCTK-DEMAND, clean speech (C. Valentini-Botinhao, University of Edinburgh)",
                license="CC BY 4.0",
                license_class="attribution",
                speaker=f"vctk {speaker}",
            )
    # The 16 channels of a room are one recording: the first says it all.
    for path in sorted([*folder.glob("*/ch01.wav"), *folder.glob("*/*/ch01.wav")]):
        room = path.parent.name
        yield Clip(
            path=path,
            prompt="sfxbg",
            split="test" if room in TEST_ROOMS else "dev" if room in DEV_ROOMS else "train",
            source="DEMAND (J. Thiemann, N. Ito, E. Vincent)",
            license="CC BY-SA 3.0",
            license_class="copyleft",
            label=room,
            group=f"demand {room}",
        )


READER = Reader(
    "vctk_demand",
    "VCTK-DEMAND",
    "clean_trainset_28spk_wav/ or clean_testset_wav/ with p???_???.wav, or rooms of DEMAND such as DKITCHEN/ch01.wav",
    find,
)
