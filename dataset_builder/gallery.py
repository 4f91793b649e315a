"""HTML galleries, one a subset: self-contained pages of small pictures with their instructions.

Instructions are foreign text: the template escapes them, and a content security policy lets nothing
run but the page's own script, whatever a text may hold.
"""

import base64
import hashlib
from pathlib import Path
from typing import NamedTuple

from echo4o.model_cards.dataset_parts import ABOUT
from echo4o.records import write_atomic
from echo4o.schema import Row

from .thumbnails import shrunk_jpeg

MOST_ROWS = 60
_TARGET_SIDE, _REFERENCE_SIDE = 320, 120
_SCRIPT = """
const category = document.getElementById("category"), words = document.getElementById("words");
function show() {
  const wanted = words.value.toLowerCase();
  let left = 0;
  for (const card of document.querySelectorAll("article")) {
    card.hidden = (category.value && card.dataset.category !== category.value)
      || !card.querySelector(".text").textContent.toLowerCase().includes(wanted);
    left += !card.hidden;
  }
  document.getElementById("none").hidden = left > 0;
}
category.addEventListener("change", show);
words.addEventListener("input", show);
"""


class _Card(NamedTuple):
    """A row as the page shows it; pictures are base64."""

    id: str
    category: str
    size: str
    instruction: str
    asked: str | None
    picture: str
    references: list[str]


class Gallery:
    """Takes rows while they pass; the first 60 of each subset are shown."""

    def __init__(self) -> None:
        self._cards: dict[str, list[_Card]] = {}

    def add(self, row: Row, small: Row) -> None:
        """Show `row` with the pictures of its small copy."""
        cards = self._cards.setdefault(row.subset, [])
        if len(cards) == MOST_ROWS:
            return
        cards.append(
            _Card(
                id=row.id,
                category=row.category or row.type or "unknown",
                size=f"{row.width} x {row.height}",
                instruction=row.instruction,
                asked=row.requested_instruction,
                picture=_shown(small.output_image.data, _TARGET_SIDE),
                references=[_shown(one.data, _REFERENCE_SIDE) for one in small.input_images],
            )
        )

    def write(self, folder: Path, title: str, totals: dict[str, int]) -> list[str]:
        """Write `<subset>.html`; `totals` are the rows of each subset. Returns the names."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
        )
        template = environment.get_template("gallery.html.jinja")
        digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
        names = []
        for subset, cards in sorted(self._cards.items()):
            page = template.render(
                title=title,
                subset=subset.replace("_", " "),
                about=ABOUT[subset][0].upper() + ABOUT[subset][1:],
                rows=cards,
                total=totals[subset],
                categories=sorted({card.category for card in cards}),
                script=_SCRIPT,
                script_hash=digest,
            )
            write_atomic(folder / f"{subset}.html", page + "\n")
            names.append(f"{subset}.html")
        return names


def _shown(data: bytes, side: int) -> str:
    return base64.b64encode(shrunk_jpeg(data, side, quality=82)[0]).decode()
