"""The published scripts' own result files and printed reports, made from our verdicts.

For the reading `released` only: whoever has tools for the authors' files can go on using them, and
a run can be held against theirs byte by byte.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from echo4o.records import write_atomic

from .authors_flags import read_released
from .imagine_bench import GROUPS
from .items import Item
from .scores import Scores
from .verdicts import Verdict

JsonDict = dict[str, Any]

_FAILED = "Evaluation failed after 3 attempts."


def write_released(
    task: str, items: Sequence[Item], verdicts: Sequence[Verdict], scores: Scores, folder: Path
) -> None:
    """Write the result files of the task's published script and what it prints into `folder`."""
    if task == "geneval_plus_plus":
        text = json.dumps(flags_results(verdicts, scores), indent=2)
        write_atomic(folder / "results.json", text)
        write_atomic(folder / "report.txt", flags_report(verdicts, scores))
        return
    full, marks = points_results(items, verdicts)
    write_atomic(folder / "full.json", json.dumps(full, indent=2, ensure_ascii=False))
    write_atomic(folder / "scores.json", json.dumps(marks, indent=2, ensure_ascii=False))
    write_atomic(folder / "report.txt", points_report(verdicts, scores))


def flag_result(verdict: Verdict) -> JsonDict:
    """Return what the script of GenEval++ keeps about one item."""
    return {
        "id": verdict.number,
        "tag": verdict.tag,
        "prompt": verdict.prompt,
        "result": _flag(verdict),
    }


def flags_results(verdicts: Sequence[Verdict], scores: Scores) -> JsonDict:
    """Return the file that the script of GenEval++ writes."""
    right = sum(verdict.correct for verdict in verdicts)
    return {
        "overall_results": [flag_result(verdict) for verdict in verdicts],
        "tag_accuracy": {tag: score.score for tag, score in scores.by_tag.items()},
        "overall_score_mean_of_tags": scores.overall.score,
        "overall_accuracy_all_samples": round(right / len(verdicts), 4),
    }


def flags_report(verdicts: Sequence[Verdict], scores: Scores) -> str:
    """Return what the script of GenEval++ prints at its end."""
    right = sum(verdict.correct for verdict in verdicts)
    lines = ["", "\U0001f4ca Tag-wise Accuracy Report:"]
    for tag, score in scores.by_tag.items():
        hits = sum(verdict.correct for verdict in verdicts if verdict.tag == tag)
        share = f"{100 * score.score:.2f}%  ({hits}/{score.items})"
        lines.append(f"\U0001f7e9 Tag: {tag:<20} | Accuracy: {share}")
    everywhere = round(right / len(verdicts), 4)
    lines += [
        "",
        f"\u2b50 Overall score (mean of tag accuracies): {100 * scores.overall.score:.2f}%",
        f"Overall accuracy (all samples): {100 * everywhere:.2f}%",
        "",
    ]
    return "\n".join(lines) + "\n"


def flag_retries(verdict: Verdict) -> str:
    """Return what the script of GenEval++ prints while it asks about one item."""
    return "".join(
        f"\u26a0\ufe0f Retry {attempt} failed for image {verdict.number}: {problem}\n"
        for attempt, problem in enumerate(verdict.problems[:2], start=1)
    )


def point_result(verdict: Verdict) -> JsonDict:
    """Return what the script of Imagine-Bench makes of one picture's replies."""
    if not verdict.findings:
        return {"evaluation": _FAILED, "Weighted Score": 0}
    return {"evaluation": (verdict.raw_reply or "").strip(), "Weighted Score": verdict.value}


def points_results(
    items: Iterable[Item], verdicts: Iterable[Verdict]
) -> tuple[list[JsonDict], list[JsonDict]]:
    """Return the two files that the script of Imagine-Bench writes."""
    by_number: Mapping[int, Item] = {item.number: item for item in items}
    full, marks = [], []
    for verdict in verdicts:
        if verdict.outcome == "missing":
            continue
        item, group = by_number[verdict.number], GROUPS.get(verdict.tag, verdict.tag)
        result = point_result(verdict)
        said = result["evaluation"]
        entry = {"id": item.number, "instruction": item.prompt, "note": item.note, "type": group}
        full.append({**entry, "image_path": verdict.picture, "evaluation": said})
        points = result["Weighted Score"]
        marks.append(
            {"id": item.number, "type": group, "Weighted Score": points, "evaluation_text": said}
        )
    return full, marks


def points_report(verdicts: Iterable[Verdict], scores: Scores) -> str:
    """Return what the script of Imagine-Bench prints at its end."""
    missing = [str(verdict.number) for verdict in verdicts if verdict.outcome == "missing"]
    lines = ["", "[Missing Images]", ", ".join(missing)] if missing else []
    lines += ["", "[Per-Type Average Scores]"]
    lines += [f"  {group}: {score.score}" for group, score in scores.by_group.items()]
    overall = scores.overall.score if scores.overall.items else 0
    lines += ["", f"[Overall Weighted Score]: {overall}"]
    return "\n".join(lines) + "\n"


def _flag(verdict: Verdict) -> JsonDict:
    if verdict.outcome == "missing":
        return {"correct": 0, "reason": "Image not found"}
    if verdict.outcome == "judged":
        return read_released(verdict.raw_reply or "")
    said = f"Image not successfully evaluated after 3 retries: {verdict.reason}"
    return {"correct": -1, "reason": said}
