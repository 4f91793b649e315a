"""Planning: reproducible, balanced, plausible, and free of benchmark items."""

import json
from collections import Counter
from pathlib import Path

import pytest

from echo4o.cli import main
from echo4o.dataset_builder.coverage import Coverage
from echo4o.dataset_builder.decontaminate import Blocklist, normalised
from echo4o.dataset_builder.plan import PlanError, parse_mix, quotas, read_plan
from echo4o.dataset_builder.shapes import plan_shapes
from echo4o.dataset_builder.splits import Candidate, choose_validation
from echo4o.errors import Echo4oError
from echo4o.sandbox import world
from echo4o.schema import constraint_key

KIT = Path(__file__).parents[2] / "eval" / "items" / "geneval_plus_plus_kit.jsonl"
TAGS = {
    *("color_attr", "counting", "color_count_attr", "color_spatial_attr"),
    *("spatial_count_attr", "size_spatial_attr", "multi_object_count_attr"),
}


@pytest.fixture(scope="module")
def plan():
    return plan_shapes(rows=2000, seed=3, block=Blocklist([KIT]))


def test_same_seed_same_bytes_and_another_seed_another_plan(plan):
    again = plan_shapes(rows=2000, seed=3, block=Blocklist([KIT]))
    assert again.to_text() == plan.to_text()
    assert plan_shapes(rows=2000, seed=4, block=Blocklist([KIT])).to_text() != plan.to_text()


def test_no_row_and_no_reference_asks_for_a_benchmark_item(plan):
    keys = {constraint_key(json.loads(line)) for line in KIT.read_text().splitlines()}
    assert len(keys) == 210
    planned = {constraint_key(entry.constraints) for entry in (*plan.rows, *plan.references)}
    assert not planned & keys
    unguarded = plan_shapes(rows=2000, seed=3)
    assert {constraint_key(row.constraints) for row in unguarded.rows} & keys


def test_shares_tags_and_balance(plan):
    rows = Counter(row.subset for row in plan.rows)
    assert rows == {"instruction_following": 1700, "surreal_fantasy": 200, "multi_reference": 100}
    counted = Coverage()
    for row in plan.rows:
        counted.add(row)
    coverage = counted.to_dict(len(plan.references))
    assert set(coverage["tags"]) >= TAGS
    assert {name.split("/")[1] for name in coverage["categories"]} >= {"easy", "medium", "hard"}
    facts = coverage["facts"]
    assert set(facts["count"]) == set("1234567")
    assert set(facts["region"]) == {"left", "right", "above", "below"}
    assert set(facts["size"]) == {"small", "large"}
    for name in ("class", "color"):
        assert len(facts[name]) == 8
        assert max(facts[name].values()) < 1.3 * min(facts[name].values())


def test_the_world_understands_every_prompt(plan):
    """Painted as asked, a planned picture meets the planned constraints."""
    by_id = {
        entry.id: world.paint(entry.prompt, width=64, height=64, seed=0)
        for entry in plan.references
    }
    for row in plan.rows[::10]:
        references = [by_id[name] for name in row.references]
        picture = world.paint(row.prompt, width=64, height=64, seed=1, references=references)
        asked = row.constraints
        findings = world.check(world.see(picture), asked["include"], asked.get("exclude", []))
        assert all(finding.ok for finding in findings), (row, findings)
        groups = [(one.shape, one.count) for one in world.parse(row.instruction)]
        assert groups == [(one["class"], one["count"]) for one in asked["include"]]


def test_requests_are_told_apart_by_repeat(plan):
    keys = [(one.prompt, one.references, one.repeat) for one in (*plan.references, *plan.rows)]
    assert len(set(keys)) == len(keys)
    assert len({row.id for row in plan.rows}) == 2000


def test_surreal_rows_name_what_is_deflected(plan):
    for row in plan.rows:
        if row.subset == "surreal_fantasy":
            asked = row.constraints
            assert all(word in row.instruction for word in asked["object"].split(" and "))
            if row.category == "attribute_shift":
                (name, value), *rest = asked["deflected"].items()
                assert not rest
                assert asked["regular"][name] != value
                assert value in row.instruction


def test_references_are_asked_for_by_number_and_trained_by_name(plan):
    known = {entry.id for entry in plan.references}
    rows = [row for row in plan.rows if row.subset == "multi_reference"]
    assert all(2 <= len(row.references) <= 4 and set(row.references) <= known for row in rows)
    assert all("image 1" in row.prompt and "image" not in row.instruction for row in rows)


def test_reference_sets_can_be_held_out(plan):
    """The plan keeps sets of references apart, so validation finds whole groups."""
    rows = [row for row in plan.rows if row.subset == "multi_reference"]
    held = choose_validation([Candidate(row.id, row.references) for row in rows], 48)
    assert len(held) >= 24


