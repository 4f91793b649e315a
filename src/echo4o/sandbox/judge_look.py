"""What the judge sees in a picture, held against what a question expects of it."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from PIL import Image

from . import world
from .judge_reading import Expectation, constraints_of, read_expectations, read_instruction
from .world.vocabulary import LARGE_ABOVE, SMALL_BELOW

Form = Literal["text", "json"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What the judge is asked."""

    text: str
    """Everything the user messages say."""
    pictures: tuple[Image.Image, ...] = ()
    """In the order they were sent; the last one is judged, earlier ones are references."""
    form: Form = "text"
    schema: dict[str, Any] | None = None
    """JSON schema of the reply."""
    flag: str | None = None
    """What the judge is to find wrong with the content: unsafe, minor or trademark."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One expectation with what was found."""

    text: str
    is_satisfied: bool
    reason: str
    was_asked: bool = True
    """False for what a complete match needs although no line says it."""


class Look:
    """Everything a picture shows that the question makes relevant; computed when it is needed."""

    def __init__(self, question: Question) -> None:
        self.question = question

    @cached_property
    def seen(self) -> list[world.Seen]:
        """Objects in the judged picture."""
        return world.see(self.question.pictures[-1]) if self.question.pictures else []

    @cached_property
    def references(self) -> list[list[world.Seen]]:
        """Objects in the pictures before it."""
        return [world.see(picture) for picture in self.question.pictures[:-1]]

    @cached_property
    def instruction(self) -> str:
        """The instruction under question, "" when none is given."""
        return read_instruction(self.question.text) or ""

    @cached_property
    def groups(self) -> list[world.Group]:
        """What the instruction names."""
        return world.parse(self.instruction)

    @cached_property
    def judged(self) -> list[Judged]:
        """The expectation lines of the question, or those its instruction implies."""
        expectations = read_expectations(self.question.text)
        if not expectations:
            lines = constraints_of(self.groups)
            expectations = [Expectation(_words(line), include=line) for line in lines]
        return judge_expectations(self.seen, expectations)

    @property
    def is_correct(self) -> bool:
        """All satisfied, and nothing there that nobody asked for."""
        return bool(self.judged) and all(one.is_satisfied for one in self.judged)

    @property
    def reason(self) -> str:
        """Why, in one or two sentences."""
        wrong = [one for one in self.judged if not one.is_satisfied]
        shown = f"The picture shows {world.describe(self.seen)}."
        if not self.judged:
            return f"There is nothing I can hold the picture against. {shown}"
        if not wrong:
            return f"All expectations are met. {shown}"
        listed = "; ".join(f"{one.text.rstrip('.')}: {one.reason}" for one in wrong)
        return f"Not met: {listed}. {shown}"

    @property
    def share(self) -> float:
        """Share of satisfied expectations, 0 when there are none."""
        return sum(one.is_satisfied for one in self.judged) / max(1, len(self.judged))


def judge_expectations(seen: list[world.Seen], expectations: list[Expectation]) -> list[Judged]:
    """Hold a checklist against what was seen; surplus objects are held against the picture."""
    include = [one.include for one in expectations if one.include is not None]
    exclude = [one.exclude for one in expectations if one.exclude is not None]
    findings = world.check(seen, include, exclude)
    included, excluded = iter(findings[: len(include)]), iter(findings[len(include) :])
    surplus = findings[-1]
    judged = []
    for one in expectations:
        if not one.is_understood:
            judged.append(Judged(one.text, False, "this cannot be told from the picture"))
            continue
        if one.is_surplus:
            judged.append(Judged(one.text, surplus.ok, surplus.reason))
            continue
        if one.somewhere is not None:
            wanted = {**one.somewhere, "count": 1}
            found = any(world.check([thing], [wanted])[0].ok for thing in seen)
            reason = "found" if found else f"found only {world.describe(seen)}"
            judged.append(Judged(one.text, found, reason))
            continue
        finding = next(included) if one.include is not None else next(excluded)
        judged.append(Judged(one.text, finding.ok, finding.reason))
    is_asked = any(one.is_surplus for one in expectations)
    if include and not is_asked and not surplus.ok:
        judged.append(Judged("Nothing else appears.", False, surplus.reason, False))
    return judged


def scores(look: Look) -> dict[str, tuple[int, str]]:
    """Fantasy fulfilment, identity and quality of a surreal picture, 0 to 10 with reasons."""
    fulfilled = round(10 * look.share) if look.groups else 0
    known = [one for one in look.seen if "unknown" not in (one.shape, one.colour)]
    quality = round(10 * len(known) / len(look.seen)) if look.seen else 0
    shown = world.describe(look.seen)
    return {
        "fantasy": (fulfilled, look.reason),
        "identity": (round(10 * _identity(look)), f"Recognised: {shown}."),
        "quality": (quality, f"{len(known)} of {len(look.seen)} objects are clean shapes."),
    }


