"""Imagine-Bench: is the fantasy there, is the thing still itself, does it look well?

Eight types of items (tags) in four groups. An item's points are 0.8 times the lower of fantasy and
identity plus 0.2 times the looks; the overall score weighs the groups' means 3 : 2 : 2 : 2 (Echo-4o
paper, section 5). The published script drops the multi-object group by a misspelt name; published
tables have it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from .authors_points import MOST, AuthorsPoints, StrictPoints, weigh
from .imagine_kit import MARKS, KitPoints
from .items import Item, text
from .protocols import Finding, JudgeProtocol
from .scores import Grading
from .sheets import Sheet, out_of_ten
from .tasks import Hooks, Task
from .wording import load_wording

NAME = "imagine_bench"
GROUPS = {
    "COLOR": "Attribute shift",
    "SHAPE": "Attribute shift",
    "SIZE": "Attribute shift",
    "MATERIAL": "Hybridization",
    "COMBINATION": "Hybridization",
    "TIME": "Spatiotemporal",
    "ENVIRONMENT": "Spatiotemporal",
    "Multi-Object": "Multi-Object",
}
_WEIGHTS = {"Attribute shift": 3.0, "Hybridization": 2.0, "Spatiotemporal": 2.0}
_READINGS = {"released": AuthorsPoints, "paper": AuthorsPoints, "strict": StrictPoints}


def read_row(value: object, index: int) -> Item:
    """Read a row {id, instruction, note, type}; ValueError says what is wrong with it."""
    if not isinstance(value, Mapping):
        raise ValueError(f"an item must be a JSON object, got {value!r:.80}")
    number = value.get("id")
    if type(number) is not int or number < 1:
        raise ValueError(f"`id` must be a whole number from 1, got {number!r:.80}")
    for key in ("instruction", "note", "type"):
        if text(value, key) is None:
            raise ValueError(f"`{key}` must be a non-empty text")
    tag = value["type"].strip()
    if tag not in GROUPS:
        raise ValueError(f"unknown type {tag!r:.80}; known: {', '.join(GROUPS)}")
    # As they are: the authors put both into the question without taking blanks off.
    return Item(number=number, tag=tag, prompt=value["instruction"], note=value["note"])


def _ask(reading: str) -> JudgeProtocol:
    return _READINGS[reading](reading, load_wording(NAME))


def sheet(item: Item) -> Sheet:
    """Return the three aspects, which people mark as the judge does."""
    return out_of_ten(MARKS, _weigh)


def _weigh(marks: Sequence[int]) -> float:
    pairs = zip(MARKS, marks, strict=True)
    return weigh(
        [Finding(expectation=name, satisfied=False, reason="", points=one) for name, one in pairs]
    )


TASK = Task(
    name=NAME,
    title="Imagine-Bench",
    kit_items=Path(__file__).parent / "items" / "imagine_bench_kit.jsonl",
    protocols={"kit": KitPoints, **{name: partial(_ask, name) for name in _READINGS}},
    readings={name: reading(name, None) for name, reading in _READINGS.items()},
    read_row=read_row,
    grading=Grading(
        scale=MOST,
        group_of=GROUPS,
        weights={**_WEIGHTS, "Multi-Object": 2.0},
        released_weights=_WEIGHTS,
    ),
    hooks=Hooks(sheet=sheet),
)
