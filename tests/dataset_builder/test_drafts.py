"""The big recipes: the released numbers, the same bytes, natural English, rare combinations."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from echo4o.cli import main
from echo4o.dataset_builder import language
from echo4o.dataset_builder.composition import BANDS, kinds
from echo4o.dataset_builder.coverage import Coverage
from echo4o.dataset_builder.drafts import RECIPES, _slots, draft, released_rows
from echo4o.dataset_builder.objects import by_name, things, words
from echo4o.dataset_builder.plan import PlanError, iterate_plan, read_plan
from echo4o.dataset_builder.surreal import grammar
from echo4o.schema import CATEGORIES, constraint_key

ROWS = 3000
FAMILY = grammar()["color"]["shades"]


@pytest.fixture(scope="module")
def made():
    one = draft("echo4o_image", rows=ROWS, seed=5)
    return one, list(one.rows)


def of(made, subset):
    return [row for row in made[1] if row.subset == subset]


def test_released_numbers_are_planned_exactly():
    slots = Counter(_slots("echo4o_image", released_rows("echo4o_image"), 0))
    assert slots.total() == 178_228
    assert slots == {
        (subset, category): count
        for subset, categories in CATEGORIES.items()
        for category, count in categories.items()
    }
    assert {name: released_rows(name) for name in RECIPES} == {
        "echo4o_image": 178_228,
        "ablation_surreal": 37_541,
        "ablation_multi_reference": 72_729,
        "ablation_instruction_following": 67_958,
    }


def test_fewer_rows_keep_the_shares(made):
    counts = Counter((row.subset, row.category) for row in made[1])
    assert counts.total() == ROWS
    for subset, categories in CATEGORIES.items():
        for category, released in categories.items():
            assert abs(counts[subset, category] - ROWS * released / 178_228) < 1


def test_ablations_leave_the_other_subsets_out():
    for recipe, subsets in RECIPES.items():
        some = draft(recipe, rows=40, seed=1)
        assert {row.subset for row in some.rows} == set(subsets)
        assert bool(some.references) == ("multi_reference" in subsets)


def test_same_seed_same_bytes_in_another_process(tmp_path, monkeypatch):
    import subprocess
    import sys

    words = ["data", "plan", "echo4o_image", "--rows", "400", "--seed", "9", "--out"]
    main([*words, str(tmp_path / "a")])
    # Another seed for Python's own hashes: no set or dict order may reach the plan.
    environment = {"PYTHONHASHSEED": "77", "PATH": ""}
    command = [sys.executable, "-m", "echo4o.cli", *words, str(tmp_path / "b")]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    first, second = (tmp_path / name / "plan.jsonl" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    main([*words[:-3], "--seed", "8", "--out", str(tmp_path / "c")])
    assert (tmp_path / "c" / "plan.jsonl").read_bytes() != first.read_bytes()


def test_rows_are_new_and_numbered(made):
    plan, rows = made
    assert len({row.id for row in rows}) == ROWS
    assert all(row.repeat == 0 for row in rows)
    asked = Counter((row.prompt, row.references) for row in (*plan.references, *rows))
    assert max(asked.values()) == 1


@pytest.mark.slow
def test_the_whole_release_is_planned_once_and_for_all(tmp_path):
    """All 178,228 rows: exact categories, no request twice, free of the kit's items, in memory."""
    items = Path(__file__).parents[2] / "eval" / "items" / "geneval_plus_plus_kit.jsonl"
    words = ["data", "plan", "echo4o_image", "--out", str(tmp_path), "--against", str(items)]
    main(words)
    keys = {constraint_key(json.loads(line)) for line in items.read_text().splitlines()}
    categories, requests = Counter(), set()
    for entry in iterate_plan(tmp_path):
        requests.add(hash((entry.prompt, entry.references, entry.repeat)))
        if entry.kind == "row":
            categories[entry.category] += 1
            assert constraint_key(entry.constraints) not in keys
    assert categories == {
        category: count for part in CATEGORIES.values() for category, count in part.items()
    }
    record = json.loads((tmp_path / "plan.record.json").read_text())
    assert len(requests) == 178_228 + record["metrics"]["references"]
    covered = record["metrics"]["combinations"]
    assert covered["class x region"]["least"] > 10
    assert covered["class x color"]["covered"] >= covered["class x color"]["possible"] - 1


def test_objects_are_many_and_described():
    assert len(things()) >= 300
    for thing in things():
        assert thing.colors
        assert thing.length_cm > 0
        assert thing.plural
        assert thing.era in ("modern", "historic", "timeless")
        assert not thing.group.homes.isdisjoint(thing.group.homes)