def compare(look: Look, name: str = "score") -> tuple[int, str]:
    """Score and reasoning for a picture made from references (OmniContext's two questions).

    A field that names one of the two is answered as such, whatever else the text asks.
    """
    if name == "prompt_following":
        return _prompt_following(look)
    asked = re.search(r"evaluate whether the identit|subject consistency", look.question.text, re.I)
    if name == "subject_consistency" or asked:
        return _subject_consistency(look)
    return _prompt_following(look)


def sentence(seen: list[world.Seen], like: str = "") -> str:
    """An instruction that fits what was seen.

    Facts are the picture's. `like` only says which kinds of facts are wanted: places and sizes are
    mentioned when it mentions any.
    """
    asked = world.parse(like)
    axis = next((group.region for group in asked if group.region), None)
    with_size = any(group.size for group in asked)
    clusters: dict[tuple[str, str, str], list[world.Seen]] = {}
    for one in seen:
        side = place(one, axis) if axis else ""
        clusters.setdefault((one.colour, one.shape, side), []).append(one)
    parts = []
    for (_, _, side), members in clusters.items():
        part = world.describe(members)
        size = common_size(members) if with_size else ""
        if size:
            head, _, rest = part.partition(" ")
            part = f"{'a' if head == 'an' else head} {size} {rest}"
        parts.append(f"{part} on the {side}" if side else part)
    return "A photo of " + (" and ".join(parts) or "nothing")


def rephrase(instruction: str) -> str:
    """The same instruction in other words; nothing it says is lost."""
    body = re.sub(r"^\s*(an?|the) (photo|picture|image) of ", "", instruction.strip(), flags=re.I)
    openings = ("A picture of", "An image of", "A photo showing", "A plain picture with")
    return f"{openings[sum(map(ord, instruction)) % len(openings)]} {body}"


SIDES = {"left": "left", "right": "right", "above": "top", "below": "bottom"}


def place(one: world.Seen, axis: str) -> str:
    """Side of the picture on which `one` lies, along the axis of a region."""
    if axis in ("left", "right"):
        return "left" if one.x < 0.5 else "right"
    return "top" if one.y < 0.5 else "bottom"


def common_size(members: list[world.Seen]) -> str:
    """Size that all `members` have, "" when they differ or are ordinary."""
    if all(one.extent < SMALL_BELOW for one in members):
        return "small"
    return "large" if all(one.extent > LARGE_ABOVE for one in members) else ""


def _words(line: dict[str, Any]) -> str:
    keys = ("count", "size", "color", "class", "region")
    return " ".join(str(line[key]) for key in keys if key in line)


def _identity(look: Look) -> float:
    """Share of named objects that kept what the instruction did not deflect."""
    # Without its adjectives the noun has its regular look.
    words = [*world.COLOURS, *(f"{shape}-shaped" for shape in world.SHAPES)]
    pattern = rf"\b(?:{'|'.join(words)})(?:-colou?red)?\b"
    regular = world.parse(re.sub(pattern, " ", look.instruction, flags=re.I))
    if not look.groups or len(regular) != len(look.groups):
        return 0.0
    kept = 0
    for asked, usual in zip(look.groups, regular, strict=True):
        same_shape, same_colour = asked.shape == usual.shape, asked.colour == usual.colour
        kept += any(
            (not same_shape or one.shape == usual.shape)
            and (not same_colour or usual.colour in (None, one.colour))
            for one in look.seen
        )
    return kept / len(look.groups)


def _prompt_following(look: Look) -> tuple[int, str]:
    """Places and numbers as the instruction wants them, whoever the objects are."""
    wanted = look.groups
    if not wanted:
        return 0, "The instruction names nothing that can be found in the picture."
    met = 0
    for group in wanted:
        region = group.region
        here = [one for one in look.seen if not region or place(one, region) == SIDES[region]]
        alike = sum(other.count for other in wanted if other.region == region)
        met += len(here) == alike
    score = round(10 * met / len(wanted))
    return score, f"{met} of {len(wanted)} parts are as asked: {world.describe(look.seen)}."


def _subject_consistency(look: Look) -> tuple[int, str]:
    """Share of the references whose main object is found in the result."""
    mains = [max(seen, key=lambda one: one.extent) for seen in look.references if seen]
    left = list(look.seen)
    found = 0
    for main in mains:
        twin = next((o for o in left if (o.shape, o.colour) == (main.shape, main.colour)), None)
        if twin is not None:
            left.remove(twin)
            found += 1
    total = max(1, len(look.references))
    shown = world.describe(look.seen)
    return round(10 * found / total), f"{found} of {len(look.references)} subjects in: {shown}."
