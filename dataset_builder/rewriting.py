"""No invalid pictures, only invalid prompts: a text that says what the picture shows instead.

Instruction-following texts are composed anew from what was seen, so that text and constraints
cannot differ; for the other subsets the model's own caption is taken (arXiv 2508.09987, section 3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue
from echo4o.schema import check_constraints, check_instruction, constraint_key

from .check_question import Asked, Findings, Group, Line, checklist
from .composition import table
from .language import NUMBERS, join, plural
from .objects import by_name, words

_COMPARED = {"small": "smaller", "large": "larger"}
_MOST_GROUPS = 8


class Rewritten(NamedTuple):
    """A text and the constraints that it states."""

    instruction: str
    constraints: dict[str, JsonValue]


def rewrite(asked: Asked, findings: Findings, row_id: str) -> Rewritten | None:
    """What the row should say, None when the findings give no other text that is fit to print."""
    if asked.is_exact and asked.groups:
        made = _compose(asked, findings)
    else:
        made = Rewritten(findings.caption, _kept(asked, findings))
    if made is None or _same(made, asked):
        return None
    try:
        check_instruction(made.instruction, row_id)
        check_constraints(made.constraints, row_id)
    except Echo4oError:
        return None
    return made


def _same(made: Rewritten, asked: Asked) -> bool:
    if made.instruction == asked.instruction:
        return True
    # Other words for the very facts that the model denied are no better.
    unchanged = constraint_key(made.constraints) == constraint_key(asked.constraints)
    relations = [one.get("relations") for one in (made.constraints, asked.constraints)]
    return asked.is_exact and unchanged and relations[0] == relations[1]


def _compose(asked: Asked, findings: Findings) -> Rewritten | None:
    groups = _summed(_alike(findings.objects, asked))
    if not 0 < len(groups) <= _MOST_GROUPS:
        return None
    relation = _relation(asked, findings, groups)
    phrases = [_phrase(group) for group in groups]
    said = phrases
    if relation is not None:
        first, second = cast(int, relation["subject"]), cast(int, relation["object"])
        tied = f"{phrases[first]} {table()['relations'][str(relation['relation'])][0]} "
        others = [text for index, text in enumerate(phrases) if index not in (first, second)]
        said = [tied + phrases[second], *others]
    constraints: dict[str, JsonValue] = {
        name: value
        for name, value in asked.constraints.items()
        if name not in ("include", "exclude", "relations")
    }
    constraints["include"] = [_fact(group, asked) for group in groups]
    if "exclude" in asked.constraints:
        constraints["exclude"] = [{"class": g.name, "count": g.count + 1} for g in groups]
    if relation is not None:
        constraints["relations"] = [relation]
    return Rewritten(f"A photo of {join(said)}", constraints)


def _alike(objects: Sequence[Group], asked: Asked) -> list[Group]:
    """Groups by the row's own words for its classes; the order of the row, then the others."""
    known = {form: str(group["class"]) for group in asked.groups for form in _forms(group)}
    order = [str(group["class"]) for group in asked.groups]
    renamed = [replace(one, name=known.get(one.name, one.name)) for one in objects]
    return sorted(renamed, key=lambda g: order.index(g.name) if g.name in order else len(order))


def _forms(group: Mapping[str, JsonValue]) -> set[str]:
    name = str(group["class"]).lower()
    thing = by_name().get(name)
    more = {thing.noun.lower(), thing.plural.lower()} if thing else set()
    return {name, plural(name), plural(name, words().plurals), *more}


def _summed(groups: Sequence[Group]) -> list[Group]:
    """Groups that differ in nothing that is said are one."""
    counts: dict[Group, int] = {}
    for group in groups:
        alike = replace(group, count=1)
        counts[alike] = counts.get(alike, 0) + group.count
    return [replace(group, count=count) for group, count in counts.items()]


def _relation(
    asked: Asked, findings: Findings, groups: Sequence[Group]
) -> dict[str, JsonValue] | None:
    """The asked relation, when it was found true and both its ends are there once."""
    stated = cast(list[dict[str, JsonValue]], asked.constraints.get("relations") or [])
    names = [group.name for group in groups]
    for line, holds in zip(checklist(asked), findings.satisfied, strict=True):
        if line.kind != "relation" or not holds:
            continue
        relation = stated[int(line.place)]
        ends = [relation.get("subject"), relation.get("object")]
        if not all(isinstance(end, int) and 0 <= end < len(asked.groups) for end in ends):
            continue
        classes = [str(asked.groups[cast(int, end)]["class"]) for end in ends]
        if all(names.count(name) == 1 for name in classes):
            if relation.get("relation") not in table()["relations"]:
                continue
            first, second = (names.index(name) for name in classes)
            return {"subject": first, "relation": relation["relation"], "object": second}
    return None


def _fact(group: Group, asked: Asked) -> dict[str, JsonValue]:
    size = group.size
    if size and set(asked.values("size")) & set(_COMPARED.values()):
        size = _COMPARED[size]
    named = {"color": group.color, "size": size, "region": group.region}
    facts: dict[str, JsonValue] = {"class": group.name, "count": group.count}
    return facts | {name: value for name, value in named.items() if value is not None}


def _phrase(group: Group) -> str:
    thing = by_name().get(group.name)
    one = thing.noun if thing else group.name
    several = thing.plural if thing else plural(group.name, words().plurals)
    noun = one if group.count == 1 else several
    text = " ".join(word for word in (group.size, group.color, noun) if word)
    number = NUMBERS[group.count] if group.count < len(NUMBERS) else str(group.count)
    text = f"{number} {text}"
    return f"{text} {_PLACES[group.region]}" if group.region else text


_PLACES = {
    **{"left": "on the left", "right": "on the right"},
    **{"above": "on the top", "below": "on the bottom"},
}


def _kept(asked: Asked, findings: Findings) -> dict[str, JsonValue]:
    """The constraints that were found true, and what was seen in place of the others."""
    wrong: list[Line] = [
        line for line, holds in zip(checklist(asked), findings.satisfied, strict=True) if not holds
    ]
    kept = dict(asked.constraints)
    wrong_groups = {int(line.place) for line in wrong if line.kind == "group"}
    if wrong_groups:
        groups = [
            _seen_instead(group, asked, findings) if index in wrong_groups else dict(group)
            for index, group in enumerate(asked.groups)
        ]
        kept["include"] = [group for group in groups if group is not None]
    for kind, name in (("relation", "relations"), ("scene", "scenes")):
        gone = {int(line.place) for line in wrong if line.kind == kind}
        if gone:
            values = cast(list[JsonValue], kept[name])
            kept[name] = [value for index, value in enumerate(values) if index not in gone]
    deflected = kept.get("deflected")
    if isinstance(deflected, dict):
        untrue = {line.place for line in wrong if line.kind == "deflected"}
        kept["deflected"] = {key: v for key, v in deflected.items() if key not in untrue}
    if wrong_groups:
        # Relations count the groups; without one of them the numbers mean others.
        kept.pop("relations", None)
    return kept


def _seen_instead(
    group: Mapping[str, JsonValue], asked: Asked, findings: Findings
) -> dict[str, JsonValue] | None:
    """What is there of the class, when that is one group; else nothing is known of it."""
    alike = _summed(_alike(findings.objects, asked))
    same = [one for one in alike if one.name == group["class"]]
    return _fact(same[0], asked) if len(same) == 1 else None
