"""How often the demo shows a preview, how soon Stop ends the work, and whether the page is right.

A visitor in a real Chromium begins the longest work of the tiny model, stops it at a random moment
and begins again at once, many times. After every stop the page must say so, and after every start
it must be at work with a button to stop it: nothing late may undo either.

Run: python benchmarks/bench_stops.py [--times N]
Writes: benchmarks/results/stops.json
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests/helpers"))
from browsing import find_browser  # noqa: E402
from demo import TINY, running  # noqa: E402
from demo_page import READY, long_work, start, stop  # noqa: E402

RESULTS = HERE / "results/stops.json"
SHOWN = """(name) => document.querySelector(`#create-${name}`)?.offsetParent != null"""
WATCH = """() => {
  window.previews = [];
  let last = null;
  new MutationObserver(() => {
    const now = document.querySelector('#create-stage .working img')?.src;
    if (now && now !== last) { last = now; window.previews.push(performance.now()); }
  }).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


def stopped(page: Any) -> float:
    """Seconds from the click until the page says it and can be started again."""
    begun = time.perf_counter()
    stop(page)
    page.locator("#create-rest").get_by_text("Stopped").wait_for()
    page.locator("button.start:enabled").locator("visible=true").first.wait_for()
    return time.perf_counter() - begun


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50, help="stops (default 50)")
    times = parser.parse_args().times
    draw, seconds, gaps, wrong = random.Random(5), list[float](), list[float](), 0
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), environment=TINY) as (url, _),
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(url)
        page.get_by_text(READY).wait_for(timeout=90_000)
        page.locator("button.start:enabled").first.wait_for()
        page.evaluate(WATCH)
        long_work(page)
        for turn in range(times):
            page.wait_for_timeout(draw.uniform(0, 2_000))
            came = page.evaluate("window.previews.splice(0)")
            gaps += [after - before for before, after in zip(came, came[1:], strict=False)]
            seconds.append(stopped(page))
            start(page)
            page.locator("#create-stage .working").wait_for()
            page.wait_for_timeout(400)
            right = page.evaluate(SHOWN, "stage") and not page.evaluate(SHOWN, "rest")
            wrong += not (right and page.get_by_role("alert").locator("visible=true").count() == 0)
            print(f"\rstop {turn + 1} of {times}, {wrong} wrong", end="", file=sys.stderr)
        browser.close()
    found = {
        "stops": times,
        "page_wrong_after_stop_and_start": wrong,
        "stop_median_s": round(statistics.median(seconds), 2),
        "stop_longest_s": round(max(seconds), 2),
        "previews": len(gaps),
        "preview_gap_median_ms": round(statistics.median(gaps)),
        "preview_gap_longest_ms": round(max(gaps)),
        "machine": describe(),
    }
    RESULTS.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    print(f"\n{json.dumps(found, indent=2)}")


if __name__ == "__main__":
    main()
