"""The call log: one line for each paid call, so that a test can prove that none is paid twice."""

import json
from pathlib import Path
from typing import Any

from ...prices import BUILT_IN, PriceTable
from .content import Content


class Bills:
    """Appends to `calls.jsonl`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._prices = PriceTable.load(BUILT_IN)

    def charge(
        self,
        content: Content,
        *,
        endpoint: str,
        model: str,
        tokens: tuple[int, int, int],
        batch: bool,
    ) -> float:
        """Write one paid call; `tokens` are text, pictures and output. Returns its price in USD."""
        price = self._prices.price(model)
        cost = price.cost(text=tokens[0], images=tokens[1], output=tokens[2])
        cost *= price.batch_factor if batch else 1.0
        line: dict[str, Any] = {
            "key": content.key,
            "client_key": content.client_key,
            "request_id": content.request_id,
            "endpoint": endpoint,
            "model": model,
            "cost_usd": round(cost, 9),
            "batch": batch,
            "delivered": not content.is_lost,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        return cost

    def close(self) -> None:
        """Close the log."""
        self._file.close()
