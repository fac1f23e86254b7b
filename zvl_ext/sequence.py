"""The token sequence that Qwen3-VL reads: the host's own tokens with one vision block or several put in.

Built from ids, not from strings: whatever the tokenizer merges, the text positions are exactly the host's tokens in
order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from .errors import ZvlError

if TYPE_CHECKING:
    import torch

Encode = Callable[[str], "list[int]"]
Grid = tuple[int, int]

# Qwen3-VL's prompt template for one user turn without a system text; Z-Image's is the same.
HEAD = "<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"
TEMPLATE = HEAD + "{}" + TAIL
SYSTEM = "<|im_start|>system\n{}<|im_end|>\n"
# What stands before each of several pictures, so that the prompt can name them: as in Qwen-VL's chat template (its
# add_vision_id) and in the prompt of Qwen's image editing models.
PICTURE = "Picture {}: "


@dataclass(frozen=True)
class Template:
    """What an image model puts around a prompt.

    Attributes:
        owner: The image model's name.
        head: Before it.
        tail: Behind it.
        filler: The token that fills a shorter prompt up, behind the tail, or "".
        rows: The least number of tokens, those that fill included.
    """

    owner: str
    head: str = HEAD
    tail: str = TAIL
    filler: str = ""
    rows: int = 0

    @property
    def text(self) -> str:
        """With {} in the prompt's place."""
        return self.head + "{}" + self.tail

    def ids(self, prompt: str, encode: Encode) -> tuple[int, ...]:
        """A prompt's ids, as a web UI without emphasis makes them."""
        ids = encode(self.text.format(prompt))
        return (*ids, *(self._filler(encode) * (self.rows - len(ids))))

    def filled(self, ids: Iterable[int], encode: Encode) -> int:
        """How many of the last of a prompt's ids only fill it up."""
        fillers = set(self._filler(encode))
        return len(list(takewhile(fillers.__contains__, reversed(tuple(ids)))))

    def _filler(self, encode: Encode) -> list[int]:
        return encode(self.filler) if self.filler else []


Z_IMAGES = Template("Z-Image")


@dataclass(frozen=True)
class VisionTokens:
    """Ids of the vision block's three tokens; the defaults are Qwen3-VL's."""

    start: int = 151652
    image: int = 151655
    end: int = 151653


@dataclass(frozen=True)
class TokenMode:
    """Which rows of a sequence are used.

    Attributes:
        text: The host's own tokens.
        markers: The vision block's first and last token.
        image: The image tokens.
    """

    text: bool
    markers: bool
    image: bool


TOKEN_MODES: dict[str, TokenMode] = {
    "text": TokenMode(text=True, markers=False, image=False),
    "image": TokenMode(text=False, markers=True, image=True),
    "image_no_markers": TokenMode(text=False, markers=False, image=True),
    "all": TokenMode(text=True, markers=True, image=True),
}


@dataclass(frozen=True)
class Block:
    """One picture's image tokens in a sequence, between its two markers.

    Attributes:
        start: First image position.
        grid: Image tokens as (rows, columns).
    """

    start: int
    grid: Grid

    @property
    def end(self) -> int:
        """The position behind the last image token: that of the marker."""
        return self.start + self.grid[0] * self.grid[1]

    @property
    def positions(self) -> range:
        return range(self.start, self.end)


