"""The token sequence that Qwen3-VL reads: the host's own tokens with the vision block put in.

Built from ids, not from strings: whatever the tokenizer merges, the text positions are exactly the host's tokens in
order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ZvlError

if TYPE_CHECKING:
    import torch

# Z-Image's prompt template, the same as Qwen3-VL's for one user turn without a system text.
HEAD = "<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"
TEMPLATE = HEAD + "{}" + TAIL
SYSTEM = "<|im_start|>system\n{}<|im_end|>\n"

Encode = Callable[[str], "list[int]"]


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
class Sequence:
    """Ids with their roles.

    Attributes:
        ids: All token ids; image positions hold the image token's id.
        image_start: First image position. Which positions are image is decided by place, never by id: a prompt may hold
            the literal text of the image token.
        grid: Image tokens as (rows, columns).
        system: Number of system ids in front of the host's first token.
        head: Number of host tokens before the vision block.
        tail: Number of host tokens after the prompt: the template's end.
        masked: Number of last ids that the host's text encoder lets no token attend to: those behind an <|endoftext|>.
    """

    ids: tuple[int, ...]
    image_start: int
    grid: tuple[int, int]
    system: int
    head: int
    tail: int = 0
    masked: int = 0

    @property
    def image_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def image_end(self) -> int:
        return self.image_start + self.image_tokens

    @property
    def fork(self) -> int:
        """First position behind the vision block. The language model is causal: what stands before depends on the
        reference alone."""
        return self.image_end + 1

    def without_text(self) -> Sequence:
        """The sequence up to the fork: all that the image positions need."""
        return dataclasses.replace(self, ids=self.ids[: self.fork], tail=0, masked=0)

    def rows(self, token_mode: str) -> list[int]:
        """Positions that a token mode selects, in order; m of them.

        `text` the host's n tokens, `image` the vision block with its markers, `image_no_markers` without, `all`
        everything but the system text (n + N + 2).
        """
        mode, images = TOKEN_MODES[token_mode], range(self.image_start, self.image_end)

        def wanted(position: int) -> bool:
            if position in images:
                return mode.image
            return mode.markers if position in (images.start - 1, images.stop) else mode.text

        return [position for position in range(self.system, len(self.ids)) if wanted(position)]

    def position_ids(self) -> torch.Tensor:
        """MRoPE positions, int64 [3, tokens] (time, height, width), as Qwen3-VL counts them.

        Text counts up by one in all three. An image at position s has time s, height s + row, width s + column, and the
        text after it goes on at s + max(rows, columns).
        """
        import torch

        rows, columns = self.grid
        before, after = self.image_start, len(self.ids) - self.image_end
        image = torch.stack([
            torch.zeros(rows * columns, dtype=torch.long),
            torch.arange(rows).repeat_interleave(columns),
            torch.arange(columns).repeat(rows),
        ])  # fmt: skip
        tail = torch.arange(after).expand(3, -1) + before + max(rows, columns)
        return torch.cat([torch.arange(before).expand(3, -1), image + before, tail], dim=1)


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
    grid: tuple[int, int],
    encode: Encode,
    system_prompt: str = "",
    vision: VisionTokens = VisionTokens(),
    masked: int = 0,
) -> Sequence:
    """Put the vision block behind the template's head.

    Args:
        text_ids: The host's n ids of the whole template.
        grid: Image tokens as (rows, columns).
        encode: The tokenizer as a function from text (with special tokens' text) to ids.
        system_prompt: A system turn that goes in front, or "".
        masked: How many of the last text ids the host masks.

    Raises:
        ZvlError: The ids do not begin with Z-Image's template.
    """
    head = encode(HEAD)
    # The head's last token is a line break, which the tokenizer merges with line breaks that begin the prompt: it is
    # still the head's last token, so only those before it have to be the same.
    if len(text_ids) <= len(head) or list(text_ids[: len(head) - 1]) != head[:-1]:
        raise ZvlError(
            "The prompt's tokens do not begin with Z-Image's template. This web UI builds its prompt in another way "
            "than Z-Image VL knows."
        )
    system = encode(SYSTEM.format(system_prompt)) if system_prompt else []
    block = [vision.start, *[vision.image] * (grid[0] * grid[1]), vision.end]
    ids = (*system, *text_ids[: len(head)], *block, *text_ids[len(head) :])
    return Sequence(
        ids, len(system) + len(head) + 1, (grid[0], grid[1]), len(system), len(head), len(encode(TAIL)), masked
    )
