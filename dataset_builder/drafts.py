"""The recipes of a plan: which rows, in which order, made one at a time.

`echo4o_image` has the released numbers of the twelve categories; the ablations have one subset.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from echo4o.errors import Echo4oError
from echo4o.schema import CATEGORIES, SUBSETS

from .composition import CompositionPlanner
from .decontaminate import Blocklist
from .multi_reference import MultiReferencePlanner, ReferenceSet, sets_of_pool, sets_to_make
from .plan import Draft, Entry, Repeats, quotas
from .shapes import plan_shapes
from .surreal import SurrealPlanner

RECIPES: dict[str, tuple[str, ...]] = {
    "echo4o_image": SUBSETS,
    "ablation_surreal": ("surreal_fantasy",),
    "ablation_multi_reference": ("multi_reference",),
    "ablation_instruction_following": ("instruction_following",),
}
"""Recipe -> its subsets."""
SHAPES_ROWS = 6_000
_ATTEMPTS = 1_000
_FRESH_ATTEMPTS = 50
Slot = tuple[str, str]
"""Subset and category of a row to be made."""


def released_rows(recipe: str) -> int:
    """How many rows the release has of the recipe's subsets."""
    return sum(sum(CATEGORIES[subset].values()) for subset in RECIPES[recipe])


def draft(
    recipe: str,
    *,
    rows: int | None = None,
    seed: int = 0,
    mix: dict[str, float] | None = None,
    block: Blocklist | None = None,
    pool: Sequence[Entry] | None = None,
) -> Draft:
    """A plan to be written; the same arguments always give the same bytes.

    `rows` None takes the released number, other numbers keep the shares of the categories. `pool`
    are given reference pictures; None plans references that are to be made.

    Raises:
        Echo4oError: the pool is too small, or `mix` or `pool` does not go with the recipe.
        ValueError: `rows` is less than 1, or the mix makes no sense.
    """
    block = Blocklist() if block is None else block
    if recipe == "shapes":
        if pool is not None:
            raise Echo4oError("recipe shapes makes its own references; leave out --references")
        plan = plan_shapes(
            rows=SHAPES_ROWS if rows is None else rows, seed=seed, mix=mix, block=block
        )
        count = len(plan.rows)
        return Draft(
            recipe=recipe, seed=seed, references=plan.references, rows=plan.rows, count=count
        )
    if mix is not None:
        raise Echo4oError(
            f"--mix belongs to recipe shapes; {recipe} keeps the released shares "
            "(for one subset alone choose an ablation recipe)"
        )
    slots = _slots(recipe, released_rows(recipe) if rows is None else rows, seed)
    sets = _sets(slots, seed, pool)
    references = tuple(entry for one in sets for entries in one.values() for entry in entries)
    repeats = Repeats()
    references = tuple(replace(entry, repeat=repeats.take(entry)) for entry in references)
    made = _rows(slots, seed, sets, block, repeats)
    return Draft(recipe=recipe, seed=seed, references=references, rows=made, count=len(slots))


def _slots(recipe: str, rows: int, seed: int) -> list[Slot]:
    if rows < 1:
        raise ValueError(f"--rows must be at least 1, got {rows}")
    weights = {
        f"{subset}/{category}": float(count)
        for subset in RECIPES[recipe]
        for category, count in CATEGORIES[subset].items()
    }
    slots: list[Slot] = []
    for name, count in quotas(rows, weights).items():
        subset, category = name.split("/")
        slots += [(subset, category)] * count
    random.Random(f"order {seed}").shuffle(slots)
    return slots


def _sets(slots: Sequence[Slot], seed: int, pool: Sequence[Entry] | None) -> list[ReferenceSet]:
    rows = sum(subset == "multi_reference" for subset, _ in slots)
    if not rows:
        return []
    draw = random.Random(f"references {seed}")
    return sets_to_make(rows, draw) if pool is None else sets_of_pool(pool, rows, draw)


def _rows(
    slots: Sequence[Slot],
    seed: int,
    sets: Sequence[ReferenceSet],
    block: Blocklist,
    repeats: Repeats,
) -> Iterator[Entry]:
    """Rows in plan order; each subset draws from a stream of its own."""
    needed = sum(subset == "multi_reference" for subset, _ in slots)
    combined = MultiReferencePlanner(random.Random(f"multi_reference {seed}"), sets, needed)
    makers: dict[str, Callable[[str], Entry]] = {
        "surreal_fantasy": SurrealPlanner(random.Random(f"surreal_fantasy {seed}")).make,
        "multi_reference": combined.make,
        "instruction_following": CompositionPlanner(
            random.Random(f"instruction_following {seed}")
        ).make,
    }
    seen: Counter[str] = Counter()
    for subset, category in slots:
        entry = _fresh(makers[subset], category, block, repeats)
        if subset == "multi_reference":
            combined.took()
        identity = f"{subset}-{seen[subset]:06d}"
        seen[subset] += 1
        yield replace(entry, id=identity, repeat=repeats.take(entry))


def _fresh(
    make: Callable[[str], Entry], category: str, block: Blocklist, repeats: Repeats
) -> Entry:
    """An entry that is no benchmark item, and new as long as new ones are found."""
    for attempt in range(_ATTEMPTS):
        entry = make(category)
        if repeats.count(entry) and attempt < _FRESH_ATTEMPTS:
            continue
        if block.allows(entry.instruction, entry.constraints):
            return entry
    raise Echo4oError(
        f"in {_ATTEMPTS} draws every {category} row was a benchmark item, such as "
        f"{entry.instruction!r}; leave out a file of --against"
    )
