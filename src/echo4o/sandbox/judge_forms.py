"""Fills a JSON schema from what the judge saw: a field's name says what is meant, its type how."""

import re
from collections.abc import Sequence
from typing import Any

from . import world
from .judge_look import Judged, Look, common_size, compare, rephrase, scores, sentence

Schema = dict[str, Any]

_VERDICT = re.compile(r"correct|satisf|aligned|match|pass|ok$|yes|present|met$|verdict|follow")
_REASON = re.compile(r"reason|explan|comment|why|justif|rationale")
_TEXT = re.compile(r"instruction|prompt|rewrit|caption|description|describe|text")
_SCORES = (
    (re.compile(r"fantasy|fulfil"), "fantasy"),
    (re.compile(r"identity"), "identity"),
    (re.compile(r"aesthetic|quality"), "quality"),
)
_COMPARED = re.compile(r"^(prompt_following|subject_consistency)$")
_JUDGED = re.compile(
    rf"{_VERDICT.pattern}|{_COMPARED.pattern}|score|rating|grade|fantasy|fulfil|identity|aesthetic"
    r"|quality|^(blank|is_blank|empty)$"
)
_SAFETY = re.compile(r"unsafe|minor|trademark|nsfw|violence|flagged")


def fill(schema: Schema, look: Look) -> Any:
    """A value that follows `schema`, taken from the picture."""
    return _value(schema, "", look, None, schema)


def forced_verdict(schema: Schema) -> str | None:
    """Name of a verdict or score to which `schema` leaves one answer; None when all are open.

    Such a schema would make the judge say what the caller wants, whatever the picture shows.
    """
    return _forced(schema, "", schema, ())


def _forced(schema: Schema, name: str, root: Schema, above: tuple[int, ...]) -> str | None:
    schema = _resolve(schema, root)
    if id(schema) in above:
        return None
    above = (*above, id(schema))
    if _JUDGED.search(name.lower()) and _leaves_one_answer(schema):
        return name
    inner = [*schema.get("properties", {}).items()]
    if "items" in schema:
        inner.append((name, schema["items"]))
    found = (_forced(part, key, root, above) for key, part in inner)
    return next((one for one in found if one is not None), None)


def _leaves_one_answer(schema: Schema) -> bool:
    if "const" in schema:
        return True
    if "enum" in schema:
        return len({str(one).lower() for one in schema["enum"] if one is not None}) < 2
    low, high = schema.get("minimum"), schema.get("maximum")
    return low is not None and high is not None and low >= high


