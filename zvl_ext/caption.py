"""A reference described by the Qwen3-VL that reads it: what is asked, how long the answer may be, what is taken of
it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from .errors import Stopped, ZvlError, shown
from .sequence import TEMPLATE, Encode, Sequence, build_sequence

if TYPE_CHECKING:
    from .framing import Size
    from .options import Settings
    from .qwen3vl.checkpoint import Checkpoint
    from .qwen3vl.writing import Writer
    from .reference import Reference


class Length(NamedTuple):
    """How long a caption is.

    Attributes:
        words: What is asked for.
        tokens: Where it ends at the latest, in the middle of a sentence if need be.
    """

    words: str
    tokens: int


LENGTHS = {
    "short": Length("in one short sentence", 64),
    "medium": Length("in one paragraph of three to five sentences", 256),
    "long": Length("in great detail, in two or three paragraphs", 768),
}
LANGUAGES = (
    "English", "Chinese", "Japanese", "Korean", "German", "French", "Spanish", "Portuguese", "Italian", "Russian",
)  # fmt: skip
_ASKED = (
    "Describe this image {}, as a prompt for an image generator: the subject, the setting, the composition, the style, "
    "the colours and the light. Write only the description."
)
_MOST_CHARACTERS, _LONGEST_LANGUAGE = 4000, 40
_MOST_TOKENS = 2048  # as of the texts that are read with a reference
_SPECIAL = re.compile(r"<\|\w+\|>")  # a token of the model's own as text
_LANGUAGE = re.compile(r"\w[\w ()'-]*")
_THOUGHT = 2048  # tokens that a thinking model may think for
_OPEN, _CLOSE = "<think>", "</think>"
_HALF = "\ufffd"  # what a tokenizer gives for bytes that are no whole character


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    Attributes:
        length: A key of LENGTHS.
        language: Of the caption, in English.
        instruction: What is asked of the model in place of the usual; "" for that. How long the caption is and in which
            language is its own matter then; `length` only bounds it.

    Raises:
        ZvlError: on making it, for a value that can't be used.
    """

    length: str = "medium"
    language: str = LANGUAGES[0]
    instruction: str = ""

    def __post_init__(self) -> None:
        for name in ("length", "language", "instruction"):
            if not isinstance(getattr(self, name), str):
                raise ZvlError(f"{name} has to be text, not {shown(getattr(self, name))}.")
        if self.length not in LENGTHS:
            raise ZvlError(f"length is {shown(self.length)}, it has to be {', '.join(LENGTHS)}.")
        if len(self.language) > _LONGEST_LANGUAGE or not _LANGUAGE.fullmatch(self.language.strip()):
            raise ZvlError(f"language is {shown(self.language)}; name one in a word, such as English.")
        if len(self.instruction) > _MOST_CHARACTERS:
            raise ZvlError(
                f"The instruction has {len(self.instruction)} characters; at most {_MOST_CHARACTERS} are read. "
                "Shorten it."
            )
        if found := _SPECIAL.search(self.instruction):
            raise ZvlError(f"The instruction has {found[0]} in it, a token of the model's own. Take it out.")
        try:
            self.instruction.encode()
        except UnicodeEncodeError as error:
            raise ZvlError("The instruction has half a character in it. Write it anew.") from error

    @property
    def question(self) -> str:
        """What the model is asked."""
        if own := self.instruction.strip():
            return own
        language = self.language.strip()
        asked = _ASKED.format(LENGTHS[self.length].words)
        return asked if language == LANGUAGES[0] else f"{asked} Write it in {language}."


@dataclass(frozen=True)
class Caption:
    """What came of it.

    Attributes:
        text: Without a thinking model's thoughts.
        tokens: How many the model wrote.
        ended: Why no more: "whole", "length" (it would have gone on) or "stopped".
    """

    text: str
    tokens: int
    ended: str


@dataclass(frozen=True)
class Asked:
    """A wish on its way: what it is of, who gets the words, and whether they are still wanted.

    Attributes:
        shape: The picture's width and height, to which a reference is cropped.
        on_text, stopped: As for `describe`.
    """

    wish: Wish
    shape: Size = (1024, 1024)
    on_text: Callable[[str], None] = lambda piece: None
    stopped: Callable[[], bool] = lambda: False


