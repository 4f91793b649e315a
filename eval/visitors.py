"""What the page of a metric's Space does with one visitor's picture; the pages draw it.

The judge is set by the Space's owner (ECHO4O_JUDGE, ECHO4O_BUDGET, OPENAI_BASE_URL,
OPENAI_API_KEY); a visitor can change neither its address nor its key, nor exceed the budget.
"""

import math
import os
from pathlib import Path

from echo4o.errors import Echo4oError

from .items import KIT, Item
from .judging import JudgeConfig, judge
from .tasks import Task
from .verdicts import Verdict


def paid_judge() -> JudgeConfig:
    """Return the owner's judge, within the USD that it may spend until the Space starts again.

    Raises:
        Echo4oError: the owner has not set both; visitors never spend without a limit.
    """
    model = os.environ.get("ECHO4O_JUDGE")
    if not model:
        raise Echo4oError("This Space has no judge yet; its owner sets ECHO4O_JUDGE.")
    try:
        budget = float(os.environ.get("ECHO4O_BUDGET", ""))
    except ValueError:
        budget = math.nan
    if not 0 <= budget < math.inf:
        raise Echo4oError(
            "This Space has no budget yet, so it asks no judge; its owner sets ECHO4O_BUDGET to "
            "the most USD that it may spend, such as 5."
        )
    return JudgeConfig(model=model, budget_usd=budget)


def judge_one(
    task: Task, item: Item | None, picture: str | None, config: JudgeConfig, ledger: Path
) -> Verdict:
    """Return the verdict on one picture of one item.

    Raises:
        Echo4oError: nothing was chosen, or the judge cannot be asked.
    """
    if item is None or picture is None:
        raise Echo4oError("Choose an item and give a picture of it.")
    judged = judge(
        [item],
        {item.number: Path(picture)},
        protocol=task.protocol(KIT),
        config=config,
        ledger=ledger,
    )
    return judged.verdicts[0]
