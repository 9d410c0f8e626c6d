"""What there is in a recording, each sound as a prompt of its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ussfast.audio import AudioReader, given_file, is_file, known_rate, validate
from ussfast.checkpoints.names import DETECTOR, embedded
from ussfast.detect.detector import Detector
from ussfast.detect.sounds import MOST_SOUNDS, THRESHOLD, TOP, Sound, cut_out, sounds
from ussfast.enrolling import Enrolling
from ussfast.errors import CheckpointError, InputError, PromptError
from ussfast.prompts.bank import Plan, Prompt
from ussfast.separation import Separation
from ussfast.values import whole

if TYPE_CHECKING:
    from ussfast.separator import Separator

UNNAMED = "a sound"  # labels may be names of class prompts, and these prompts are stored nowhere
TAKEN = 0.05  # of the energy of the pieces: so little is left of a sound that is part of those before it


@dataclass(frozen=True, eq=False)
class Found(Plan):
    """What `Separator.find` found: `prompts` for the separator that found it, labels as names.

    sounds: where each was heard, in the order of labels, the highest score first.
    """

    sounds: tuple[Sound, ...]

    def __repr__(self) -> str:
        return f"Found({', '.join(self.labels)})"


class Finding(Enrolling):
    """The part of a `Separator` that finds out what there is to ask for."""

    def find(
        self,
        audio: Any,
        sample_rate: int | None = None,
        *,
        threshold: float = THRESHOLD,
        top: int = TOP,
        detector: str | Path | Detector | None = None,
    ) -> Found:
        """The sounds in a recording, as prompts made of the recording itself: `separate(audio, prompts=find(audio))`.

        Each sound is shown by the parts of the recording in which it was detected, 30 s of them at most: if it is alone
        for a while by those parts only, else by what is left of them without the sounds that are. Labels that are in
        the same places are one sound. Memory does not depend on the duration.

        Args:
            audio, sample_rate: as for `separate`.
            threshold: a sound has a score above this somewhere, from 0 to 1.
            top: sounds at most, those with the highest scores.
            detector: says what there is and when: a Detector, a model directory or owner/name on the Hub. By default
                the separator's own, if it has one, else the embedded one.
        Raises:
            InputError: nothing was found; a detector that tags whole clips only; see also `enroll`.
            PromptError: a model that makes no prompts of clips.
            CheckpointError: there is no detector.
        """
        top = whole(top, "top", 1, MOST_SOUNDS)
        self._source()  # a model that makes no prompts of clips is an error before the work
        audio = given_file(audio) if is_file(audio) else audio
        listener = self._listener(detector)
        heard = sounds(listener.detect(audio, sample_rate, threshold=threshold), top)
        if not heard:
            raise InputError(f"no sound that detector {listener.info.name!r} knows has a score above {threshold:g}")
        separator = cast("Separator", self)
        return _made(separator, heard, *_pieces(audio, sample_rate, separator.sample_rate, heard))

    def separate_everything(self, audio: Any, sample_rate: int | None = None, **asked: Any) -> Separation:
        """Separates what `find` finds: `asked` are its arguments. For files that do not fit into memory:
        `separate_file(path, directory, prompts=separator.find(path), residual=True)`."""
        audio = given_file(audio) if is_file(audio) else audio
        one = cast("Separator", self)
        found: Any = self.find(audio, sample_rate, **asked)
        return one.separate(audio, sample_rate, prompts=found)

    def _own_plan(self, plan: Plan) -> Plan:
        """What another call found; PromptError where that was with another model."""
        size = self.prompts.prompt_size
        if plan.vectors is None or plan.vectors.shape[1] != size:
            raise PromptError(f"model {self.info.name!r} did not find these sounds: {', '.join(plan.labels)}")
        device = self.engine.device
        return plan if plan.vectors.device == device else replace(plan, vectors=plan.vectors.to(device))

    def _listener(self, given: str | Path | Detector | None) -> Detector:
        if isinstance(given, Detector):
            return given
        if given is None and self._detector is not None:
            return self._detector.loaded(self.engine.device)
        if given is None and DETECTOR not in embedded():
            raise CheckpointError("no detector comes with this ussfast: give one, find(..., detector=MODEL)")
        return Detector(DETECTOR if given is None else given, device=str(self.engine.device))


def _made(separator: "Separator", heard: Sequence[Sound], clips: Sequence[list[np.ndarray]], rate: int) -> Found:
    made: list[tuple[Sound, Prompt]] = []
    why: InputError | None = None
    for sound, pieces in zip(heard, clips, strict=True):
        try:
            _add(separator, made, sound, pieces, rate)
        except InputError as error:  # too little of it can be heard
            why = why or InputError(f"{sound.label}: {error}")
    if not made:
        assert why is not None
        raise why
    return _found(made)


def _found(made: Sequence[tuple[Sound, Prompt]]) -> Found:
    made = sorted(made, key=lambda pair: -pair[0].score)
    labels = tuple(sound.label for sound, _ in made)
    vectors = torch.stack([prompt.vector for _, prompt in made])
    return Found(labels, tuple((label, 0) for label in labels), vectors, (), tuple(sound for sound, _ in made))


def _pieces(
    audio: Any, sample_rate: int | None, own: int, heard: Sequence[Sound]
) -> tuple[list[list[np.ndarray]], int]:
    """The pieces of each sound, [1, samples], and their rate in Hz."""
    places = [piece for sound in heard for piece in sound.pieces]
    if is_file(audio):
        with AudioReader(audio) as reader:
            rate, cut = reader.sample_rate, cut_out(reader, reader.sample_rate, places)
    else:
        rate = known_rate(sample_rate, own)
        cut = cut_out([validate(audio)], rate, places)
    left = iter(cut)
    return [[next(left)[None] for _ in sound.pieces] for sound in heard], rate


def _add(
    separator: "Separator", made: list[tuple[Sound, Prompt]], sound: Sound, pieces: list[np.ndarray], rate: int
) -> None:
    """Makes the prompt of a sound of its pieces, less what is known to be in them, unless that is all of it.

    A vector of a mixture asks for the mixture: what is left shows the sound itself, by far.
    """
    over = [pair for pair in made if pair[0].label in sound.over]
    if over:
        known: Any = _found(over)
        stems = [separator.separate(piece, rate, prompts=known).stems for piece in pieces]
        rest = [piece - stem.sum(0) for piece, stem in zip(pieces, stems, strict=True)]
        if _energy(rest) < TAKEN * _energy(pieces):
            loudest = max(range(len(known.labels)), key=lambda i: _energy(stem[i] for stem in stems))
            _join(made, known.labels[loudest], sound)
            return
        pieces = rest
    prompt = _prompt(separator, pieces, rate)
    same = next((one.label for one, other in made if torch.equal(other.vector, prompt.vector)), None)
    if same is not None:
        _join(made, same, sound)
    else:
        made.append((sound, prompt))


def _prompt(separator: "Separator", pieces: list[np.ndarray], rate: int) -> Prompt:
    try:
        return separator.prompt_of(UNNAMED, pieces, rate)
    except InputError:
        # A piece in which nothing can be heard is no reason to leave out the others.
        audible = [piece for piece in pieces if _audible(separator, piece, rate)]
        if not audible:
            raise
        return separator.prompt_of(UNNAMED, audible, rate)


def _audible(separator: "Separator", piece: np.ndarray, rate: int) -> bool:
    try:
        separator.prompt_of(UNNAMED, [piece], rate)
    except InputError:
        return False
    return True


def _join(made: list[tuple[Sound, Prompt]], label: str, sound: Sound) -> None:
    """Makes a sound part of the one of this label."""
    for i, (one, prompt) in enumerate(made):
        if one.label == label:
            made[i] = replace(one, also=(*one.also, sound.label, *sound.also)), prompt


def _energy(parts: Iterable[np.ndarray]) -> float:
    return sum(float(np.square(part, dtype=np.float64).sum()) for part in parts)
