"""A language model words rows: structured replies, paid once, refused when they lose something."""

import json
from collections import Counter

import pytest
from tests_sandbox import image_api

from echo4o.cli import main
from echo4o.client import Reply
from echo4o.dataset_builder.author import Author, request
from echo4o.dataset_builder.drafts import draft
from echo4o.dataset_builder.plan import Entry, read_plan
from echo4o.dataset_builder.questions import ApiSettings, Questions
from echo4o.ledger import Ledger

LLM = ["--llm", "sandbox-text"]


@pytest.fixture
def serve(tmp_path, monkeypatch):
    def start(faults=""):
        api = image_api(tmp_path / f"api{len(faults)}", faults)
        opened = api.__enter__()
        running.append(api)
        monkeypatch.setenv("OPENAI_BASE_URL", opened.openai)
        monkeypatch.setenv("OPENAI_API_KEY", opened.api_key)
        return opened

    running = []
    yield start
    for api in running:
        api.__exit__(None, None, None)


def plan(folder, *options, recipe="echo4o_image", rows=60):
    words = ["data", "plan", recipe, "--rows", str(rows), "--seed", "3", "--out", str(folder)]
    main([*words, *options])
    return read_plan(folder)[0]


def calls(api):
    lines = (api.root / "openai" / "calls.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_surreal_and_multi_reference_rows_are_worded_and_stay_what_they_are(tmp_path, serve):
    api = serve()
    plain = {row.id: row for row in plan(tmp_path / "plain").rows}
    worded = {row.id: row for row in plan(tmp_path / "worded", *LLM).rows}
    assert set(worded) == set(plain)
    changed = Counter()
    for name, row in worded.items():
        before = plain[name]
        if row.instruction == before.instruction:
            assert row == before
            continue
        changed[row.subset] += 1
        assert row.constraints["worded_by"].startswith("sandbox-text")
        assert row.prompt == (before.prompt if row.references else row.instruction)
        for fact in ("include", "deflected", "object"):
            assert row.constraints.get(fact) == before.constraints.get(fact)
    asked = [row for row in plain.values() if row.subset != "instruction_following"]
    assert set(changed) == {"surreal_fantasy", "multi_reference"}
    assert changed.total() == len(asked) == len(calls(api))


def test_again_pays_nothing_and_plans_the_same_bytes(tmp_path, serve):
    api = serve()
    plan(tmp_path / "p", *LLM)
    first, paid = (tmp_path / "p" / "plan.jsonl").read_bytes(), len(calls(api))
    plan(tmp_path / "p", *LLM)
    assert (tmp_path / "p" / "plan.jsonl").read_bytes() == first
    assert len(calls(api)) == paid > 0


def test_the_budget_of_the_words_holds_and_nothing_is_lost(tmp_path, serve, capsys):
    api = serve()
    with pytest.raises(SystemExit):
        plan(tmp_path / "p", *LLM, "--llm-budget", "0.002")
    assert "budget of 0.00 USD" in capsys.readouterr().err
    assert not (tmp_path / "p" / "plan.jsonl").exists()
    spent = sum(one["cost_usd"] for one in calls(api))
    assert 0 < spent <= 0.002
    bought = len(calls(api))
    plan(tmp_path / "p", *LLM)
    keys = Counter(one["client_key"] for one in calls(api))
    assert len(calls(api)) > bought
    assert max(keys.values()) == 1


def test_the_price_of_the_words_is_told_before(tmp_path, serve, capsys):
    api = serve()
    words = ["data", "plan", "echo4o_image", "--rows", "60", "--out", str(tmp_path / "p"), *LLM]
    main([*words, "--dry-run"])
    said = capsys.readouterr().out
    expected = json.loads(said.partition("models: ")[2].splitlines()[0])["llm"]
    assert not (tmp_path / "p").exists()
    main(words)
    assert expected["calls"] == len(calls(api))
    assert expected["usd"] == pytest.approx(sum(one["cost_usd"] for one in calls(api)), rel=0.1)


def test_refusals_and_garbage_leave_the_draft(tmp_path, serve):
    serve("refuse=0.3,garbage=0.3")
    plain = {row.id: row for row in plan(tmp_path / "plain", rows=90).rows}
    worded = plan(tmp_path / "worded", *LLM, rows=90)
    record = json.loads((tmp_path / "worded" / "plan.record.json").read_text())
    outcomes = record["metrics"]["words"]["llm"]
    assert outcomes["used"] > 5
    assert outcomes["draft kept: refused"] > 5
    assert outcomes["draft kept: no such reply"] > 5
    kept = [row for row in worded.rows if row == plain[row.id]]
    total = sum(count for name, count in outcomes.items() if name.startswith("draft kept"))
    asked = [row for row in kept if row.subset != "instruction_following"]
    assert len(asked) == total


def answer(text):
    return Reply(outcome="done", text=text, model="some-model")


@pytest.fixture(scope="module")
def row() -> Entry:
    rows = draft("ablation_surreal", rows=40, seed=0).rows
    return next(one for one in rows if one.constraints["tag"] == "color")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("nothing", "no such reply"),
        ("[]", "no such reply"),
        ("[" * 100_000, "no such reply"),
        ('{"instruction": ""}', "no such reply"),
        ('{"instruction": "A photo of a castle"}', "it lost what was asked for"),
        (json.dumps({"instruction": "x" * 401}), "no such reply"),
        (json.dumps({"instruction": "a\u0007b"}), "no such reply"),
        (json.dumps({"instruction": "a\nb"}), "no such reply"),
    ],
)
def test_replies_that_lose_something_are_not_used(tmp_path, monkeypatch, row, said, why):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with Questions(tmp_path, ApiSettings()) as questions:
        author = Author("sandbox-text", questions)
        assert author._word(row, answer(said)) == row
        assert author.outcomes == {f"draft kept: {why}": 1}


def test_a_reply_about_another_object_is_not_used(tmp_path, monkeypatch, row):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    noun = str(row.constraints["object"])
    other = row.instruction.replace(noun, "submarine")
    assert other != row.instruction
    with Questions(tmp_path, ApiSettings()) as questions:
        author = Author("sandbox-text", questions)
        assert author._word(row, answer(json.dumps({"instruction": other}))) == row
        assert author.outcomes == {"draft kept: it lost what was asked for": 1}


def test_a_good_reply_brings_the_usual_look(tmp_path, monkeypatch, row):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    text = f"Picture this: {row.instruction.removeprefix('A photo of ')}"
    reply = json.dumps({"color": "teal", "shape": "unknown", "instruction": text})
    with Questions(tmp_path, ApiSettings()) as questions:
        author = Author("sandbox-text", questions)
        worded = author._word(row, answer(reply))
    assert worded.instruction == worded.prompt == text
    assert worded.constraints["regular"]["color"] == "teal"
    assert worded.constraints["regular"]["shape"] == row.constraints["regular"]["shape"]


def test_the_question_names_object_and_draft(row):
    asked = request(row, "sandbox-text")
    assert f"Instruction: {row.instruction}" in asked.user[0]
    assert str(row.constraints["object"]) in asked.user[0]
    assert asked.json_schema["required"] == ["color", "shape", "instruction"]


def test_the_ledger_is_closed_when_there_is_no_key(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(Exception, match="no API key"):
        Questions(tmp_path, ApiSettings())
    with Ledger(tmp_path / "plan.ledger.sqlite") as ledger:
        assert ledger.counts()["done"] == 0