def test_articles_and_plurals():
    said = {name: (thing.with_article, thing.plural) for name, thing in by_name().items()}
    assert said["hourglass"] == ("an hourglass", "hourglasses")
    assert said["ukulele"] == ("a ukulele", "ukuleles")
    assert said["scissors"] == ("a pair of scissors", "pairs of scissors")
    assert said["loaf of bread"] == ("a loaf of bread", "loaves of bread")
    assert said["computer mouse"] == ("a computer mouse", "computer mice")
    assert said["cherry"][1] == "cherries"
    assert said["toothbrush"][1] == "toothbrushes"
    assert said["dice"] == ("a die", "dice")
    assert language.article("emerald green owl", {}) == "an emerald green owl"
    assert language.join(["a", "b", "c"]) == "a, b, and c"


def test_sentences_read_like_english(made):
    nouns = sorted((thing.noun for thing in things()), key=len, reverse=True)
    for row in made[1]:
        for text in (row.instruction, row.prompt):
            assert text == text.strip()
            assert text[0].isupper()
            assert "  " not in text
            assert not re.search(r"[{}]|None", text)
            for found in re.finditer(r"\b(an?) ([a-z]\S*)", text, re.IGNORECASE):
                known = words().articles.get(found[2])
                wanted = known or ("an" if found[2][0].lower() in "aeiou" else "a")
                assert found[1].lower() == wanted, text
    plurals = {thing.noun: thing.plural for thing in things()}
    for row in of(made, "instruction_following"):
        for fact in row.constraints["include"]:
            noun = by_name()[fact["class"]].noun
            assert noun in nouns
            assert (plurals[noun] if fact["count"] > 1 else noun) in row.instruction


def test_surreal_rows_deflect_what_is_regular(made):
    tags = Counter()
    for row in of(made, "surreal_fantasy"):
        asked = row.constraints
        tags[row.category, asked["tag"]] += 1
        if asked["tag"] == "multi_object":
            assert len(asked["deflected"]) == 2
            continue
        thing, shift = by_name()[asked["object"]], asked["deflected"]
        assert asked["regular"]["material"] == thing.material
        if asked["tag"] == "color":
            assert FAMILY[shift["color"]] not in thing.colors
            assert asked["include"][0]["color"] == shift["color"]
        if asked["tag"] == "shape":
            assert thing.shape not in grammar()["shape"]["forms"][shift["shape"]]
        if asked["tag"] == "material":
            assert thing.material not in grammar()["material"]["stuffs"][shift["material"]]
        if asked["tag"] == "environment":
            homes = grammar()["environment"]["places"][shift["environment"]]
            assert thing.group.homes.isdisjoint(homes)
        if asked["tag"] == "time":
            assert thing.era != "timeless"
    by_category = {category: {tag for one, tag in tags if one == category} for category, _ in tags}
    assert by_category == {
        "attribute_shift": {"color", "shape", "size"},
        "hybridization": {"material", "combination"},
        "spatiotemporal": {"time", "environment"},
        "multi_object": {"multi_object"},
    }
    for category, inside in by_category.items():
        counts = [tags[category, tag] for tag in inside]
        assert max(counts) - min(counts) <= 1


def test_sizes_are_far_from_real(made):
    of_size = [row for row in of(made, "surreal_fantasy") if row.constraints["tag"] == "size"]
    articles = {thing.with_article: thing for thing in things()}
    for row in of_size:
        own = by_name()[row.constraints["object"]].length_cm
        other = articles[row.constraints["deflected"]["size"].removeprefix("of ")].length_cm
        assert max(own, other) / min(own, other) >= 8


def test_bands_count_attributes(made):
    tags = {(kind.band, kind.tag) for kind in kinds()}
    for row in of(made, "instruction_following"):
        asked = row.constraints
        assert (row.category, asked["tag"]) in tags
        low, high = BANDS[row.category]
        said = sum(len({"color", "size", "region"} & set(one)) for one in asked["include"])
        said += len(asked.get("relations", []))
        counted = any(one["count"] > 1 for one in asked["include"]) * len(asked["include"])
        assert said <= high
        assert low <= said + len(asked["include"])
        if row.category != "hard":
            assert said + counted <= high + len(asked["include"])
        assert row.prompt.startswith(row.instruction)
        assert "background" in row.prompt
        assert "background" not in row.instruction


def test_rare_combinations_are_covered(made):
    counted = Coverage()
    for row in made[1]:
        counted.add(row)
    pairs = counted.to_dict(0)["combinations"]
    # 2,400 groups with a colour over 4,410 pairs: chance would leave 58 % out and repeat some 5x.
    color = pairs["class x color"]
    assert color["covered"] > 0.97 * min(color["possible"], _colored(made))
    assert color["most"] <= 2
    region = pairs["class x region"]
    assert region["most"] <= 4
    assert pairs["color x count"]["covered"] > 0.9 * pairs["color x count"]["possible"]


