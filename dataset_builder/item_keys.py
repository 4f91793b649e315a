"""Keys by which a row with facts and a benchmark item are the same, or nearly the same."""

from collections.abc import Mapping
from typing import cast

from echo4o.records import JsonValue
from echo4o.schema import constraint_key, included

_FACING = {"left of": ("left", "right"), "right of": ("right", "left")}
_FACING |= {"above": ("above", "below"), "below": ("below", "above")}


def _placed(constraints: Mapping[str, JsonValue]) -> list[dict[str, JsonValue]]:
    """The facts, with a relation of two groups read as their places.

    GenEval writes a relation into the later group, as `position: ["left of", 0]`.
    """
    facts = [dict(one) for one in included(constraints)]
    related = [
        (str(one["relation"]), cast(int, one["subject"]), cast(int, one["object"]))
        for one in cast(list[dict[str, JsonValue]], constraints.get("relations", []))
    ]
    for index, fact in enumerate(facts):
        position = fact.pop("position", None)
        if isinstance(position, list):
            related.append((str(position[0]), index, int(str(position[1]))))
    for relation, subject, target in related:
        if relation in _FACING:
            facts[subject]["region"], facts[target]["region"] = _FACING[relation]
    return facts


def facts_key(constraints: Mapping[str, JsonValue]) -> str:
    """The multiset of asked facts; a relation counts as the places it leads to."""
    facts: list[JsonValue] = [*_placed(constraints)]
    return constraint_key({"include": facts})


def skeleton_key(constraints: Mapping[str, JsonValue]) -> str:
    """What stays of the key without counts, colours and sizes: classes and their places."""
    facts = _placed(constraints)
    bare: list[JsonValue] = [{"class": one["class"], "region": one.get("region")} for one in facts]
    return constraint_key({"include": bare})
