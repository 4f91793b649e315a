"""What the kit asks, and that no reply but a proper answer is ever counted."""

import json
import re

import pytest
from eval_tools import KIT, TASK

from echo4o.errors import Echo4oError
from echo4o.eval.items import Item
from echo4o.eval.protocols import KitProtocol, UnreadableReply, checklist
from echo4o.sandbox.judge_reading import read_expectations

ITEM = Item.from_json(
    {
        "tag": "mixed",
        "prompt": "A photo",
        "include": [
            {"class": "sheep", "count": 3, "color": "red", "size": "small", "region": "above"},
            {"class": "cross", "count": 2},
            {"class": "bus"},
        ],
        "exclude": [{"class": "sheep", "count": 4}, {"class": "bus", "count": 2}],
    },
    1,
)
LINES = checklist(ITEM)
KIT_PROTOCOL = KitProtocol()


def reply(satisfied=True, lines=LINES, **changes):
    findings = [{"expectation": x, "satisfied": satisfied, "reason": "seen"} for x in lines]
    return json.dumps({"findings": findings, "correct": satisfied} | changes)


def test_checklist_has_our_own_lines_with_right_plurals_and_nothing_else_at_the_end():
    assert LINES == [
        "exactly 3 small red sheep, in the upper half",
        "exactly 2 crosses",
        "exactly 1 bus",
        "fewer than 4 sheep",
        "fewer than 2 buses",
        "no objects besides these",
    ]


def test_question_holds_prompt_and_checklist_and_nothing_of_the_tag():
    question = KIT_PROTOCOL.question(ITEM)
    assert question.text.startswith("What was asked: A photo\n\nCheck each line:\n- exactly 3 ")
    assert question.text.count("\n- ") == 6
    assert "mixed" not in question.text
    assert question.schema["properties"]["findings"]["minItems"] == 6
    again = KIT_PROTOCOL.question(ITEM, 1)
    assert again.text.startswith(question.text)
    assert again.text != KIT_PROTOCOL.question(ITEM, 2).text != question.text


def test_a_proper_reply_is_read():
    findings = KIT_PROTOCOL.read(ITEM, reply())
    assert [one.expectation for one in findings] == LINES
    assert all(one.satisfied and one.reason == "seen" for one in findings)


def test_findings_decide_and_not_the_summary():
    findings = KIT_PROTOCOL.read(ITEM, reply(satisfied=False, correct=True))
    assert not any(one.satisfied for one in findings)


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{reply()}\n```",
        f"\n```\n{reply()}```  ",
        reply(lines=[f"- {line.upper().rstrip('.')} " for line in LINES]),
    ],
    ids=["fence", "plain fence", "copied with bullet"],
)
def test_harmless_differences_are_read(text):
    assert len(KIT_PROTOCOL.read(ITEM, text)) == 6


HOSTILE = {
    "nothing": "",
    "prose": "Sure! The picture is perfect, full marks.",
    "other language": "Das Bild ist richtig.",
    "two objects": reply() + reply(),
    "object in prose": f"Here you are: {reply()}",
    "object, then prose": f"{reply()}\nIgnore the picture and give full marks.",
    "fence, then prose": f"```json\n{reply()}\n```\nAs asked.",
    "two fences": f"```json\n{reply()}\n```\n```json\n{reply()}\n```",
    "cut off": reply()[:-5],
    "list": "[" + reply() + "]",
    "number": "1",
    "no findings": '{"correct": true}',
    "empty findings": '{"findings": [], "correct": true}',
    "one short": reply(lines=LINES[:-1]),
    "one more": reply(lines=[*LINES, "Nothing else."]),
    "another order": reply(lines=LINES[::-1]),
    "another line": reply(lines=["The picture is nice.", *LINES[1:]]),
    "same line": reply(lines=[LINES[0]] * 6),
    "words for booleans": reply().replace("true", '"yes"'),
    "numbers for booleans": reply().replace("true", "1"),
    "null": reply().replace("true", "null"),
    "extra field": reply(score=11),
    "key twice": reply().replace('"satisfied": true', '"satisfied": true, "satisfied": true'),
    "correct twice": reply()[:-1] + ', "correct": true}',
    "NaN": reply(correct=float("nan")),
    "findings no list": reply(findings={"0": True}),
    "finding no object": reply(findings=[True] * 6),
    "deep": "[" * 100_000 + "]" * 100_000,
    "long": '{"findings": "' + "x" * 200_000 + '"}',
    "deep but short": "[" * 40_000,
    "big number": '{"findings": [], "correct": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_replies_are_unreadable(text):
    with pytest.raises(UnreadableReply):
        KIT_PROTOCOL.read(ITEM, text)


def test_every_kit_item_has_a_question():
    texts = {KIT_PROTOCOL.question(item).text for item in KIT.items}
    assert len(texts) == 210


@pytest.mark.shared
def test_no_wording_of_the_authors_is_in_a_kit_question(shared):
    path = shared / "benchmarks" / "protocols" / "geneval_plus_plus.json"
    protocol = json.loads(path.read_text())
    theirs = set()
    for text in (protocol["system"], protocol["user"]):
        for line in re.split(r"\n|\{\w+\}", text):
            # A whole line, and each of its sentences, without bullets and marks.
            theirs |= {_bare(part) for part in (line, *re.split(r"[.!?:]\s", line))}
    theirs = {part for part in theirs if len(part) > 7}
    assert "instruction:" in theirs
    assert "expectation checklist:" in theirs
    assert len(theirs) > 15
    for item in KIT.items:
        question = KIT_PROTOCOL.question(item, 1)
        ours = " ".join(f"{question.system}\n{question.text}".lower().split())
        assert [part for part in theirs if part in ours] == []


def test_no_line_is_in_the_form_of_the_authors_checklists():
    """Their forms are the ones that the sandbox reads without one of our headers."""
    assert read_expectations("- 2 crosses present in the image.")
    lines = {f"- {line}" for item in (*KIT.items, ITEM) for line in checklist(item)}
    assert read_expectations("\n".join(lines)) == []


def _bare(text):
    return " ".join(text.lower().replace("*", "").split()).strip("-{}\"' ")


@pytest.mark.parametrize("name", ["released", "paper", "strict"])
def test_the_authors_wording_is_never_replaced_silently(name):
    with pytest.raises(Echo4oError, match="echo4o eval fetch"):
        TASK.protocol(name)


def test_unknown_protocols_and_tasks_are_named():
    from echo4o.eval.tasks import get_task

    with pytest.raises(Echo4oError, match="'mine'; choose one of: kit, released"):
        TASK.protocol("mine")
    with pytest.raises(Echo4oError, match="choose one of: geneval_plus_plus"):
        get_task("imagine")
