"""Runs a pilot: buys the chosen rows, has them checked when a model is named, keeps the report."""

import asyncio
from pathlib import Path

from . import pauses
from .band import Watch
from .generate import Api, Settings, Summary, opened
from .pilot import Report, choose, examine, needed
from .verdicts import Verdicts


def run_pilot(
    folder: Path,
    settings: Settings,
    api: Api,
    *,
    rows: int,
    check_model: str | None = None,
    progress: bool = False,
) -> tuple[Summary, Report]:
    """Buy `rows` rows of all categories, and write and return what they tell of the plan.

    Without `check_model` the report uses the verdicts of a check that was made before, if any.

    Raises:
        BudgetExceeded: the next call could cost more than is left; finished calls are kept.
        Echo4oError: the plan, the settings, the key or the address needs the user.
    """
    with opened(folder, settings, api, progress=progress) as buyer:
        chosen = choose(buyer.purchases.plan.rows, rows)
        references = needed(buyer.purchases.plan.references, chosen)

        async def work() -> None:
            async with buyer.client:
                await buyer.buy(references, chosen, Watch())

        asyncio.run(work())
        summary = buyer.summary(Watch())
    check_usd = 0.0 if check_model is None else _check(folder, check_model, api, progress)
    verdicts = Verdicts.load(folder).by_id
    judged = {name: (one.aligned, one.decision == "rewrite") for name, one in verdicts.items()}
    with opened(folder, settings, api) as buyer:
        report = examine(
            buyer.purchases,
            chosen,
            judged=judged,
            check_usd=check_usd,
            batch_factor=buyer.batch_factor,
        )
    pauses.save(folder, report)
    return summary, report


def _check(folder: Path, model: str, api: Api, progress: bool) -> float:
    """Judge what was bought; returns what all checks of the folder cost."""
    from .checking import check
    from .deciding import Rules

    found = check(
        folder,
        Rules(model=model),
        base_url=api.base_url,
        budget_usd=api.budget_usd,
        concurrency=api.concurrency,
        prices=api.prices,
        progress=progress,
    )
    return found.spent_usd
