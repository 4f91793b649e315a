"""The words of the world and what they look like."""

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "bar", "pillar")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (245, 140, 20),
    "yellow": (240, 215, 40),
    "green": (35, 150, 60),
    "blue": (40, 80, 215),
    "purple": (125, 50, 165),
    "pink": (245, 125, 190),
    "black": (30, 30, 34),
}

# Everyday things with the look they have when nobody says otherwise: (shape, colour).
OBJECTS: dict[str, tuple[str, str]] = {
    "sun": ("circle", "yellow"),
    "apple": ("circle", "red"),
    "tire": ("ring", "black"),
    "donut": ("ring", "pink"),
    "brick": ("bar", "red"),
    "plank": ("bar", "orange"),
    "tent": ("triangle", "green"),
    "traffic cone": ("triangle", "orange"),
    "kite": ("diamond", "blue"),
    "gem": ("diamond", "purple"),
    "window": ("square", "blue"),
    "chalkboard": ("square", "black"),
    "starfish": ("cross", "orange"),
    "clover": ("cross", "green"),
    "candle": ("pillar", "pink"),
    "chimney": ("pillar", "red"),
}

REGIONS = ("left", "right", "above", "below")

SIZES = ("small", "large")

# Longest side of an object, as a share of the picture's shorter side; small unless said.
EXTENTS: dict[str | None, float] = {"small": 13 / 64, None: 13 / 64, "large": 23 / 64}
SMALL_BELOW = 16.5 / 64
LARGE_ABOVE = 18.5 / 64

# Width and height of a shape inside a square of its extent.
ASPECTS: dict[str, tuple[float, float]] = {"bar": (1.0, 0.42), "pillar": (0.42, 1.0)}

# Plain, light backgrounds.
BACKGROUNDS = ((240, 240, 240), (243, 238, 231), (231, 238, 244))

_CROSS = 0.34


def outline(shape: str) -> list[tuple[float, float]] | None:
    """Corners of a shape in the unit square (x right, y down); None for a circle or a ring."""
    low, high = (1 - _CROSS) / 2, (1 + _CROSS) / 2
    outlines: dict[str, list[tuple[float, float]]] = {
        "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
        "bar": [(0, 0), (1, 0), (1, 1), (0, 1)],
        "pillar": [(0, 0), (1, 0), (1, 1), (0, 1)],
        "triangle": [(0.5, 0), (1, 1), (0, 1)],
        "diamond": [(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)],
        "cross": [
            *((low, 0), (high, 0), (high, low), (1, low), (1, high), (high, high)),
            *((high, 1), (low, 1), (low, high), (0, high), (0, low), (low, low)),
        ],
    }
    return outlines.get(shape)


RING_HOLE = 0.5
"""Diameter of a ring's hole as a share of the ring's diameter."""
