"""The kit's items keep their promises; malformed item files are refused with the line's number."""

from collections import Counter

import pytest
from eval_tools import KIT, TASK

from echo4o.errors import Echo4oError
from echo4o.eval.english import article, join, plural
from echo4o.eval.items import Item, read_items, select, tags
from echo4o.eval.make_kit_items import KIT_ITEMS, lines
from echo4o.sandbox import world

TAGS = {
    "color_attr": {"color"},
    "counting": set(),
    "color_count_attr": {"color"},
    "color_spatial_attr": {"color", "region"},
    "spatial_count_attr": {"region"},
    "size_spatial_attr": {"size", "region"},
    "multi_object_count_attr": set(),
}


def test_the_file_is_what_the_script_makes():
    assert KIT_ITEMS.read_text() == "".join(lines())


def test_kit_has_thirty_distinct_items_per_tag():
    assert Counter(item.tag for item in KIT.items) == dict.fromkeys(TAGS, 30)
    assert len({item.key for item in KIT.items}) == 210
    assert sum(item.one_or_two_objects for item in KIT.items) >= 100


@pytest.mark.parametrize("tag", TAGS)
def test_kit_tags_constrain_what_they_say(tag):
    for item in KIT.items:
        if item.tag != tag:
            continue
        for part in item.include:
            used = {key for key in part.to_json() if key not in ("class", "count")}
            assert used == TAGS[tag], item.prompt
            assert 1 <= part.count <= 7
            assert part.name in world.SHAPES
        if tag == "counting":
            assert [(one.name, one.count) for one in item.exclude] == [
                (item.include[0].name, item.include[0].count + 1)
            ]
        else:
            assert not item.exclude


def test_the_world_understands_every_kit_prompt_and_its_picture_is_right():
    for item in KIT.items:
        groups = [
            {"class": g.shape, "count": g.count, "color": g.colour, "region": g.region}
            | {"size": g.size}
            for g in world.parse(item.prompt)
        ]
        stated = [
            {key: value for key, value in group.items() if value is not None} for group in groups
        ]
        assert stated == [part.to_json() for part in item.include], item.prompt
        seen = world.see(world.paint(item.prompt, width=64, height=64, seed=1))
        findings = world.check(
            seen,
            [part.to_json() for part in item.include],
            [part.to_json() for part in item.exclude],
        )
        assert all(one.ok for one in findings), item.prompt


def test_key_ignores_the_order_of_objects():
    row = KIT.items[40].to_json() | {"include": KIT.items[10].to_json()["include"]}
    turned = row | {"include": row["include"][::-1]}
    assert Item.from_json(row, 1).key == Item.from_json(turned, 2).key
    assert Item.from_json(row, 1).key != KIT.items[10].key  # the exclusion differs


def test_bom_crlf_and_blank_lines_are_read(tmp_path):
    file = tmp_path / "items.jsonl"
    rows = KIT_ITEMS.read_text().splitlines()[:3]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(rows).encode() + b"\r\n")
    items = read_items(file).items
    assert [item.to_json() for item in items] == [item.to_json() for item in KIT.items[:3]]
    assert [item.number for item in items] == [1, 2, 3]


GOOD = '{"tag": "t", "prompt": "p", "include": [{"class": "cat"}]}'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"{GOOD}\n{GOOD}", "line 2: the same item stands in line 1"),
        (
            GOOD.replace("{", '{"id": 1, ', 1) + '\n{"id": 1, "tag": "t", "prompt": "q", '
            '"include": [{"class": "cat"}]}',
            "line 2: `id` is 1, but this is item 2 of the file",
        ),
        (f"{GOOD}\r{GOOD}", "line 1: not one JSON value on a line of its own"),
        (GOOD.replace('"p"', '"p \\ud800"'), "`prompt` holds half of a character"),
        ("[1]", "line 1: an item must be a JSON object"),
        ("{", "line 1"),
        ('{"tag": "t", "include": [{"class": "cat"}]}', "`tag` and `prompt`"),
        ('{"tag": "t", "prompt": "p", "include": []}', "at least one object"),
        ('{"tag": "t", "prompt": "p", "include": [{"class": "cat", "count": 0}]}', "got 0"),
        ('{"tag": "t", "prompt": "p", "include": [{"class": "cat", "count": true}]}', "True"),
        ('{"tag": "t", "prompt": "p", "include": [{"class": "cat", "where": 1}]}', "'where'"),
        ('{"tag": "t", "prompt": "p", "include": [{"class": "a", "region": "mid"}]}', "'mid'"),
        ("\n \n", "holds no item"),
    ],
)
def test_malformed_files_are_refused(tmp_path, text, complaint):
    file = tmp_path / "items.jsonl"
    file.write_text(text)
    with pytest.raises(Echo4oError, match=complaint):
        read_items(file)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(Echo4oError, match="no items file"):
        TASK.items(str(tmp_path / "none.jsonl"))
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Echo4oError, match="not UTF-8"):
        read_items(tmp_path / "x")


def test_select_spreads_over_the_tags():
    some = select(KIT.items, 15)
    assert len(some) == 15
    assert max(Counter(item.tag for item in some).values()) == 3
    assert tags(some) == tags(KIT.items)
    assert [item.number for item in some] == sorted(item.number for item in some)
    assert select(KIT.items, None) == select(KIT.items, 999) == KIT.items
    with pytest.raises(ValueError, match="at least 1"):
        select(KIT.items, 0)


@pytest.mark.shared
def test_the_authors_file_is_read(shared):
    items = read_items(shared / "benchmarks" / "Geneval++.jsonl").items
    assert len(items) == 280
    assert set(Counter(item.tag for item in items).values()) == {40}


def test_english():
    assert [plural(noun) for noun in ("cross", "sheep", "knife", "bench", "berry", "toy")] == [
        *("crosses", "sheep", "knives", "benches", "berries", "toys")
    ]
    assert plural("cross", 1) == "cross"
    assert article("orange ring") == "an orange ring"
    assert join(["a", "b", "c"]) == "a, b, and c"
