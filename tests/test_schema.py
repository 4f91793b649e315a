"""The row that every stage shares."""

import dataclasses
import io

import pytest
from PIL import Image

from echo4o.schema import CATEGORIES, Picture, Row, RowError, check_row, constraint_key, features


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    return buffer.getvalue()


def make(**changes):
    fields = {
        "id": "a-1",
        "task_type": "ic",
        "subset": "multi_reference",
        "category": "object_object",
        "instruction": "Put it there \u2013 now",
        "requested_instruction": "Put the object from image 1 there",
        "input_images": (Picture(data=png(), name="r.png"),),
        "output_image": Picture(data=png(), name="o.png"),
        "width": 3,
        "height": 2,
        "constraints": {"include": [{"class": "circle", "count": 2, "region": "left"}]},
        "references": ({"sha256": "0" * 64, "consent": None},),
        "provenance": {"created": "2026-01-01T00:00:00Z", "sha256": {"output_image": "1" * 64}},
    }
    return Row(**(fields | changes))


def test_released_counts_sum_to_the_paper():
    assert sum(sum(counts.values()) for counts in CATEGORIES.values()) == 178_228
    sums = {name: sum(counts.values()) for name, counts in CATEGORIES.items()}
    assert sums == {
        "surreal_fantasy": 37_541,
        "multi_reference": 72_729,
        "instruction_following": 67_958,
    }


def test_row_round_trips_through_arrow():
    import pyarrow as pa

    row = make()
    check_row(row)
    assert list(row.to_dict()) == list(features())
    table = pa.Table.from_pylist([row.to_dict()], schema=features().arrow_schema)
    assert Row.from_dict(table.to_pylist()[0]) == row


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("constraints", "nonsense"),
        ("constraints", "[]"),
        ("references", "{}"),
        ("references", "[1]"),
        ("provenance", "[1]"),
        ("provenance", "{" * 100_000),
    ],
)
def test_a_json_column_that_is_none_names_row_and_column(column, text):
    with pytest.raises(RowError, match=f"row a-1: `{column}` is no JSON"):
        Row.from_dict(make().to_dict() | {column: text})


@pytest.mark.parametrize(
    "changes",
    [
        {"constraints": ...},
        {"color": "red"},
        {"input_images": None},
        {"input_images": [b"x"]},
        {"output_image": {"path": "o.png"}},
        {"instruction": None},
        {"width": None},
    ],
)
def test_rows_of_another_form_are_a_sentence(changes):
    record = {key: one for key, one in (make().to_dict() | changes).items() if one is not ...}
    with pytest.raises(RowError, match="row 'a-1' is of another form .*; give a dataset built by"):
        Row.from_dict(record)


def test_a_picture_that_is_only_named_is_refused():
    """A stranger's Parquet may point to a file of this machine; it is not looked for."""
    named = {"bytes": None, "path": "/etc/hostname"}
    with pytest.raises(RowError, match="`picture`"):
        check_row(Row.from_dict(make().to_dict() | {"output_image": named}))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": "../x"}, "`id`"),
        ({"id": ".."}, "`id`"),
        ({"subset": "dogs"}, "`subset`"),
        ({"category": "easy"}, "`category`"),
        ({"input_images": ()}, "`input_images`"),
        ({"task_type": "t2i"}, "`input_images`"),
        ({"instruction": "  "}, "`instruction`"),
        ({"instruction": "a\x00b"}, "control character"),
        ({"instruction": "x" * 100_000}, "100000 characters"),
        ({"width": 0}, "`size`"),
        ({"output_image": Picture(data=b"", name="o.png")}, "`picture`"),
        ({"constraints": {"include": [{"class": "dog", "region": "middle"}]}}, "region 'middle'"),
        ({"constraints": {"include": [{"class": "dog", "count": 0}]}}, "count must be"),
        ({"constraints": {"include": ["dog"]}}, "`class`"),
    ],
)
def test_bad_rows_are_refused_by_name(changes, field):
    with pytest.raises(RowError) as caught:
        check_row(make(**changes))
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)


def test_constraint_key_is_the_multiset_of_facts():
    one = {"include": [{"class": "Dog", "count": 1, "size": "larger"}, {"class": "cat"}]}
    other = {
        "include": [{"class": "cat", "count": 1, "color": None}, {"class": "dog", "size": "large"}]
    }
    assert constraint_key(one) == constraint_key(other)
    for change in ({"count": 2}, {"color": "red"}, {"region": "left"}, {"size": "small"}):
        changed = {"include": [{"class": "cat"} | change, {"class": "dog", "size": "large"}]}
        assert constraint_key(changed) != constraint_key(one)
    twice = {"include": [{"class": "cat"}, *one["include"]]}
    assert constraint_key(twice) != constraint_key(one)


def test_a_row_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().id = "b"
