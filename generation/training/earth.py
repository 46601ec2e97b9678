"""Knows how the picture of the Earth and its classes are composed from the raw sources. Knows no crops.

             longitude -180 .................... 180
latitude 90  +---------------------------------------+   10800 x 5400 pixels, about 3.7 km each on the equator
             |  Blue Marble, toned                   |   land: times relief / blurred relief
        0    |                                       |   sea:  times bathymetry / blurred bathymetry
             |                                       |   joined along the land mask
        -90  +---------------------------------------+
"""

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from generation.training.classes import CLASS_ID, CLASS_NAMES
from generation.training.sources import EARTH_SOURCES, fetch

LOG = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

HEIGHT, WIDTH = 5400, 10800
BLOCK = 8
TUNDRA_LATITUDE = 58.0
SUBTROPICS = 35.0
SHALLOW_BLUE = 95.0
MOUNTAIN_SHARE = 0.2
SNOW_WHITE = 165.0
KNEE = 0.8


def open_picture(key: str, cache: Path, mode: str) -> Image.Image:
    """One raw picture, converted to `mode` and brought to the size of the composite."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        picture = Image.open(fetch(EARTH_SOURCES[key], cache)).convert(mode)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return (
        picture
        if picture.size == (WIDTH, HEIGHT)
        else picture.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    )


def gaussian_blur(plane: Floats, sigma: float) -> Floats:
    """A separable Gaussian of radius 3 sigma; reflected at the poles, circular in longitude."""
    radius = round(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1)
    image = torch.from_numpy(plane)[None, None]
    image = functional.conv2d(functional.pad(image, (radius, radius, 0, 0), mode="circular"), kernel)
    image = functional.conv2d(functional.pad(image, (0, 0, radius, radius), mode="reflect"), kernel.mT)
    return np.ascontiguousarray(image[0, 0].numpy())


def local_contrast(luminance: Floats, sigma: float, exponent: float) -> Floats:
    """clip(L / gauss(L, sigma), 0.6, 1.5) ^ exponent: the shading of slopes alone."""
    ratio = luminance / np.maximum(gaussian_blur(luminance, sigma), 1.0)
    return np.asarray(np.clip(ratio, 0.6, 1.5) ** exponent, dtype=np.float32)


def water_share(cache: Path) -> Floats:
    """Share of water in each pixel of the composite (the mask is four times finer)."""
    with np.load(fetch(EARTH_SOURCES["water"], cache)) as archive:
        fine: npt.NDArray[np.bool_] = archive["mask"]
    factor = fine.shape[0] // HEIGHT
    share: Floats = fine.reshape(HEIGHT, factor, WIDTH, factor).mean(axis=(1, 3), dtype=np.float32)
    return share


def soft_knee(values: Floats) -> Floats:
    """Values above 0.8 approach 1 exponentially instead of being cut off, so that snow keeps its shading."""
    room = 1.0 - KNEE
    return np.where(values <= KNEE, values, KNEE + room * (1.0 - np.exp(-(values - KNEE) / room)))


def compose(cache: Path, water: Floats) -> Bytes:
    """The picture: toned Blue Marble, shaded by relief on land and by bathymetry at sea."""
    land_shade = local_contrast(np.asarray(open_picture("relief", cache, "L"), dtype=np.float32), 10.0, 1.3)
    sea_shade = local_contrast(
        np.asarray(open_picture("bathymetry", cache, "L"), dtype=np.float32), 14.0, 0.9
    )
    shade = water * sea_shade + (1.0 - water) * land_shade
    marble = open_picture("blue_marble", cache, "RGB")
    toned = [
        soft_knee((np.asarray(band, dtype=np.float32) / 255.0) ** 0.78 * 1.05 * shade)
        for band in marble.split()
    ]
    return np.stack([np.round(band * 255.0).astype(np.uint8) for band in toned], axis=-1)


def block_mean(plane: npt.NDArray[np.generic]) -> Floats:
    """Means over the 8 x 8 blocks of a plane."""
    height, width = plane.shape
    blocks = plane.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32), dtype=np.float32)


def latitudes(rows: int) -> Floats:
    """Latitude of the centres of `rows` equal rows from pole to pole."""
    return (90.0 - (np.arange(rows, dtype=np.float32) + 0.5) * 180.0 / rows).astype(np.float32)


def land_classes(cover: Bytes, latitude: float) -> Bytes:
    """IGBP codes of one row of latitude -> our ids; 255 where the cover says water.

    Open land (shrubs, grass, sparse trees, bare ground) is tundra beyond 58 degrees; woody savannas beyond
    the subtropics are open forests to the eye.
    """
    cold, tropical = latitude > TUNDRA_LATITUDE, abs(latitude) < SUBTROPICS
    names = {
        1: "forest",
        3: "forest",
        4: "forest",
        5: "forest",
        12: "farmland",
        13: "farmland",
        14: "farmland",
    }
    names |= {15: "ice", 2: "rainforest" if tropical else "forest"}
    names |= dict.fromkeys((6, 7), "tundra" if cold else "shrubland")
    names |= {
        8: "savanna" if tropical else "forest",
        9: "savanna" if tropical else "tundra" if cold else "grassland",
    }
    names |= {
        10: "tundra" if cold else "grassland",
        11: "tundra" if cold else "savanna" if tropical else "grassland",
    }
    names |= {16: "tundra" if cold else "desert"}
    table = np.full(256, 255, dtype=np.uint8)
    for code, name in names.items():
        table[code] = CLASS_ID[name]
    return table[cover]


def upsampled_cover(cache: Path) -> Bytes:
    """Our class of every pixel of the composite on land, 255 on water (nearest sample of the cover map)."""
    with Image.open(fetch(EARTH_SOURCES["land_cover"], cache)) as picture:
        coarse = np.asarray(picture, dtype=np.uint8)
    rows = np.stack([land_classes(row, lat) for row, lat in zip(coarse, latitudes(len(coarse)), strict=True)])
    y = (np.arange(HEIGHT) * rows.shape[0]) // HEIGHT
    x = (np.arange(WIDTH) * rows.shape[1]) // WIDTH
    cover: Bytes = rows[y[:, None], x[None, :]]
    return cover


def majority_cover(cover: Bytes) -> Bytes:
    """The most frequent land class of each block (water does not vote)."""
    votes = np.stack([block_mean(cover == index) for index in range(len(CLASS_NAMES))])
    winners: Bytes = votes.argmax(axis=0).astype(np.uint8)
    return winners


def roughness(cache: Path) -> Floats:
    """How strongly the relief shades each block: the deviation of its contrast, smoothed over blocks."""
    contrast = local_contrast(np.asarray(open_picture("relief", cache, "L"), dtype=np.float32), 10.0, 1.0)
    variance = block_mean(contrast**2) - block_mean(contrast) ** 2
    return np.sqrt(np.maximum(gaussian_blur(variance, 1.5), 0.0))


def classify(cache: Path, water: Floats) -> Bytes:
    """The class of every 8 x 8 block. Whatever is white from orbit is ice."""
    cover = upsampled_cover(cache)
    wet = block_mean(np.maximum(water, (cover == 255).astype(np.float32) * 0.999)) > 0.5
    classes = majority_cover(cover)
    red, _, blue = (
        np.asarray(band, dtype=np.float32) for band in open_picture("blue_marble", cache, "RGB").split()
    )
    sea_blue = gaussian_blur(blue * water, 8.0) / np.maximum(gaussian_blur(water, 8.0), 1e-3)
    classes[np.minimum(block_mean(red), block_mean(blue)) > SNOW_WHITE] = CLASS_ID["ice"]
    rough = roughness(cache)
    settled = ~wet & (classes != CLASS_ID["ice"])
    threshold = np.quantile(
        rough[settled & (np.abs(latitudes(len(rough))) < 70)[:, None]], 1.0 - MOUNTAIN_SHARE
    )
    classes[settled & (rough > threshold)] = CLASS_ID["mountains"]
    classes[wet] = np.where(
        block_mean(sea_blue)[wet] > SHALLOW_BLUE, CLASS_ID["shallow sea"], CLASS_ID["deep ocean"]
    )
    return classes


def build_earth(cache: Path) -> tuple[Bytes, Bytes]:
    """(picture, classes), computed once and kept under `cache`."""
    path = cache / "earth-composite.npz"
    if not path.exists():
        LOG.info("composing the Earth into %s", path)
        water = water_share(cache)
        np.savez(path, picture=compose(cache, water), classes=classify(cache, water))
    with np.load(path) as archive:
        return archive["picture"], archive["classes"]
