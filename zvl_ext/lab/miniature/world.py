"""The miniature family's world: drawn pictures of one object each, and captions of them.

A scene has six attributes. Pictures vary within a scene (position, angle, tint); captions vary in wording and in which
attributes they mention. Everything is seeded. A fixed tenth of the combinations of shape, colour, background and style
is kept out of training, so that a measurement can ask for pictures nobody has shown the models.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

SIZE = 80  # pixels of a picture's side

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon"),
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "teal"),
    "background": ("white", "grey", "black", "brown", "navy", "beige"),
    "style": ("flat", "outlined", "striped", "dotted", "soft"),
    "size": ("small", "large"),
    "place": ("left", "centre", "right"),
}

# The attributes that prompts and references are about, and contradict each other in.
JUDGED = ("shape", "colour", "background", "style")

_RGB = {
    "red": (0.86, 0.13, 0.12), "orange": (0.97, 0.53, 0.08), "yellow": (0.98, 0.87, 0.15), "green": (0.16, 0.62, 0.20),
    "blue": (0.16, 0.36, 0.92), "purple": (0.52, 0.18, 0.70), "pink": (0.97, 0.55, 0.74), "teal": (0.10, 0.66, 0.66),
    "white": (0.96, 0.96, 0.96), "grey": (0.55, 0.56, 0.58), "black": (0.06, 0.06, 0.07), "brown": (0.42, 0.26, 0.14),
    "navy": (0.06, 0.10, 0.34), "beige": (0.88, 0.80, 0.64),
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What a picture shows: one value of each of ATTRIBUTES."""

    shape: str
    colour: str
    background: str
    style: str
    size: str = "large"
    place: str = "centre"

    @property
    def held_out(self) -> bool:
        """Whether this combination is kept out of training."""
        key = f"{self.shape} {self.colour} {self.background} {self.style}"
        return zlib.crc32(key.encode()) % 10 == 0

    def indices(self) -> tuple[int, ...]:
        """The place of each attribute's value in ATTRIBUTES, in that order."""
        return tuple(values.index(getattr(self, name)) for name, values in ATTRIBUTES.items())


def random_scene(rng: np.random.Generator, held_out: bool | None = False) -> Scene:
    """A scene of the training set (held_out False), of the rest (True), or any (None)."""
    while True:
        scene = Scene(*(str(rng.choice(values)) for values in ATTRIBUTES.values()))
        if held_out is None or scene.held_out == held_out:
            return scene


def contradicting(scene: Scene, rng: np.random.Generator, held_out: bool | None = None) -> Scene:
    """A scene that differs from `scene` in shape, colour, background and style, with size and place of its own."""
    while True:
        other = random_scene(rng, held_out)
        if all(getattr(other, name) != getattr(scene, name) for name in JUDGED):
            return other


# Pictures

_AXIS = (np.arange(SIZE) + 0.5) - SIZE / 2
_X, _Y = np.meshgrid(_AXIS, _AXIS)


def _polygon(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance to a closed polygon, negative inside."""
    distance, inside = np.full(x.shape, np.inf), np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0)):
        ex, ey, wx, wy = bx - ax, by - ay, x - ax, y - ay
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        distance = np.minimum(distance, np.hypot(wx - along * ex, wy - along * ey))
        crosses = (ay <= y) != (by <= y)
        inside ^= crosses & (x < ax + (y - ay) * ex / (ey if ey else 1))
    return np.where(inside, -distance, distance)


def _around(count: int, radii: tuple[float, ...]) -> np.ndarray:
    """Corners around the origin, the first straight up."""
    angle = 2 * np.pi * np.arange(count) / count - np.pi / 2
    radius = np.resize(radii, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


_CROSS = np.array([(-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33)])
_CORNERS = {
    "square": np.array([(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)]),
    "triangle": np.add(_around(3, (1.15,)), (0, 0.2)),
    "star": _around(10, (1.12, 0.46)),
    "cross": np.concatenate([_CROSS, -_CROSS]),
}


def _distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance in pixels to a shape of about this radius, negative inside."""
    if shape in _CORNERS:
        return _polygon(x, y, _CORNERS[shape] * radius)
    if shape == "circle":
        return np.hypot(x, y) - 0.95 * radius
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.74 * radius) - 0.26 * radius
    if shape == "moon":
        return np.maximum(np.hypot(x, y) - radius, 0.72 * radius - np.hypot(x - 0.5 * radius, y + 0.1 * radius))
    # A heart: a square on its tip and a disc on each upper side.
    side = 0.62 * radius
    tip = _polygon(x, y, np.array([(0, 1.05), (-0.88, 0.17), (0, -0.71), (0.88, 0.17)]) * radius)
    left, right = (np.hypot(x - sign * 0.44 * radius, y + 0.27 * radius) - side for sign in (-1, 1))
    return np.minimum(tip, np.minimum(left, right))


