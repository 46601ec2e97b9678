"""Knows the twelve land-cover classes: names, ids (their order) and display colours. Knows no pictures."""

CLASS_NAMES = (
    "deep ocean",
    "shallow sea",
    "ice",
    "tundra",
    "forest",
    "rainforest",
    "grassland",
    "savanna",
    "shrubland",
    "farmland",
    "desert",
    "mountains",
)
CLASS_ID = {name: index for index, name in enumerate(CLASS_NAMES)}
CLASS_COLOURS = (
    "#0b1d45",
    "#2f6fb0",
    "#f0f4f8",
    "#9a937c",
    "#2f5d34",
    "#0f4a1f",
    "#93a554",
    "#a8974c",
    "#b08a5c",
    "#b9b873",
    "#dcc49a",
    "#75604f",
)
SEA_CLASSES = (CLASS_ID["deep ocean"], CLASS_ID["shallow sea"])
