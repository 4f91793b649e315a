"""GenEval++: does a picture hold every object asked for, in number, colour, place and size?

Seven kinds of items (tags). An item is right only if all of it is; the overall score is the mean of
the tags' shares (Echo-4o paper, section 5; Ye et al. 2025).
"""

from functools import partial

from .authors_flags import AuthorsFlags, StrictFlags
from .items import Item
from .make_kit_items import KIT_ITEMS
from .protocols import JudgeProtocol, KitProtocol, checklist
from .sheets import Sheet
from .tasks import Hooks, Task
from .wording import load_wording

NAME = "geneval_plus_plus"
_READINGS = {"released": AuthorsFlags, "paper": AuthorsFlags, "strict": StrictFlags}


def _ask(reading: str) -> JudgeProtocol:
    return _READINGS[reading](reading, load_wording(NAME))


def sheet(item: Item) -> Sheet:
    """Return what people hold a picture against."""
    return Sheet(checklist=tuple(checklist(item) if item.include else ()))


TASK = Task(
    name=NAME,
    title="GenEval++",
    kit_items=KIT_ITEMS,
    protocols={"kit": KitProtocol, **{name: partial(_ask, name) for name in _READINGS}},
    readings={name: reading(name, None) for name, reading in _READINGS.items()},
    hooks=Hooks(sheet=sheet),
)
