"""Public data sets in miniature: folders and tables as their publishers lay them out, with noise for audio."""

import json

import numpy as np
import soundfile

from ussfast.data.manifest import SPLITS

RATE = 8000


def sound(path, seconds=0.1, rate=RATE, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    soundfile.write(path, 0.1 * rng.standard_normal((round(seconds * rate), channels)), rate)


def musdb18hq(root):
    for song in ("train/A - One", "train/Young Griffo - Pennies", "test/B - Two"):
        for stem in ("mixture", "drums", "bass", "other", "vocals"):
            sound(root / song / f"{stem}.wav", channels=2)


FSD_DEV = [  # clip, seconds, labels, split, licence
    ("1", 2, "Bark,Dog,Animal", "train", "http://creativecommons.org/publicdomain/zero/1.0/"),
    ("2", 2, "Bark,Dog,Animal,Rain,Water", "train", "http://creativecommons.org/licenses/by/3.0/"),
    ("3", 9, "Bark,Dog,Animal,Rain,Water", "val", "http://creativecommons.org/licenses/by-nc/4.0/"),
    ("4", 2, "Guitar,Musical_instrument,Music", "train", "http://creativecommons.org/publicdomain/zero/1.0/"),
    ("5", 9, "Rain,Water", "train", "http://creativecommons.org/licenses/sampling+/1.0/"),
    ("6", 9, "Male_speech_and_man_speaking,Rain,Water", "train", "http://creativecommons.org/licenses/by/3.0/"),
    ("7", 1, "Growling,Dog,Animal", "train", "http://creativecommons.org/licenses/by/3.0/"),
]


def fsd50k(root):
    for part, clips in (("dev", FSD_DEV), ("eval", [("8", 7.99, "Water", None, None), ("9", 8, "Water", None, None)])):
        lines = ["fname,labels,mids,split" if part == "dev" else "fname,labels,mids"]
        facts = {}
        for name, seconds, labels, split, license in clips:
            sound(root / f"FSD50K.{part}_audio" / f"{name}.wav", seconds)
            lines.append(f'{name},"{labels}","/m/1"' + (f",{split}" if split else ""))
            if license:
                facts[name] = {"license": license, "uploader": f"user{name}"}
        (root / "FSD50K.ground_truth").mkdir(exist_ok=True)
        (root / "FSD50K.metadata").mkdir(exist_ok=True)
        (root / "FSD50K.ground_truth" / f"{part}.csv").write_text("\n".join(lines))
        if part == "dev":
            (root / "FSD50K.metadata/dev_clips_info_FSD50K.json").write_text(json.dumps(facts))
    (root / "FSD50K.ground_truth/vocabulary.csv").write_text("0,Animal,/m/1\n")


def esc50(root):
    (root / "meta").mkdir()
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for name, fold, category, free in (("1-100-A-0", 1, "dog", True), ("5-7-B-14", 5, "birds", False)):
        sound(root / "audio" / f"{name}.wav")
        rows.append(f"{name}.wav,{fold},0,{category},{free},{name.split('-')[1]},A")
    (root / "meta/esc50.csv").write_text("\n".join(rows))


def vctk_demand(root):
    for part, name in (("trainset_28spk", "p228_001"), ("trainset_28spk", "p226_002"), ("testset", "p232_001")):
        sound(root / f"clean_{part}_wav" / f"{name}.wav")
        sound(root / f"noisy_{part}_wav" / f"{name}.wav")
    for room in ("DKITCHEN", "NPARK", "demand/TBUS"):
        for channel in (1, 2):
            sound(root / room / f"ch0{channel}.wav")


def wham(root):
    for part in ("tr", "cv", "tt"):
        sound(root / "wham_noise" / part / "011a_0.5_40na.wav", channels=2)


def fuss(root):
    for part in ("train", "validation", "eval"):
        for name in ("background0", "foreground0", "foreground1"):
            sound(root / part / "example00001_sources" / f"{name}_sound.wav")
        sound(root / part / "example00001.wav")


def dnr(root):
    for part in ("tr", "cv", "tt"):
        for name in ("speech", "music", "sfx", "mix"):
            sound(root / part / "1002" / f"{name}.wav")


def slakh(root):
    kinds = ["Bass", "Drums", "Piano", "Guitar", "Sound Effects", "Organ"]
    for track in ("train/Track00001", "validation/Track01501", "test/Track01876", "omitted/Track00002"):
        lines = ["stems:"]
        for number, kind in enumerate(kinds):
            lines += [f"  S{number:02d}:", f"    inst_class: {kind}", f"    is_drum: {str(kind == 'Drums').lower()}"]
            lines += [f"    midi_program_name: my {kind}", f"    audio_rendered: {str(kind != 'Organ').lower()}"]
            if kind != "Organ":
                sound(root / track / "stems" / f"S{number:02d}.flac")
        (root / track / "metadata.yaml").write_text("\n".join(lines))


def bach10(root):
    for piece in ("01-AchGottundHerr", "08-HerzliebsterJesu", "10-Nun"):
        for number, name in enumerate(("violin", "clarinet", "saxphone", "bassoon", None)):
            sound(root / piece / (f"{piece}-{name}.wav" if name else f"{piece}.wav"), seconds=0.1 + number / 100)


CHOIR = {  # singers of takes, with their microphones
    "LI_FullChoir_Take01": {"S1": "DYN HSM LRX", "S2": "LRX", "A1": "HSM LRX", "T1": "DYN", "B1": "LRX", "B2": "DYN"},
    "LI_QuartetB_Take04": {"S1": "DYN", "A1": "DYN", "T2": "DYN", "B2": "DYN"},
    "TP_QuartetA_Take01": {"S2": "DYN", "A2": "DYN", "T1": "DYN", "B1": "DYN"},
    "LI_FullChoir_Basses01": {"B1": "DYN", "B2": "DYN"},
}


def choirset(root):
    for take, singers in CHOIR.items():
        names = [f"{singer}_{mic}" for singer, mics in singers.items() for mic in mics.split()]
        for name in (*names, "Stereo_STM", "StereoReverb_STM"):
            sound(root / "audio_wav_22050_mono" / f"DCS_{take}_{name}.wav")


MAKERS = {f.__name__: f for f in (musdb18hq, fsd50k, esc50, vctk_demand, wham, fuss, dnr, slakh, bach10, choirset)}
EXPECTED = {  # (prompt, split): items
    "musdb18hq": {(p, s): 1 for p in ("drums", "bass", "other", "vocals") for s in SPLITS},
    "fsd50k": {("sfx", "train"): 2, ("sfx", "test"): 1} | {("sfxbg", split): 1 for split in SPLITS},
    "esc50": {("sfx", "train"): 1, ("sfx", "dev"): 1},
    "vctk_demand": {(p, s): 1 for p in ("speech", "sfxbg") for s in SPLITS},
    "wham": {("sfxbg", s): 1 for s in SPLITS},
    "fuss": {(p, s): n for p, n in (("sfx", 2), ("sfxbg", 1)) for s in SPLITS},
    "dnr": {(p, s): 1 for p in ("speech", "musicbg", "sfxbg") for s in SPLITS},
    "slakh": {(p, s): n for p, n in (("bass", 1), ("drums", 1), ("other", 2)) for s in SPLITS},
    "bach10": {(p, s): 1 for p in ("violin", "clarinet", "saxophone", "bassoon") for s in SPLITS},
    "choirset": {("soprano", "train"): 2, ("bass_voice", "train"): 2}
    | {(p, "train"): 1 for p in ("alto", "tenor")}
    | {(p, s): 1 for p in ("soprano", "alto", "tenor", "bass_voice") for s in ("dev", "test")},
}
