"""Tasks, scenes and borders by name, where torch is not needed to read them."""

TASKS: dict[str, str] = {
    "semantic": "a class for every pixel, by cross-entropy",
    "instance": "an embedding for every pixel, by the discriminative loss; clusters of it, on the "
    "true foreground, are the objects",
    "panoptic": "both heads trained together; clusters on the predicted foreground, each of the "
    "class that most of its pixels have",
}
"""Tasks, and what they are."""

SCENES: dict[str, str] = {
    "twins": "2 × 2 exact copies of one thing on a torus",
    "ordinary": "three to six things of several classes at random places",
    "large": "8 copies in a row, on a canvas four times as wide as the receptive field",
}
"""Kinds of scenes, and what they are."""

BORDERS: tuple[str, ...] = ("circular", "canvas", "zeros", "reflect", "coordconv")
"""What a network sees beyond the edge of the image.

``circular``
    The opposite side, in every convolution.
``canvas``
    More of the scene, which goes on beyond the image; convolutions are not padded, so that no
    border is in reach.
``zeros``, ``reflect``
    Zeros, or the mirrored map, in every convolution.
``coordconv``
    As ``circular``, and the first convolution is given coordinates: they alone say where it is.
"""
