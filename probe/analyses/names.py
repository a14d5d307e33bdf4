"""Names and defaults of analyses, where neither torch nor pandas is needed to read them."""

GROUPS: tuple[str, ...] = ("calls", "blocks", "stages", "sources")
"""What goes together as one unit: the padded calls of one module, of one block, or of one stage;
or each kind of source of position, padding among them."""

LADDER_TARGETS: tuple[str, ...] = ("horizontal", "vertical", "gaussian")
"""Targets of a ladder."""

STRENGTH = 0.3
"""Deviation of the coordinates' part of a channel over the channel's own."""

PAPERS: dict[str, str] = {
    "islam2020": "Islam, Jia, Bruce (2020), “How much position information do convolutional neural "
    "networks encode?”, ICLR, arXiv 2001.08248",
}
"""Papers whose tables can be measured."""

PLANTED_FILE = "planted.csv"
"""File of planted truth, beside the folders of results."""