class Vocabulary(Protocol):
    """A tokenizer in both directions, as `qwen3vl.tokenizer.Words`."""

    def __call__(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...


class Describer(Protocol):
    """What a host provides: Qwen3-VL with all its layers, loaded when it is first asked."""

    checkpoint: Checkpoint

    def write(
        self, sequence: Sequence, reference: Reference, tokens: int, writer: Writer, most: int, ends: list[int]
    ) -> None:
        """As `qwen3vl.writing.write`."""


def describe(
    describer: Describer,
    words: Vocabulary,
    reference: Reference,
    wish: Wish,
    tokens: int,
    on_text: Callable[[str], None] = lambda piece: None,
    stopped: Callable[[], bool] = lambda: False,
    question: str | None = None,
) -> Caption:
    """Have a reference described.

    Args:
        words: The model's tokenizer.
        reference: As it is to be seen: its part, without what a mask leaves out.
        tokens: The reference's budget of image tokens.
        on_text: Gets the caption piece by piece, in whole characters; together they are its text.
        stopped: Asked after each token; then what there is stays.
        question: What is asked instead of the wish's: of a model that knows no instructions.

    Raises:
        ZvlError: there is no language model, or it can't be read; the instruction is too long; or the model has only
            thought.
    """
    checkpoint = describer.checkpoint
    checkpoint.require_words()
    asked = wish.question if question is None else question
    if (long := len(words(asked))) > _MOST_TOKENS:
        raise ZvlError(f"The instruction has {long} tokens; at most {_MOST_TOKENS} are read. Shorten it.")
    thinks = _thinks(checkpoint)
    sequence = _sequence(checkpoint, words, reference, tokens, asked, thinks)
    ends = [id for token in ("<|im_end|>", "<|endoftext|>") for id in _single(words, token)]
    written = Written(words, LENGTHS[wish.length].tokens, set(ends), thinks, on_text, stopped)
    try:
        describer.write(sequence, reference, tokens, written, written.most + _THOUGHT, ends)
    except Stopped:
        written.cut = True
    finally:
        written.end()  # also where what is raised is a person's Ctrl-C
    if written.thinking and written.caption.ended != "stopped":
        raise ZvlError(
            f"{checkpoint.name} thought for {_THOUGHT} tokens and described nothing. Take an Instruct model for that."
        )
    return written.caption


def part_seen(settings: Settings, number: int, shape: Size) -> Reference:
    """The part of a reference that is read, grey where its mask leaves it out.

    Args:
        settings: With a reference of that number.
        shape: The picture's width and height.

    Raises:
        ZvlError: there is no such reference, or it or its mask can't be read.
    """
    from .conditioner import unit_of  # torch is behind it: late
    from .framing import masked

    if number not in settings.units:
        raise ZvlError(f"There is no reference {number} to describe. Drop a picture there first.")
    unit = unit_of(number, settings.units[number], shape)
    return unit.reference if unit.mask is None else masked(unit.reference, unit.mask)


def _sequence(
    checkpoint: Checkpoint, words: Encode, reference: Reference, tokens: int, question: str, thinks: bool
) -> Sequence:
    """One user turn with the picture before the question, as Qwen3-VL's chat template writes it."""
    prompt = TEMPLATE.format(question) + (f"{_OPEN}\n" if thinks else "")
    return build_sequence(words(prompt), checkpoint.grid(reference, tokens), words, vision=checkpoint.vision_tokens)


def _single(words: Encode, token: str) -> list[int]:
    """A special token's id; none where the tokenizer does not know it."""
    ids = words(token)
    return ids if len(ids) == 1 else []


def _thinks(checkpoint: Checkpoint) -> bool:
    """Whether the model is one that thinks first: its chat template opens a thought, which its name tells."""
    return "thinking" in checkpoint.name.lower()


class Written:
    """Tokens as they are written, and the caption they make. Called with each token it says whether it wants no more:
    a `writing.Writer`.

    Args:
        most: Tokens of the caption; a thought's do not count.
        thinking: Whether a thought has been opened already.

    Attributes:
        cut: Whether the work was ended from outside.
    """

    def __init__(
        self,
        words: Vocabulary,
        most: int,
        ends: set[int],
        thinking: bool,
        on_text: Callable[[str], None],
        stopped: Callable[[], bool],
    ):
        self.most, self.thinking, self.cut = most, thinking, False
        self._words, self._ends, self._on_text, self._stopped = words, ends, on_text, stopped
        self._over = self._whole = False  # it is told that there is no more; it ended by itself
        self._all = 0
        self._ids: list[int] = []  # of the caption, or of the thought
        self._given = ""

    def __call__(self, id: int) -> bool:
        self._all += 1
        if id in self._ends:
            self._whole = True
        else:
            self._ids.append(id)
        text = self._words.decode(self._ids)
        if not self.thinking and not self._given and text.lstrip().startswith(_OPEN):
            self.thinking = True
        if self.thinking:
            if _CLOSE in text:
                self.thinking, self._ids = False, []
        elif not text.endswith(_HALF) and not (text.strip() and _OPEN.startswith(text.strip())):
            self._give(text)
        return self._stopped() or (not self.thinking and len(self._ids) >= self.most)

    def end(self) -> None:
        if not self._over and not self.thinking:
            self._over = True
            self._give(self._words.decode(self._ids).rstrip(_HALF))

    @property
    def caption(self) -> Caption:
        ended = "whole" if self._whole else "stopped" if self.cut or self._stopped() else "length"
        return Caption(self._given, self._all, ended)

    def _give(self, text: str) -> None:
        text = text.strip()  # white space comes with what stands behind it
        if piece := text[len(self._given) :]:
            self._given = text
            self._on_text(piece)
