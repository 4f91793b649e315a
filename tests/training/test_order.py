"""The order of samples: complete, keyed, resumable; packs that lose nothing."""

import itertools

import pytest

from echo4o.errors import Echo4oError
from echo4o.training import draws
from echo4o.training.order import Order, Packer, Position, Source, Visit


def order(*sources: tuple[int, float], seed: int = 1) -> Order:
    starts = itertools.accumulate((size for size, _ in sources), initial=0)
    return Order(
        [Source(range(s, s + n), w) for s, (n, w) in zip(starts, sources, strict=False)], seed=seed
    )


def test_an_epoch_shows_every_row_once_in_a_new_order():
    rows = order((50, 1.0))
    first, second = rows.epoch(0), rows.epoch(1)
    assert sorted(visit.row for visit in first) == list(range(50))
    assert sorted(visit.row for visit in second) == list(range(50))
    assert [v.row for v in first] != [v.row for v in second]
    assert {v.visit for v in first} == {0}
    assert {v.visit for v in second} == {1}
    assert rows.epoch(0) == first
    assert order((50, 1.0), seed=2).epoch(0) != first


def test_weights_say_how_often_an_epoch_shows_a_row():
    rows = order((10, 2.0), (20, 0.5), (7, 0.0))
    assert len(rows) == 30
    visits = [visit for epoch in range(4) for visit in rows.epoch(epoch)]
    assert len(set(visits)) == len(visits), "the same row with the same draws came twice"
    seen = [visit.row for visit in visits]
    assert all(seen.count(row) == 8 for row in range(10))
    assert all(seen.count(row) == 2 for row in range(10, 30))
    assert not any(row >= 30 for row in seen)


def test_a_mixture_without_rows_is_refused():
    with pytest.raises(Echo4oError, match="mixture"):
        order((7, 0.0))


def lengths(row: int) -> int | None:
    return None if row == 3 else 5000 if row == 4 else 20 + 7 * (row % 11)


@pytest.mark.parametrize("kind", [{"samples": 6}, {"budget": 100}, {"budget": 100, "lookahead": 0}])
def test_a_resumed_packer_makes_the_same_packs(kind):
    straight = Packer(order((40, 1.0)), lengths, **kind)
    packs, positions = [], []
    for _ in range(40):
        positions.append(straight.position)
        packs.append(straight.next())
    for start in (1, 17, 39):
        again = Packer(order((40, 1.0)), lengths, **kind, position=positions[start])
        assert [again.next() for _ in range(start, 40)] == packs[start:]
    assert [pack.number for pack in packs] == list(range(40))


def test_a_budget_is_kept_filled_and_loses_nothing():
    packer = Packer(order((200, 1.0)), lengths, budget=400, lookahead=8)
    drawn: list[Visit] = []
    fills = []
    while packer.position.epoch < 2:
        pack = packer.next()
        drawn += pack.visits
        fills.append(sum(lengths(visit.row) or 0 for visit in pack.visits))
    assert max(fills) <= 400
    assert sum(fills) / len(fills) > 380
    drawn += packer.position.waiting
    assert len(set(drawn)) == len(drawn)
    usable = [row for row in range(200) if row not in (3, 4)]
    for visit in (0, 1):
        assert sorted(v.row for v in drawn if v.visit == visit) == usable
    assert packer.position.skipped == 4
    assert packer.fill_rate(packer.position) == sum(fills) / len(fills) / 400


def test_rows_that_never_fit_end_in_a_sentence():
    packer = Packer(order((5, 1.0)), lambda row: 900, budget=100)
    with pytest.raises(Echo4oError, match="tokens_per_pack"):
        packer.next()


def test_samples_and_budget_exclude_each_other():
    with pytest.raises(ValueError, match="one of"):
        Packer(order((5, 1.0)), lengths, samples=2, budget=100)


def test_draws_depend_on_their_key_alone():
    assert draws.uniform(1, 2, "text") == draws.uniform(1, 2, "text")
    values = [draws.uniform(seed, row, "text") for seed in range(40) for row in range(50)]
    assert len(set(values)) == len(values)
    assert 0.47 < sum(values) / len(values) < 0.53
    assert min(values) > 0
    assert max(values) < 1
    numbers = [draws.normal(0, row) for row in range(2000)]
    assert abs(sum(numbers) / 2000) < 0.1
    assert 0.9 < sum(n * n for n in numbers) / 2000 < 1.1
    assert draws.normals((2, 3), 5).shape == (2, 3)
    assert (draws.normals((4,), 5) == draws.normals((4,), 5)).all()
    # (1, 23) and (12, 3) are different keys.
    assert draws.uniform(1, 23) != draws.uniform(12, 3)


def test_positions_compare_by_value():
    assert Position(waiting=(Visit(1, 0),)) == Position(waiting=(Visit(1, 0),))
