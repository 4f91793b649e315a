"""A process that buys a plan and can be killed: target of a fork server, so it starts at once."""

import os
import sys
from pathlib import Path

from echo4o.client import PriceTable
from echo4o.dataset_builder.generate import Api, Settings, generate
from echo4o.ledger import BudgetExceeded

PRELOAD = ["openai.resources", "openai.types", "tqdm", "echo4o.dataset_builder.generate"]
CONCURRENCY = 16
NO_MONEY = 3
"""Exit status of a run that the budget ended."""


def settings() -> Settings:
    """What is bought."""
    return Settings(model="sandbox-image", size="64x64", rewriter="sandbox-text", rewrites=2)


def buy(folder: Path, url: str, key: str, budget: float) -> None:
    """Buy what the plan lacks."""
    os.environ |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": key}
    api = Api(concurrency=CONCURRENCY, budget_usd=budget, prices=PriceTable.load())
    try:
        generate(folder, settings(), api)
    except BudgetExceeded:
        sys.exit(NO_MONEY)
