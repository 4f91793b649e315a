"""Benchmark items stay out: exact facts, the same idea in other words, the same picture."""

import io
import json
import random
import re

import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from echo4o.cli import main
from echo4o.dataset_builder.decontaminate import Blocklist
from echo4o.dataset_builder.drafts import draft
from echo4o.dataset_builder.objects import things
from echo4o.dataset_builder.picture_hash import difference_hash, distance
from echo4o.dataset_builder.similarity import TextIndex
from echo4o.dataset_builder.surreal import SurrealPlanner
from echo4o.errors import Echo4oError
from echo4o.schema import constraint_key


def items(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def group(name, count=1, **facts):
    return {"class": name, "count": count, **facts}


@pytest.fixture
def block(tmp_path):
    return Blocklist(
        [
            items(
                tmp_path / "facts.jsonl",
                {"include": [group("dog", 2, color="red"), group("cup", 1, color="blue")]},
                {"include": [group("owl", region="left"), group("car", region="right")]},
            ),
            items(
                tmp_path / "texts.jsonl",
                {"instruction": "A photo of a pineapple built from corrugated cardboard."},
                {"instruction": "A photo of an egg shaped like a perfect cube."},
                {"instruction": "A photo of a beach umbrella made of red clay."},
                {"instruction": "A ball as large as a house."},
            ),
        ]
    )


def test_a_batch_keeps_what_single_rows_keep(block):
    rows = [
        {
            "id": str(number),
            "instruction": text,
            "constraints": None if facts is None else json.dumps({"include": facts}),
        }
        for number, (text, facts) in enumerate(
            [
                ("x", [group("cup", 1, color="blue"), group("dog", 2, color="red")]),
                ("y", [group("cup", 1, color="blue"), group("dog", 3, color="red")]),
                ("A ball as large as a house!", None),
                ("z", None),
            ]
        )
    ]
    assert block.kept(pa.RecordBatch.from_pylist(rows)).column("id").to_pylist() == ["1", "3"]
    assert [entry["why"] for entry in block.dropped] == ["same facts or text"] * 2


def test_the_same_facts_are_dropped_in_any_order_and_wording(block):
    facts = {"include": [group("cup", 1, color="blue"), group("dog", 2, color="red")]}
    assert not block.allows("Two red dogs and one blue cup", facts)
    assert not block.allows("One blue cup, two red dogs", facts)
    assert [(one["times"], one["why"], one["line"]) for one in block.dropped] == [
        (2, "same facts or text", 1)
    ]


def test_one_other_fact_stays_and_is_reported(block):
    facts = {"include": [group("cup", 1, color="green"), group("dog", 2, color="red")]}
    assert block.allows("Two red dogs and one green cup", facts)
    assert not block.dropped
    assert [(one["how"], one["rows"], one["line"]) for one in block.similar] == [
        ("same classes and relation", 1, 1)
    ]
    assert block.allows("Two red dogs", {"include": [group("dog", 2, color="red")]})
    assert len(block.similar) == 1


@pytest.mark.parametrize("relation", ["left of", "right of"])
def test_a_relation_is_read_as_places(block, relation):
    order = ("owl", "car") if relation == "left of" else ("car", "owl")
    facts = {
        "include": [group(name) for name in order],
        "relations": [{"subject": 0, "relation": relation, "object": 1}],
    }
    assert not block.allows("An owl and a car", facts)
    facts["relations"][0]["relation"] = "above"
    assert block.allows("An owl and a car", facts)
    assert facts["include"] == [group(name) for name in order]


def test_geneval_positions_are_read_as_places(tmp_path):
    place = {"include": [group("dog"), {**group("cup"), "position": ["above", 0]}]}
    block = Blocklist([items(tmp_path / "geneval.jsonl", place)])
    facts = {"include": [group("cup", region="above"), group("dog", region="below")]}
    assert not block.allows("A cup at the top and a dog at the bottom", facts)
    bad = items(tmp_path / "bad.jsonl", {"include": [{**group("cup"), "position": ["above", 7]}]})
    with pytest.raises(Echo4oError, match="line 1 is no benchmark item"):
        Blocklist([bad])


def surreal(block, text, named):
    facts = {"include": [group(named)], "object": named, "deflected": {"shape": "odd"}}
    return block.allows(text, facts)


@pytest.mark.parametrize(
    ("text", "named", "stays"),
    [
        ("A realistic photo of a pineapple made of corrugated cardboard", "pineapple", False),
        ("Pineapples crafted from corrugated cardboard", "pineapple", False),
        ("A photo of a pineapple made of packed snow", "pineapple", True),
        ("A photo of a mango made of corrugated cardboard", "mango", True),
        ("A close-up photo of an egg shaped like a perfect cube", "egg", False),
        ("A photo of an egg shaped like a perfect sphere", "egg", True),
        ("A photo of a beach ball made of red clay", "beach ball", True),
        ("A photo of a beach umbrella made of red clay", "umbrella", False),
    ],
)
def test_surreal_rows_are_compared_by_what_they_say_of_the_object(block, text, named, stays):
    assert surreal(block, text, named) is stays


def test_items_about_two_objects_spare_rows_about_one(tmp_path):
    text = "A pink plank and a glass chimney on a shelf"
    block = Blocklist([items(tmp_path / "t.jsonl", {"instruction": text, "type": "Multi-Object"})])
    assert surreal(block, "A photo of a pink plank", "plank")
    assert surreal(block, "A wooden plank and a blue chimney", "plank and chimney")
    assert not surreal(block, "A photo of a glass chimney and a pink plank", "plank and chimney")


def test_half_the_words_are_reported(block):
    assert surreal(block, "A photo of an egg shaped like a perfect sphere", "egg")
    assert [one["how"] for one in block.similar] == ["similar words"]


def photo(seed, size=(160, 120)):
    draw_from = random.Random(seed)
    picture = Image.new("RGB", size, (230, 230, 230))
    draw = ImageDraw.Draw(picture)
    for _ in range(24):
        x, y = draw_from.randrange(size[0]), draw_from.randrange(size[1])
        color = tuple(draw_from.randrange(256) for _ in range(3))
        draw.ellipse([x - 20, y - 20, x + 20, y + 20], fill=color)
    return picture


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_pictures_are_known_again_after_encoding_and_scaling(tmp_path):
    for number in range(20):
        photo(number).save(tmp_path / f"{number}.png")
    block = Blocklist([tmp_path])
    for number in range(20):
        picture = photo(number)
        for data in (
            encoded(picture),
            encoded(picture, "JPEG", quality=60),
            encoded(picture.resize((96, 72))),
            encoded(picture.resize((320, 240)), "WEBP"),
        ):
            assert not block.allows_picture(data, f"{number}")
        assert block.allows_picture(encoded(photo(1000 + number)), "other")
    looks = [difference_hash(encoded(photo(number))) for number in range(20)]
    assert min(distance(a, b) for a in looks for b in looks if a != b) > 32


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("items.jsonl", b"[1]\n", "line 1 is no benchmark item"),
        ("items.jsonl", b"\xff\xfe\n", "no UTF-8"),
        ("items.png", b"no picture", "is no picture"),
        ("empty/", b"", "holds no pictures"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, name, content, said):
    path = tmp_path / name
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(Echo4oError, match=said):
        Blocklist([path])


@pytest.mark.shared
def test_no_row_of_a_plan_is_an_item_of_the_two_benchmarks(shared, tmp_path):
    paths = [shared / "benchmarks" / name for name in ("Geneval++.jsonl", "Imagine.jsonl")]
    block = Blocklist(paths)
    assert len(block) >= 530
    rows = list(draft("ablation_instruction_following", rows=4000, seed=2, block=block).rows)
    keys = {constraint_key(json.loads(line)) for line in paths[0].read_text().splitlines() if line}
    assert not {constraint_key(row.constraints) for row in rows} & keys
    close = sum(one["rows"] for one in block.similar)
    assert 0 < close < len(rows) // 50
    out = tmp_path / "plan"
    words = ["--rows", "3000", "--out", str(out), "--against", *map(str, paths)]
    main(["data", "plan", "ablation_surreal", *words])
    record = json.loads((out / "plan.record.json").read_text())
    dropped = [json.loads(line) for line in (out / "plan.dropped.jsonl").open()]
    assert record["metrics"]["dropped"] == len(dropped)
    assert {one["id"] for one in record["inputs"]} == {path.name for path in paths}


@pytest.mark.shared
def test_word_overlap_finds_paraphrases_and_spares_other_ideas(shared):
    """Measured on the items themselves: other frame and a lost word, against other deflections."""
    lines = (shared / "benchmarks" / "Imagine.jsonl").read_text().splitlines()
    texts = [json.loads(line)["instruction"] for line in lines]
    index = TextIndex(texts)
    frames = ("A realistic photo of ", "An image of ", "A studio photo of ", "A picture of ")
    names = sorted((thing.noun for thing in things()), key=len, reverse=True)
    found = tried = 0
    for number, text in enumerate(texts):
        named = next((name for name in names if f" {name} " in text), None)
        if named is None:
            continue
        said = re.sub("^A photo of ", "", text).rstrip(".").split()
        for frame in frames:
            shorter = said[:-3] + said[-2:] if len(said) > 8 else said
            tried += 1
            found += index.nearest(frame + " ".join(shorter), named)[1] >= 0.75
        assert index.nearest(text, named)[1] == 1.0, number
    assert tried > 400
    assert found >= 0.99 * tried
    planner = SurrealPlanner(random.Random(4))
    rows = [planner.make("attribute_shift") for _ in range(2000)]
    alarms = [
        row
        for row in rows
        if index.nearest(row.instruction, str(row.constraints["object"]))[1] >= 0.75
    ]
    assert len(alarms) <= 10  # 0.5 %, and some of them are the item