def _colored(made):
    rows = of(made, "instruction_following")
    return sum("color" in one for row in rows for one in row.constraints["include"])


def test_references_are_asked_by_number_and_trained_by_name(made):
    plan, _ = made
    known = {one.id: one for one in plan.references}
    sizes = Counter()
    for row in of(made, "multi_reference"):
        sizes[len(row.references)] += 1
        assert len(set(row.references)) == len(row.references)
        numbers = re.findall(r"from image (\d)", row.prompt)
        assert sorted(map(int, numbers)) == list(range(1, len(row.references) + 1))
        assert "image" not in row.instruction
        kinds_used = "".join(known[name].category[0] for name in row.references)
        assert kinds_used == row.constraints["tag"]
        for name in row.references:
            facts = known[name].constraints
            assert facts["name"] in row.instruction or facts["label"] in row.instruction
    assert set(sizes) == {2, 3, 4}
    assert len({one.prompt for one in plan.references}) == len(plan.references)


def test_reference_sets_share_nothing(made):
    """Rows of one set can go to validation without a reference or a combination in train."""
    rows = of(made, "multi_reference")
    groups = {}
    for row in rows:
        groups.setdefault(row.references[0].rsplit("-", 1)[0], set()).update(row.references)
    owner = {}
    for start in range(0, len(rows), 60):
        for row in rows[start : start + 60]:
            for name in row.references:
                assert owner.setdefault(name, start // 60) in (start // 60, start // 60 - 1)
    keys = Counter(constraint_key(one.constraints) for one in made[0].references)
    assert max(keys.values()) == 1


def test_command_writes_plan_and_refuses_another(tmp_path, capsys):
    words = ["data", "plan", "ablation_multi_reference", "--rows", "50", "--out", str(tmp_path)]
    main(words)
    plan, _ = read_plan(tmp_path)
    assert len(plan.rows) == 50
    assert {one.category for one in plan.references} == {"human", "object", "scene"}
    rows = list(plan.rows)
    record = json.loads((tmp_path / "plan.record.json").read_text())
    assert record["metrics"]["facts"]["references"].keys() == {"2", "3", "4"}
    (tmp_path / "ledger.sqlite").touch()
    main(words)
    with pytest.raises(SystemExit):
        main([*words, "--seed", "1"])
    assert "holds another plan" in capsys.readouterr().err
    again = read_plan(tmp_path)[0]
    assert (again.references, list(again.rows)) == (plan.references, rows)
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rows", "0"], "must be at least 1"),
        (["--mix", "surreal_fantasy=1"], "--mix belongs to recipe shapes"),
        (["--references", "./nowhere"], "no folder"),
        (["--model", "gpt-of-tomorrow"], "no price for model"),
        (["--model", "sandbox-image", "--requests-per-minute", "-3"], "must be above 0"),
        (["--model", "sandbox-image", "--prices", "none.json"], "price table"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, options, said, capsys):
    with pytest.raises(SystemExit):
        main(
            ["data", "plan", "echo4o_image", "--rows", "20", "--out", str(tmp_path / "p"), *options]
        )
    assert said in capsys.readouterr().err
    assert not (tmp_path / "p" / "plan.jsonl").exists()


@pytest.mark.parametrize("name", ["../../pwn", "a/b", "", "x\u2028y"])
def test_ids_that_lead_somewhere_are_refused_before_anything_is_paid(tmp_path, name):
    main(["data", "plan", "shapes", "--rows", "20", "--out", str(tmp_path)])
    path = tmp_path / "plan.jsonl"
    *lines, last = path.read_text().splitlines()
    path.write_text("\n".join([*lines, json.dumps(json.loads(last) | {"id": name})]))
    with pytest.raises(PlanError, match="is no plan entry .*`id` must be made of"):
        read_plan(tmp_path)


def test_sources_that_lead_out_of_the_folder_are_refused(tmp_path):
    main(["data", "plan", "ablation_multi_reference", "--rows", "3", "--out", str(tmp_path)])
    path = tmp_path / "plan.jsonl"
    header, first, *rest = path.read_text().splitlines()
    entry = json.loads(first) | {"source": {"sha256": "../../etc/passwd", "extension": "png"}}
    path.write_text("\n".join([header, json.dumps(entry), *rest]))
    with pytest.raises(PlanError, match="line 2 is no plan entry"):
        read_plan(tmp_path)
