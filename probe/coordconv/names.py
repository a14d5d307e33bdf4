"""Tasks, splits and paddings by name, where torch is not needed to read them."""

TASKS: dict[str, str] = {
    "classification": "position to pixel: a softmax over the 4,096 pixels",
    "rendering": "position to picture: the square, pixel by pixel",
    "regression": "pixel to position: a one-hot picture to its coordinates",
}
"""Tasks, and what they are."""

SPLITS: dict[str, str] = {
    "uniform": "80 % of the centres, chosen at random, train; the others test",
    "quadrant": "three quadrants train; the fourth tests",
}
"""Splits of the centres, and what they are."""

PADDINGS: tuple[str, ...] = ("zeros", "circular", "valid")
"""How a plain network is padded: as published, as a torus, or not at all."""
