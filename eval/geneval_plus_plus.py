"""GenEval++: does a picture hold every object asked for, in number, colour, place and size?

Seven kinds of items (tags). An item is right only if all of it is; the overall score is the mean of
the tags' shares (Echo-4o paper, section 5; Ye et al. 2025).
"""

from functools import partial

from .make_kit_items import KIT_ITEMS
from .protocols import AUTHORS_READINGS, KitProtocol, authors_protocol
from .scores import score_shares
from .tasks import Task

TASK = Task(
    name="geneval_plus_plus",
    title="GenEval++",
    kit_items=KIT_ITEMS,
    protocols={
        "kit": KitProtocol,
        **{name: partial(authors_protocol, name) for name in AUTHORS_READINGS},
    },
    score=score_shares,
)
