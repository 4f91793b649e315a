"""A real Chromium for tests of pages."""

import shutil
from pathlib import Path
from typing import Any

DESKTOP, PHONE = (1280, 860), (390, 844)
SIZES = {"desktop": DESKTOP, "phone": PHONE}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """The Chromium of this machine."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def fits(page: Any) -> bool:
    """Nothing sticks out sideways."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def settle(page: Any) -> None:
    """Wait until what a click unfolded keeps what is typed.

    Gradio writes the values of the parts of a tab or a fold anew one frame after it showed them. A
    page behind another gets its frames late: what was typed until then would be lost.
    """
    page.evaluate(
        "() => new Promise((done) => { let left = 3;"
        " const next = () => (left-- ? requestAnimationFrame(next) : done()); next(); })"
    )


def look(page: Any, folder: Path, name: str, *, whole: bool = True) -> None:
    """Screenshots of a page, light and dark, as `NAME-light.png` and `NAME-dark.png`."""
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(
            "(dark) => document.body.classList.contains('dark') === dark", arg=scheme == "dark"
        )
        page.screenshot(
            path=folder / f"{name}-{scheme}.png", full_page=whole, animations="disabled"
        )
