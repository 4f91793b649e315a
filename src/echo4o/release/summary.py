"""The end of a rehearsal: summary.json for programs, a few lines with paths for people."""

import json
from pathlib import Path
from typing import Any

from ..records import environment, write_atomic


def write_summary(out: Path, state: dict[str, Any], repos: dict[str, str]) -> str:
    """Write out/summary.json; return what to print."""
    scores = {name: _scores(out / "eval" / name / "run.json") for name in ("untrained", "trained")}
    seconds = state["seconds"]
    summary = {
        **scores,
        "seconds": seconds,
        "seconds_total": round(sum(seconds.values()), 1),
        "peak_rss_bytes": state["peak_rss_bytes"],
        "searched": state["searched"],
        "repos": repos,
        "settings": state["settings"],
        "environment": environment(),
    }
    write_atomic(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    lines = [
        "",
        f"{'':24}{'untrained':>22}{'trained':>22}",
        *(_row(name, scores) for name in ("overall", "one_or_two_objects")),
        *(_row(tag, scores, "by_tag") for tag in scores["trained"]["by_tag"]),
        "",
        f"no secret in {state['searched']['files']} files",
        f"{summary['seconds_total'] / 60:.1f} min, peak {state['peak_rss_bytes'] / 2**30:.1f} GiB",
        f"report   {out / 'report.html'}",
        f"summary  {out / 'summary.json'}",
        f"dataset  {out / 'dataset'}",
        f"model    {out / 'training' / 'model'}",
        f"demo     {out / 'demo.png'}",
    ]
    return "\n".join(lines)


def _scores(path: Path) -> dict[str, Any]:
    scores = json.loads(path.read_text())["scores"]
    return {name: scores[name] for name in ("overall", "one_or_two_objects", "by_tag")}


def _row(name: str, scores: dict[str, dict[str, Any]], group: str | None = None) -> str:
    cells = []
    for run in ("untrained", "trained"):
        score = scores[run][group][name] if group else scores[run][name]
        cells.append(
            f"{100 * score['score']:5.1f} % [{100 * score['low']:.0f}, {100 * score['high']:.0f}]"
        )
    return f"{name:24}{cells[0]:>22}{cells[1]:>22}"
