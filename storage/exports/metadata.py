"""What a file says of its picture: how it was made, that a model made it, its colours. Knows texts; writes no file.

parameters   the lines that Stable Diffusion WebUI writes and image browsers and model sites read
XMP          IPTC's DigitalSourceType "trainedAlgorithmicMedia", the prompt, the program
"""

from __future__ import annotations

import json
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from PIL import ImageCms
from PIL.PngImagePlugin import PngInfo

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
SRGB = 1  # ColorSpace of EXIF
LONGEST_TEXT = 8000  # characters of a prompt: a JPEG segment holds 65533 bytes, UTF-16 in EXIF
SAMPLERS = {
    "DDIMScheduler": "DDIM",
    "DDPMScheduler": "DDPM",
    "PNDMScheduler": "PLMS",
    "EulerDiscreteScheduler": "Euler",
    "FlowMatchEulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "HeunDiscreteScheduler": "Heun",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "UniPCMultistepScheduler": "UniPC",
    "LCMScheduler": "LCM",
}
"""Names that readers of `parameters` know; other schedulers keep their own."""


def parameters(facts: Mapping[str, Any]) -> str:
    """The settings of a job as WebUI writes them: the prompt, what it should not show, then `Name: value, ...`."""
    version = f"hypermosaic {facts.get('version', '')}".strip()
    if "prompt" not in facts:
        return f"Version: {version}"
    lines = [_cut(str(facts["prompt"]))]
    if facts.get("negative_prompt"):
        lines.append(f"Negative prompt: {_cut(str(facts['negative_prompt']))}")
    scheduler = str(facts.get("scheduler"))
    named = {
        "Steps": facts.get("num_inference_steps"),
        "Sampler": SAMPLERS.get(scheduler, scheduler.removesuffix("Scheduler")),
        "CFG scale": facts.get("guidance_scale"),
        "Seed": facts.get("seed"),
        "Size": f"{facts.get('width')}x{facts.get('height')}",
        "Model": Path(str(facts.get("model"))).name.removesuffix(".safetensors"),
        "Version": version,
    }
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in named.items() if value is not None))
    return "\n".join(lines)


def xmp(facts: Mapping[str, Any]) -> bytes:
    """The XMP packet, UTF-8."""
    for prefix, address in NAMESPACES.items():
        ElementTree.register_namespace(prefix, address)
    meta = ElementTree.Element(_name("x", "xmpmeta"))
    about = ElementTree.SubElement(
        ElementTree.SubElement(meta, _name("rdf", "RDF")),
        _name("rdf", "Description"),
        {_name("rdf", "about"): ""},
    )
    _add(about, "Iptc4xmpExt", "DigitalSourceType", SOURCE_TYPE)
    _add(about, "xmp", "CreatorTool", f"hypermosaic {facts.get('version', '')}".strip())
    alternatives = ElementTree.SubElement(
        ElementTree.SubElement(about, _name("dc", "description")), _name("rdf", "Alt")
    )
    said = ElementTree.SubElement(alternatives, _name("rdf", "li"))
    said.set("{http://www.w3.org/XML/1998/namespace}lang", "x-default")
    said.text = _in_xml(parameters(facts))
    body: bytes = ElementTree.tostring(meta, encoding="utf-8")
    return (
        b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        + body
        + b'\n<?xpacket end="w"?>\n'
    )


def png_info(facts: Mapping[str, Any]) -> PngInfo:
    """Both as a PNG's texts: iTXt in UTF-8, or tEXt where Latin-1 has every letter of it."""
    info = PngInfo()
    info.add_text("parameters", parameters(facts))
    info.add_itxt("XML:com.adobe.xmp", xmp(facts).decode())
    return info


@cache
def srgb_profile() -> bytes:
    """Pillow's sRGB ICC profile, always of the same date, so that the same picture gives the same file."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return made[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + made[36:]


def exif(facts: Mapping[str, Any]) -> bytes:
    """An EXIF block with `parameters` as the user's comment, for formats without free text; its colours are sRGB."""
    import piexif
    import piexif.helper

    comment = piexif.helper.UserComment.dump(parameters(facts), encoding="unicode")
    block: bytes = piexif.dump(
        {
            "0th": {piexif.ImageIFD.Software: b"hypermosaic"},
            "Exif": {piexif.ExifIFD.UserComment: comment, piexif.ExifIFD.ColorSpace: SRGB},
        }
    )
    return block


def _name(prefix: str, name: str) -> str:
    return f"{{{NAMESPACES[prefix]}}}{name}"


def _add(parent: ElementTree.Element, prefix: str, name: str, text: str) -> None:
    ElementTree.SubElement(parent, _name(prefix, name)).text = text


def _in_xml(text: str) -> str:
    """What XML 1.0 has no way to write is left out: control characters, halves of surrogate pairs."""
    return "".join(
        letter
        for letter in text
        if letter in "\t\n" or (letter >= " " and not "\ud800" <= letter <= "\udfff")
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}\N{HORIZONTAL ELLIPSIS}"


def _quoted(value: object) -> str:
    """WebUI's rule: a value with a comma, a colon or a line break stands in JSON's quotes."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(",:\n") & set(text) else text