def test_command_writes_plan_dropped_and_record(tmp_path, capsys):
    words = ["data", "plan", "shapes", "--out", str(tmp_path), "--rows", "300", "--seed", "5"]
    main([*words, "--against", str(KIT)])
    first = (tmp_path / "plan.jsonl").read_bytes()
    main([*words, "--against", str(KIT)])
    assert (tmp_path / "plan.jsonl").read_bytes() == first
    plan, _ = read_plan(tmp_path)
    assert len(plan.rows) == 300
    assert plan.to_text().encode() == first
    record = json.loads((tmp_path / "plan.record.json").read_text())
    assert record["inputs"][0]["id"] == KIT.name
    dropped = [json.loads(line) for line in (tmp_path / "plan.dropped.jsonl").open()]
    assert record["metrics"]["dropped"] == len(dropped) > 0
    assert all(one["against"] == KIT.name and one["line"] > 0 for one in dropped)
    assert "planned 300 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "0"], "at least 1"),
        (["--mix", "dogs=1"], "'dogs' is no subset"),
        (["--mix", "surreal_fantasy=x"], "must be a number"),
        (["--mix", "surreal_fantasy=0"], "not all 0"),
        (["--against", "nowhere.jsonl"], "no such file"),
        (["--against", __file__], "line 1 is no benchmark item"),
        (["--references", "nowhere"], "is no folder and no Hub id"),
        (["--out", __file__], "is a file; give a folder for the plan"),
        (["--size", "64x64"], "--size does nothing without --model"),
        (["--tokens-per-minute=5"], "--tokens-per-minute does nothing without --model"),
        (["--vlm", "sandbox-judge"], "--vlm does nothing without --references"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, words, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["data", "plan", "shapes", "--out", str(tmp_path / "p"), *words])
    assert caught.value.code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_everything_blocked_is_an_error(tmp_path):
    lines = [
        {"include": [{"class": shape, "count": count}]}
        for shape in world.SHAPES
        for count in range(1, 8)
    ]
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(Echo4oError, match="leave out a file"):
        plan_shapes(rows=100, seed=0, block=Blocklist([path]))


def test_items_without_constraints_block_by_text(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps({"id": 1, "instruction": "A photo of a BLUE sun!"}))
    block = Blocklist([path])
    assert not block.allows("a photo of a blue  sun", {"include": [{"class": "circle"}]})
    assert block.allows("a photo of a red sun", {"include": [{"class": "circle"}]})
    assert normalised("A, b--C") == "a b c"


@pytest.mark.parametrize("damage", [b"", b"{}\n", b'{"kind":"plan","format":99}\n', b"\xff\n"])
def test_damaged_plans_are_refused(tmp_path, damage):
    (tmp_path / "plan.jsonl").write_bytes(damage)
    with pytest.raises(PlanError):
        read_plan(tmp_path)


def test_plan_of_a_missing_reference_is_refused(tmp_path):
    text = plan_shapes(rows=40, seed=0, mix={"multi_reference": 1}).to_text()
    lines = text.splitlines(keepends=True)
    (tmp_path / "plan.jsonl").write_text("".join([lines[0], *lines[2:]]))
    with pytest.raises(PlanError, match="not planned"):
        read_plan(tmp_path)


def test_rows_stay_in_the_file_and_are_read_anew(tmp_path):
    made = plan_shapes(rows=40, seed=0, mix={"multi_reference": 1, "surreal_fantasy": 1})
    path = tmp_path / "plan.jsonl"
    path.write_text(made.to_text())
    plan, _ = read_plan(tmp_path)
    assert tuple(plan.rows) == tuple(plan.rows) == tuple(made.rows)
    assert plan.references == made.references
    path.write_text(made.to_text() + "\n")
    with pytest.raises(PlanError, match="was changed while"):
        list(plan.rows)
    with pytest.raises(PlanError, match="line .* is not JSON"):
        read_plan(tmp_path)


def test_entries_twice_or_of_another_kind_are_refused(tmp_path):
    lines = plan_shapes(rows=3, seed=0, mix={"surreal_fantasy": 1}).to_text().splitlines(True)
    (tmp_path / "plan.jsonl").write_text("".join([*lines, lines[-1]]))
    with pytest.raises(PlanError, match="two entries with id"):
        read_plan(tmp_path)
    (tmp_path / "plan.jsonl").write_text("".join(lines).replace('"kind":"row"', '"kind":"x"'))
    with pytest.raises(PlanError, match="its kind is 'x'"):
        read_plan(tmp_path)


def test_quotas_and_mix():
    assert quotas(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}
    assert quotas(0, {"a": 1}) == {"a": 0}
    assert parse_mix("surreal_fantasy=0.5, multi_reference=1") == {
        "surreal_fantasy": 0.5,
        "multi_reference": 1.0,
    }