def _value(
    schema: Schema, name: str, look: Look, line: Judged | world.Seen | None, root: Schema
) -> Any:
    schema = _resolve(schema, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return _choose(schema["enum"], name, look, line)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind == "object" or "properties" in schema:
        fields: Schema = schema.get("properties", {})
        return {key: _value(part, key, look, line, root) for key, part in fields.items()}
    if kind == "array":
        return _array(schema, name, look, root)
    if kind == "boolean":
        return _boolean(name, look, line)
    if kind in ("integer", "number"):
        return _number(schema, name, look, line, whole=kind == "integer")
    return _string(name, look, line) if kind == "string" else None


def _resolve(schema: Schema, root: Schema) -> Schema:
    """Follow `$ref`, and take the first branch that is not null."""
    while "$ref" in schema:
        target: Any = root
        for part in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
            target = target[part] if part else target
        schema = target
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            branches = [branch for branch in schema[key] if branch.get("type") != "null"]
            if len(branches) > 1 and all("const" in branch for branch in branches):
                return {"enum": [branch["const"] for branch in branches]}
            return _resolve(branches[0], root) if branches else {"type": "null"}
    return schema


def _array(schema: Schema, name: str, look: Look, root: Schema) -> list[Any]:
    items = _resolve(schema.get("items", {"type": "string"}), root)
    lowered = name.lower()
    if re.search(r"issue|missing|wrong|error|problem|unmet|failed", lowered):
        wrong = [one for one in look.judged if not one.is_satisfied]
        return [_value(items, "reason", look, one, root) for one in wrong]
    members: list[Any] = [one for one in look.judged if one.was_asked]
    if re.search(r"object|seen|include|found_", lowered):
        members = list(look.seen)
        if "count" in items.get("properties", {}):
            return _counted([_value(items, name, look, member, root) for member in members])
    return [_value(items, name, look, member, root) for member in members]


def _counted(ones: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Objects that agree in everything asked for as one entry with their number."""
    groups: dict[str, dict[str, Any]] = {}
    for one in ones:
        key = str({**one, "count": 1})
        groups[key] = {**one, "count": groups.get(key, {"count": 0})["count"] + 1}
    return list(groups.values())


def _boolean(name: str, look: Look, line: Judged | world.Seen | None) -> bool:
    if _SAFETY.search(name.lower()):
        return _is_flagged(name, look)
    if isinstance(line, Judged):
        return line.is_satisfied
    if name.lower() in ("blank", "is_blank", "empty"):
        return not look.seen
    return look.is_correct


def _number(
    schema: Schema, name: str, look: Look, line: Judged | world.Seen | None, *, whole: bool
) -> float | int:
    value = _raw_number(schema, name.lower(), look, line)
    low, high = schema.get("minimum"), schema.get("maximum")
    value = value if low is None else max(value, float(low))
    value = value if high is None else min(value, float(high))
    return round(value) if whole else value


def _raw_number(schema: Schema, name: str, look: Look, line: Judged | world.Seen | None) -> float:
    if isinstance(line, Judged):
        return float(line.is_satisfied)
    if isinstance(line, world.Seen):
        return {"x": line.x, "y": line.y, "size": line.extent}.get(name, 1.0)
    for pattern, key in _SCORES:
        if pattern.search(name):
            return float(scores(look)[key][0])
    if name == "score" and look.references or _COMPARED.match(name):
        return float(compare(look, name)[0])
    if "count" in name or "number" in name:
        return float(len(look.seen))
    if _VERDICT.search(name):
        return float(look.is_correct)
    return look.share * float(schema.get("maximum", 10))


def _string(name: str, look: Look, line: Judged | world.Seen | None) -> str:
    lowered = name.lower()
    if _SAFETY.search(lowered):
        return "Acme" if _is_flagged(name, look) else ""
    if isinstance(line, Judged):
        return line.reason if _REASON.search(lowered) else line.text
    if isinstance(line, world.Seen):
        return _of_object(lowered, line)
    if _TEXT.search(lowered):
        if look.question.pictures:
            return sentence(look.seen, look.instruction or look.question.text)
        return rephrase(look.instruction or look.question.text)
    if lowered in ("shape", "colour", "color") and not look.question.pictures:
        return _regular(lowered, look.question.text)
    if lowered == "reasoning" and look.references:
        return compare(look)[1]
    return look.reason


def _of_object(name: str, one: world.Seen, options: Sequence[Any] = ()) -> str:
    if "colo" in name:
        return one.colour
    if name in ("region", "place", "position", "side"):
        return _side(one, options)
    if "size" in name:
        return common_size([one]) or "medium"
    return one.shape


def _side(one: world.Seen, options: Sequence[Any]) -> str:
    """The half in which an object lies, along the axis that was asked for, else the clearer one."""
    is_upright = abs(one.y - 0.5) > abs(one.x - 0.5) and "left" in options
    if "above" in options and ("left" not in options or is_upright):
        return "above" if one.y < 0.5 else "below"
    return "left" if one.x < 0.5 else "right"


def _is_flagged(name: str, look: Look) -> bool:
    return look.question.flag is not None and look.question.flag in name.lower()


def _regular(name: str, text: str) -> str:
    """The look that an everyday thing named in `text` has when nobody says otherwise."""
    for noun, (shape, colour) in world.OBJECTS.items():
        if re.search(rf"\b{re.escape(noun)}s?\b", text, re.IGNORECASE):
            return shape if name == "shape" else colour
    return "unknown"


def _kind(options: list[Any], look: Look) -> Any:
    """One thing is an object, several make a scene; of people this eye knows nothing."""
    found = {0: None, 1: "object"}.get(len(look.seen), "scene")
    return found if found in options else options[-1]


def _choose(options: list[Any], name: str, look: Look, line: Judged | world.Seen | None) -> Any:
    """The option that says what was seen; the most careful one when none does."""
    if name.lower() == "kind" and look.question.pictures:
        return _kind(options, look)
    if _SAFETY.search(name.lower()):
        return options[-1] if _is_flagged(name, look) else options[0]
    if isinstance(line, world.Seen):
        said = _of_object(name.lower(), line, options)
        return next((one for one in options if one == said), options[-1])
    good = line.is_satisfied if isinstance(line, Judged) else look.is_correct
    wanted = ("yes", "true", "correct", "aligned", "pass", "satisfied", "keep", "match", "1")
    other = ("no", "false", "incorrect", "wrong", "misaligned", "fail", "drop", "rewrite", "0")
    for option in options:
        if str(option).lower() in (wanted if good else other):
            return option
    return options[0] if good else options[-1]