@dataclass(frozen=True)
class Sequence:
    """Ids with their roles.

    Attributes:
        ids: All token ids; image positions hold the image token's id.
        blocks: The pictures, in order. Which positions are image is decided by place, never by id: a prompt may hold
            the literal text of the image token.
        system: Number of system ids in front of the host's first token.
        head: Number of host tokens before the first vision block.
        tail: Number of host tokens after the prompt: the template's end, and what fills up.
        masked: Number of last ids that the host's text encoder lets no token attend to: those behind an <|endoftext|>.
        filled: Number of last ids that only fill up. No token attends to them, whichever model reads.
    """

    ids: tuple[int, ...]
    blocks: tuple[Block, ...]
    system: int
    head: int
    tail: int = 0
    masked: int = 0
    filled: int = 0

    @property
    def grids(self) -> tuple[Grid, ...]:
        return tuple(block.grid for block in self.blocks)

    @property
    def images(self) -> list[int]:
        """All image positions, picture by picture."""
        return [position for block in self.blocks for position in block.positions]

    @property
    def between(self) -> list[range]:
        """What is neither text nor image: the positions before, between and behind the pictures, from the head to the
        fork."""
        edges = [self.system + self.head, *(edge for block in self.blocks for edge in (block.start, block.end))]
        return [range(*span) for span in zip(edges[::2], [*edges[1::2], self.fork])]

    @property
    def fork(self) -> int:
        """First position behind the last vision block, or, of a text alone, behind all. The language model is causal:
        what stands before depends on the references alone."""
        return self.blocks[-1].end + 1 if self.blocks else len(self.ids)

    def without_text(self) -> Sequence:
        """The sequence up to the fork: all that the image positions need."""
        return dataclasses.replace(self, ids=self.ids[: self.fork], tail=0, masked=0, filled=0)

    def rows(self, token_mode: str, picture: int = 0) -> list[int]:
        """Positions that a token mode selects for one of the pictures, in order; m of them.

        `text` the host's n tokens, `image` the picture's vision block with its markers, `image_no_markers` without,
        `all` text and image (n + N + 2). The system text and what names the pictures are in none.
        """
        mode, block = TOKEN_MODES[token_mode], self.blocks[picture]
        first = self.system + self.head
        chosen = [
            (mode.text, range(self.system, first)),
            (mode.markers, range(block.start - 1, block.start)),
            (mode.image, block.positions),
            (mode.markers, range(block.end, block.end + 1)),
            (mode.text, range(self.fork, len(self.ids))),
        ]
        return [position for wanted, positions in chosen if wanted for position in positions]

    def position_ids(self) -> torch.Tensor:
        """MRoPE positions, int64 [3, tokens] (time, height, width), as Qwen3-VL counts them.

        Text counts up by one in all three. An image at position s has time s, height s + row, width s + column, and the
        text after it goes on at s + max(rows, columns).
        """
        import torch

        counted: list[torch.Tensor] = []
        place = position = 0  # of the next token in the sequence, and where Qwen3-VL counts it

        def text_up_to(end: int) -> None:
            counted.append(torch.arange(end - place).expand(3, -1) + position)

        for block in self.blocks:
            rows, columns = block.grid
            text_up_to(block.start)
            position += block.start - place
            image = torch.stack([
                torch.zeros(rows * columns, dtype=torch.long),
                torch.arange(rows).repeat_interleave(columns),
                torch.arange(columns).repeat(rows),
            ])  # fmt: skip
            counted.append(image + position)
            place, position = block.end, position + max(rows, columns)
        text_up_to(len(self.ids))
        return torch.cat(counted, dim=1)


def check_ids(ids: Iterable[int], vocabulary: int, owner: str) -> None:
    """Raise ZvlError where an embedding of that many rows has none for an id: a GPU would not survive the attempt."""
    strange = next((id for id in ids if not 0 <= id < vocabulary), None)
    if strange is not None:
        raise ZvlError(
            f"{owner} has a vocabulary of {vocabulary}, the prompt a token {strange}. Choose a model with Qwen3's "
            "tokenizer."
        )


def build_sequence(
    text_ids: list[int] | tuple[int, ...],
    grid: Grid,
    encode: Encode,
    system_prompt: str = "",
    vision: VisionTokens = VisionTokens(),
    masked: int = 0,
    template: Template = Z_IMAGES,
) -> Sequence:
    """As `build_sequence_of`, with one picture, which has no name."""
    return build_sequence_of(text_ids, [("", grid)], encode, system_prompt, vision, masked, template)


def build_sequence_of(
    text_ids: list[int] | tuple[int, ...],
    pictures: list[tuple[str, Grid]],
    encode: Encode,
    system_prompt: str = "",
    vision: VisionTokens = VisionTokens(),
    masked: int = 0,
    template: Template = Z_IMAGES,
) -> Sequence:
    """Put the vision blocks behind the template's head.

    Args:
        text_ids: The host's n ids of the whole template.
        pictures: Of each the text that stands before it, or "", and its image tokens as (rows, columns).
        encode: The tokenizer as a function from text (with special tokens' text) to ids.
        system_prompt: A system turn that goes in front, or "".
        masked: How many of the last text ids the host masks.
        template: The image model's.

    Raises:
        ZvlError: The ids do not begin with the template.
    """
    head, filled = encode(template.head), template.filled(text_ids, encode)
    # The head's last token is a line break, which the tokenizer merges with line breaks that begin the prompt: it is
    # still the head's last token, so only those before it have to be the same.
    if len(text_ids) <= len(head) or list(text_ids[: len(head) - 1]) != head[:-1]:
        raise ZvlError(
            f"The prompt's tokens do not begin with {template.owner}'s template. This web UI builds its prompt in "
            "another way than Z-Image VL knows."
        )
    system = encode(SYSTEM.format(system_prompt)) if system_prompt else []
    ids, blocks = [*system, *text_ids[: len(head)]], []
    for name, (rows, columns) in pictures:
        ids += [*(encode(name) if name else ()), vision.start]
        blocks.append(Block(len(ids), (rows, columns)))
        ids += [*[vision.image] * (rows * columns), vision.end]
    ids += text_ids[len(head) :]
    return Sequence(
        tuple(ids), tuple(blocks), len(system), len(head), len(encode(template.tail)) + filled, masked, filled
    )
