"""Helpers of the evaluation's tests: painted pictures, verdicts, runs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from echo4o.eval.items import Item
from echo4o.eval.painters import ModelIdentity, PaintSettings
from echo4o.eval.protocols import Finding
from echo4o.eval.runs import Run, save_run
from echo4o.eval.tasks import get_task
from echo4o.eval.verdicts import Verdict
from echo4o.sandbox import world

TASK = get_task("geneval_plus_plus")
KIT = TASK.items("kit")


class WorldPainter:
    """Paints with the sandbox's world: a second implementation of the Painter seam."""

    made_by = "WorldPainter"

    def __init__(self, name: str = "world", die_after: int | None = None) -> None:
        self.identity = ModelIdentity(id=name, revision=None, sha256="0" * 64)
        self.painted: list[str] = []
        self._left = die_after

    def paint(
        self, prompts: Sequence[str], seeds: Sequence[int], config: PaintSettings
    ) -> list[Image.Image]:
        if self._left is not None:
            self._left -= len(prompts)
            if self._left < 0:
                raise KeyboardInterrupt
        self.painted += prompts
        return [
            world.paint(prompt, width=64, height=64, seed=seed)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]


def paint_into(folder: Path, items: Sequence[Item], prompts: Sequence[str] | None = None) -> Path:
    """Paint the items' own prompts, or other ones in their place."""
    folder.mkdir(parents=True, exist_ok=True)
    for item, prompt in zip(items, prompts or [item.prompt for item in items], strict=True):
        picture = world.paint(prompt, width=64, height=64, seed=item.number)
        picture.save(folder / f"{item.number}.png")
    return folder


def verdict(item: Item, right: bool | None, **changes: object) -> Verdict:
    """A verdict with one finding; None means the judge refused."""
    judged = right is not None
    finding = Finding(expectation="all of it.", satisfied=bool(right), reason="because")
    return dataclasses.replace(
        Verdict(
            number=item.number,
            tag=item.tag,
            prompt=item.prompt,
            objects=item.objects,
            outcome="judged" if judged else "refused",
            correct=bool(right),
            findings=(finding,) if judged else (),
            reason=None if judged else "declined",
            picture=f"{item.number}.png",
        ),
        **changes,
    )


def write_run(folder: Path, verdicts: Sequence[Verdict], pictures: Path) -> Path:
    """Write a run folder with these verdicts."""
    run = Run(
        task=TASK.name,
        protocol={"name": "kit", "version": "1"},
        items={
            "source": "kit",
            "sha256": KIT.sha256,
            "available": len(KIT.items),
            "judged": len(verdicts),
        },
        judge={"model": "sandbox-judge", "answered_as": ["sandbox-judge"]},
        generation=None,
        verdicts=tuple(verdicts),
        calls=len(verdicts),
        spent_usd=0.25,
        started="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        pictures=pictures,
    )
    save_run(run, folder)
    return folder


def bare_run(task: str, protocol: str, verdicts: Sequence[Verdict]) -> Run:
    """A run of which only the verdicts are known."""
    return Run(
        task=task,
        protocol={"name": protocol, "version": "1"},
        items={},
        judge={"model": "m"},
        generation=None,
        verdicts=tuple(verdicts),
        calls=0,
        spent_usd=0.0,
        started="",
        seconds=0.0,
        pictures=Path("none"),
    )
