"""Writes and reads the pictures we make: PNG with the request in it and the machine-made mark.

Every picture carries the IPTC digital source type "trainedAlgorithmicMedia" as XMP, and as JSON
what is needed to make it again.
"""

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from PIL import Image, PngImagePlugin

from .. import __version__
from ..errors import Echo4oError
from ..records import write_atomic

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_KEY, _XMP_KEY = "echo4o", "XML:com.adobe.xmp"
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    Iptc4xmpExt:DigitalSourceType={source}
    xmp:CreatorTool={tool}>
   <dc:description><rdf:Alt>
    <rdf:li xml:lang="x-default">{prompt}</rdf:li>
   </rdf:Alt></dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A picture file that was given to the model."""

    name: str
    """File name without folders."""
    sha256: str
    """Hash of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterUse:
    """A LoRA adapter that took part."""

    source: str
    """Folder or Hub id."""
    weight: float
    sha256: str
    """Hash of its weights."""
    revision: str | None = None
    """Commit of its Hub repository."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureRecord:
    """What made a picture."""

    prompt: str
    """The text of the request."""
    model: str
    """Hub id or folder of the model."""
    revision: str | None = None
    """Commit of the model's Hub repository."""
    seed: int | None = None
    """Seed of this picture's own generator."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Other arguments of the pipeline's call, as JSON values."""
    references: tuple[Reference, ...] = ()
    """Pictures in front of the prompt, in order."""
    adapters: tuple[AdapterUse, ...] = ()
    """LoRA adapters, in order."""
    runtime: dict[str, str | int] = field(default_factory=dict)
    """What may move a pixel by one level: number type, device, threads, library versions."""


def encode_png(image: Image.Image, record: PictureRecord) -> bytes:
    """The PNG file of a picture we made, with its record and the machine-made mark."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(_KEY, json.dumps(asdict(record), ensure_ascii=False, sort_keys=True))
    xmp = _XMP.format(
        source=quoteattr(SOURCE_TYPE),
        tool=quoteattr(f"echo4o {__version__}"),
        prompt=escape(record.prompt),
    )
    info.add_itxt(_XMP_KEY, xmp)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def save_picture(path: Path, image: Image.Image, record: PictureRecord) -> None:
    """Write `encode_png` atomically; the folder is made when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, encode_png(image, record))


def read_record(path: Path) -> PictureRecord:
    """What made a picture file.

    Raises:
        Echo4oError: the file carries no record of ours.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            text = image.info.get(_KEY)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise Echo4oError(f"there is no picture file {path}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise Echo4oError(f"{path} cannot be read as a PNG picture: {error}") from error
    if not isinstance(text, str):
        raise Echo4oError(
            f"{path} carries no record of echo4o; it was not made by `model generate`, or its "
            "metadata were taken off"
        )
    try:
        return _as_record(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise Echo4oError(f"the record in {path} is damaged: {error}") from error


def _as_record(values: object) -> PictureRecord:
    """The record of decoded JSON; types are checked, ranges belong to who uses it."""
    if not isinstance(values, dict):
        raise ValueError(f"it is a {type(values).__name__}, not an object")
    nested = {"references": Reference, "adapters": AdapterUse}
    parts = {key: tuple(kind(**one) for one in values.get(key, ())) for key, kind in nested.items()}
    record = PictureRecord(**{**values, **parts})
    kinds = (
        ("prompt", record.prompt, str),
        ("model", record.model, str),
        ("revision", record.revision, str | None),
        ("seed", record.seed, int | None),
        ("parameters", record.parameters, dict),
        ("runtime", record.runtime, dict),
        *(("reference", one.name, str) for one in record.references),
        *(("reference", one.sha256, str) for one in record.references),
        *(("adapter", one.source, str) for one in record.adapters),
        *(("adapter", one.sha256, str) for one in record.adapters),
        *(("adapter", one.revision, str | None) for one in record.adapters),
        *(("adapter", one.weight, int | float) for one in record.adapters),
    )
    for name, value, kind in kinds:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"`{name}` cannot be {value!r}")
    return record


def is_marked_machine_made(path: Path) -> bool:
    """Whether a picture file says in its XMP that a trained model made it."""
    with Image.open(path) as image:
        xmp = image.info.get("xmp", image.info.get(_XMP_KEY, b""))
    return SOURCE_TYPE in (xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else str(xmp))
