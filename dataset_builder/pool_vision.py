"""Lets a vision model say what a pool picture shows, where neither folder nor metadata does."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from echo4o.client import ChatRequest, PriceTable, Reply
from echo4o.pictures import PictureError, picture_facts
from echo4o.records import JsonValue

from .pool_candidates import Candidate, kind_of
from .questions import Questions, read_object

_CHUNK = 32
_MAX_TOKENS = 200
_EXPECTED_TOKENS = 22
_KINDS = ("human", "object", "scene", "unclear")
_QUESTION = (
    "What does this picture show above all: a human, an object, or a scene? Describe it in a few "
    "words, as a noun phrase without article, and say whether any person can be recognised in it."
)


def described(
    candidates: Iterable[Candidate], model: str, questions: Questions
) -> Iterator[Candidate]:
    """The candidates in their order, with kind and description where they had no kind.

    Raises:
        Echo4oError: the budget, the key, the model or the address needs the user.
    """
    source = iter(candidates)
    while chunk := list(islice(source, _CHUNK)):
        asked = {
            candidate.name: made
            for candidate in chunk
            if kind_of(candidate) is None and (made := request(candidate, model)) is not None
        }
        replies = dict(zip(asked, questions.ask(list(asked.values())), strict=True))
        for candidate in chunk:
            reply = replies.get(candidate.name)
            yield candidate if reply is None else _told(candidate, reply)


def estimate_described(
    candidates: Iterable[Candidate], model: str, prices: PriceTable
) -> tuple[int, float]:
    """How many pictures a model would be asked about, and for about how much."""
    made = (request(one, model) for one in candidates if kind_of(one) is None)
    costs = [one.estimate(prices, output_tokens=_EXPECTED_TOKENS).cost_usd for one in made if one]
    return len(costs), sum(costs)


def request(candidate: Candidate, model: str) -> ChatRequest | None:
    """The question about a picture, None when it is no whole picture."""
    try:
        data = candidate.read()
        picture_facts(data)
    except (OSError, PictureError):
        return None
    properties: dict[str, object] = {
        "kind": {"type": "string", "enum": list(_KINDS)},
        "description": {"type": "string"},
        "depicts_person": {"type": "boolean"},
    }
    return ChatRequest(
        model=model,
        user=(_QUESTION, data),
        max_tokens=_MAX_TOKENS,
        json_schema={
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        },
    )


def _told(candidate: Candidate, reply: Reply) -> Candidate:
    """The candidate with what the model said; what the pool itself says wins."""
    said = read_object(reply.text)
    if said.get("kind") not in _KINDS[:3]:
        return candidate
    told: dict[str, JsonValue] = {
        "kind": said["kind"],
        "label": said.get("description"),
        "depicts_person": said["kind"] == "human" or said.get("depicts_person") is not False,
        "described_by": reply.model,
    }
    known = {name: value for name, value in candidate.facts.items() if value is not None}
    return replace(candidate, facts={**told, **known})