def _layout(scene: Scene, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel's signed distance to the object, and the tints of object and background [2, 3]."""
    rng = np.random.default_rng(seed)
    radius = {"small": 19.0, "large": 26.0}[scene.size] * rng.uniform(0.94, 1.06)
    centre = {"left": -11.0, "centre": 0.0, "right": 11.0}[scene.place] + rng.uniform(-2, 2)
    angle, height = rng.uniform(-0.15, 0.15), rng.uniform(-3, 3)
    tint = rng.uniform(-0.035, 0.035, (2, 3))
    return placed(scene.shape, radius, centre, height, angle), tint


def placed(shape: str, radius: float, centre: float, height: float, angle: float) -> np.ndarray:
    """Each pixel's signed distance to a shape, negative inside, [SIZE, SIZE].

    Args:
        centre, height: Where its middle is, in pixels from the picture's.
        angle: By which it is turned, in radians.
    """
    x, y = _X - centre, _Y - height
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return _distance(shape, x, y, radius)


def rgb(name: str) -> np.ndarray:
    """A colour's or a background's values, [3], 0 to 1."""
    return np.array(_RGB[name])


def coverage(scene: Scene, seed: int, grid: int) -> np.ndarray:
    """Which share of each cell of a grid the object covers in `draw`'s picture, [grid, grid]."""
    side = SIZE // grid
    return (_layout(scene, seed)[0] < 0).reshape(grid, side, grid, side).mean((1, 3))


def draw(scene: Scene, seed: int) -> np.ndarray:
    """The scene as uint8 [SIZE, SIZE, 3]. Another seed gives another position, angle, size and tint."""
    distance, tint = _layout(scene, seed)
    colour, background = (np.array(_RGB[name]) + t for name, t in zip((scene.colour, scene.background), tint))

    edge = 6.0 if scene.style == "soft" else 0.7
    inside = np.clip(0.5 - distance / (2 * edge), 0, 1)[..., None]
    picture = colour * inside + background * (1 - inside)
    if scene.style == "outlined":  # a white contour within a black one shows on every colour
        for middle, shade in ((3.6, 0.04), (1.2, 0.98)):
            line = np.clip(1.7 - np.abs(distance - middle), 0, 1)[..., None]
            picture = picture * (1 - line) + shade * line
    elif scene.style in ("striped", "dotted"):
        if scene.style == "striped":
            phase = (_X + _Y) / 14 * 2 * np.pi
            pattern = np.clip(0.5 + 1.6 * np.sin(phase), 0, 1)
        else:
            u, v = (np.mod(axis + 6, 12) - 6 for axis in (_X, _Y))
            pattern = np.clip(3.6 - np.hypot(u, v), 0, 1)
        light = picture @ (0.3, 0.59, 0.11) > 0.5
        picture = picture + (0.42 * pattern)[..., None] * (np.where(light, 0.0, 1.0)[..., None] - picture)
    elif scene.style == "soft":
        picture = picture * (1.06 - 0.45 * np.clip(np.hypot(_X, _Y) / 56, 0, 1) ** 2)[..., None]
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


# Captions

_WORDS = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "left": ("on the left", "at the left"),
    "centre": ("in the centre", "in the middle"),
    "right": ("on the right", "at the right"),
    "flat": ("flat", "flat style", "plain flat colours"),
    "outlined": ("outlined", "outlined style", "bold outlines"),
    "striped": ("striped", "striped style", "covered with stripes"),
    "dotted": ("dotted", "dotted style", "covered with dots"),
    "soft": ("soft", "soft style", "soft blurred light"),
}
_BEHIND = ("on a {} background", "in front of {}", "{} background", "against {}")
_OPENINGS = ("", "", "a picture of ", "an image of ", "a drawing of ")


def caption(scene: Scene, rng: np.random.Generator, mention: frozenset[str] | None = None) -> str:
    """A caption in varied wording.

    Args:
        mention: The attributes it speaks of; None for all, an empty set for an empty caption.
    """
    mention = frozenset(ATTRIBUTES) if mention is None else mention
    if not mention:
        return ""

    def word(name: str) -> str:
        value = getattr(scene, name)
        return str(rng.choice(_WORDS[value])) if value in _WORDS else value

    noun = [word(name) for name in ("size", "colour") if name in mention]
    noun.append(scene.shape if "shape" in mention else str(rng.choice(("shape", "object", "thing"))))
    parts = []
    if mention & {"size", "colour", "shape"}:
        parts.append(str(rng.choice(_OPENINGS)) + "a " + " ".join(noun))
    if "place" in mention:
        parts.append(word("place"))
    if "background" in mention:
        parts.append(str(rng.choice(_BEHIND)).format(scene.background))
    if "style" in mention:
        parts.insert(int(rng.integers(len(parts) + 1)), word("style"))
    if rng.random() < 0.3:
        rng.shuffle(parts)
    return (", " if rng.random() < 0.7 else " ").join(parts)


def random_mention(rng: np.random.Generator) -> frozenset[str]:
    """Which attributes a training caption speaks of: often all, otherwise every number of them alike, sometimes
    none."""
    names = list(ATTRIBUTES)
    kind = rng.random()
    if kind < 0.08:
        return frozenset()
    if kind < 0.45:
        return frozenset(names[:4]) | {name for name in names[4:] if rng.random() < 0.5}
    return frozenset(rng.choice(names, int(rng.integers(1, len(names) + 1)), replace=False).tolist())


def describe(scene: Scene, mention: frozenset[str] | None = None) -> str:
    """The answer the language models learn to give: the mentioned attributes in a fixed order and form."""
    return ", ".join(f"{name} {getattr(scene, name)}" for name in ATTRIBUTES if mention is None or name in mention)
