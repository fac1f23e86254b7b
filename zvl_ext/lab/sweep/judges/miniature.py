"""What two judges say of the miniature's pictures: its classifier, and one by rules that was never trained."""

from __future__ import annotations

import os
from functools import lru_cache

from PIL import Image

from ....measures import ADHERENCE, SIMILARITY, Metric, Shown
from ...demo import Judge, named_in
from ...digests import weights_digest
from ...miniature import judge
from ...miniature.measure import load_classifier
from ...miniature.world import SIZE


def metrics(folder: str) -> list[Metric]:
    """The measures of a miniature's folder of weights."""
    judges = Judges(folder)
    of = weights_digest(os.path.dirname(judges.file))
    return [
        Metric("adherence", "Prompt adherence", "How probable the miniature's classifier finds what the prompt names, "
               "0 to 1.", judges.adherence, 1, ADHERENCE, identity=of),
        Metric("similarity", "Reference similarity", "How probable the classifier finds what the reference shows, in "
               "shape, colour, background and style, 0 to 1.", judges.similarity, 1, SIMILARITY, identity=of),
        Metric("ruled_adherence", "Adherence by rules", "Share of what the prompt names in shape, colour and "
               "background that a judge finds which was never trained: it fits outlines and colours.",
               judges.ruled_adherence, 1),
        Metric("ruled_similarity", "Similarity by rules", "The same judge: share of what it finds in the reference.",
               judges.ruled_similarity, 1),
    ]  # fmt: skip


class Judges:
    """Both judges; the classifier is opened when it is first asked."""

    def __init__(self, folder: str):
        self.file = os.path.join(folder, "classifier.safetensors")
        self._folder, self._classifier = folder, None
        self._judge = lru_cache(maxsize=256)(self._opened)
        self._seen = lru_cache(maxsize=256)(_seen)

    def _opened(self, prompt: str, size: tuple[int, int], pixels: bytes) -> Judge:
        from ....reference import open_reference

        self._classifier = self._classifier or load_classifier(self._folder)
        return Judge(self._classifier, prompt, open_reference(Image.frombytes("RGB", size, pixels)), None)

    def _measured(self, shown: Shown) -> tuple[float | None, float]:
        def measure() -> tuple[float | None, float]:
            about = shown.reference or shown.picture
            picture = shown.picture.resize((SIZE, SIZE))
            return self._judge(shown.prompt, about.size, about.tobytes()).measure(picture)

        return shown.once("judged", measure)

    def adherence(self, shown: Shown) -> float | None:
        return self._measured(shown)[0]

    def similarity(self, shown: Shown) -> float | None:
        return self._measured(shown)[1] if shown.reference else None

    def ruled_adherence(self, shown: Shown) -> float | None:
        named = named_in(shown.prompt)
        return _share({name: named[name] for name in judge.RULED if name in named}, shown)

    def ruled_similarity(self, shown: Shown) -> float | None:
        if shown.reference is None:
            return None
        return _share(self._seen(shown.reference.size, shown.reference.tobytes()), shown)


def _seen(size: tuple[int, int], pixels: bytes) -> dict[str, str]:
    return judge.seen(Image.frombytes("RGB", size, pixels))


def _share(wanted: dict[str, str], shown: Shown) -> float | None:
    if not wanted:
        return None
    found = shown.once("seen", lambda: judge.seen(shown.picture))
    return sum(found[name] == value for name, value in wanted.items()) / len(wanted)
