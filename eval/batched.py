"""Judging through the Batch API: all open questions as one batch, what cannot be read as another.

A process that is stopped finds its batches again; see `echo4o.batch_api`.
"""

from collections.abc import Iterator, Sequence

from echo4o.client import ApiClient, BatchOptions, ChatRequest
from echo4o.pictures import PictureError

from .cases import Case
from .verdicts import Verdict


async def settle_in_batches(
    client: ApiClient, cases: Sequence[Case], model: str, *, poll_s: float, progress: bool
) -> list[Verdict]:
    """Return a verdict for every case, in their order.

    Raises:
        BudgetExceeded: the budget is too small for all; what fitted is kept in the ledger.
        Echo4oError: the key, the model or the address needs the user.
    """
    settled = {
        place: case.unasked("missing", "there is no picture for this item")
        for place, case in enumerate(cases)
        if case.path is None
    }
    while len(settled) < len(cases):
        waiting = {place: case for place, case in enumerate(cases) if place not in settled}
        questions = _Questions(waiting, model)
        name = f"judge, {len(waiting)} in batches" if progress else None
        replies = client.run_batches(
            questions, options=BatchOptions(poll_s=poll_s), progress=name, known_images=False
        )
        async for request, reply in replies:
            verdict = waiting[questions.place].take(reply, request.key)
            if verdict is not None:
                settled[questions.place] = verdict
        settled |= questions.damaged
    return [settled[place] for place in range(len(cases))]


class _Questions:
    """The next request of each case; each reading makes them anew, so no picture is held."""

    def __init__(self, cases: dict[int, Case], model: str) -> None:
        self._cases = cases
        self._model = model
        self.damaged: dict[int, Verdict] = {}
        self.place = -1
        """The case whose request was read last."""

    def __iter__(self) -> Iterator[ChatRequest]:
        for place, case in self._cases.items():
            if place in self.damaged:
                continue
            assert case.path is not None
            try:
                picture = case.protocol.load(case.path)
            except PictureError as error:
                self.damaged[place] = case.unasked("damaged", str(error))
                continue
            case.sha256 = picture.sha256
            self.place = place
            yield case.request(picture.data, self._model)
