"""The explorer's reading of Parquet, checked against pyarrow, and of folders that are broken."""

import json
import random
import shutil
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from explore_data import picture, plain, rows

from echo4o.dataset_builder.shards import column_options
from echo4o.schema import features

SCHEMA = features().arrow_schema
PLAIN = dict(column_options(SCHEMA))
FORMS = {
    "ours": PLAIN,
    "chunked": PLAIN | {"use_content_defined_chunking": True},
    "snappy": PLAIN | {"compression": "snappy"},
    "zstd": PLAIN | {"compression": "zstd"},
    "dictionary": {},
    "version 2 pages": PLAIN | {"data_page_version": "2.0"},
    "no index": PLAIN | {"write_page_index": False},
}
READ_BY_PAGE = ("ours", "chunked", "snappy", "zstd")


def table():
    """Rows with 0 to 4 references, lists and pictures that are missing, and large values."""
    found = [dict(row) for row in rows()]
    draw = random.Random(3)
    for place, row in enumerate(found):
        kind = place % 7
        if kind == 0:
            row["input_images"] = None
        elif kind < 5:
            cells = [{"bytes": draw.randbytes(draw.randrange(40_000)), "path": "a"}] * kind
            row["input_images"] = [*cells, {"bytes": None, "path": None}, None][: kind + place % 3]
        if place % 11 == 0:
            row["output_image"] = None if place % 2 else {"bytes": None, "path": "gone"}
    return pa.Table.from_pylist(found, SCHEMA)


@pytest.mark.parametrize("form", FORMS)
def test_every_picture_of_every_row_equals_pyarrows(module, tmp_path, monkeypatch, form):
    shards, stores = module("shards"), module("stores")
    expected = table()
    options = {"write_page_index": True, "data_page_size": 30_000} | FORMS[form]
    pq.write_table(expected, tmp_path / "a.parquet", row_group_size=13, **options)
    store = stores.open_store(str(tmp_path))
    read = shards.Shards(store, store.files(".parquet"), {"id"})
    if form in READ_BY_PAGE:
        monkeypatch.setattr(read, "_from_group", lambda *_: pytest.fail("read a whole row group"))
    for place, row in enumerate(expected.to_pylist()):
        target = row["output_image"] or {"bytes": None}
        assert read.pictures(place, "output_image") == [target["bytes"]]
        many = [one and one["bytes"] for one in row["input_images"] or []]
        assert read.pictures(place, "input_images") == many


def test_damaged_files_are_refused_and_never_break_the_reader(module, tmp_path):
    """Single bytes of footer, index and pages: an answer or a refusal, nothing else."""
    cells = module("cells")
    options = {"write_page_index": True, **PLAIN}
    pq.write_table(table(), tmp_path / "a.parquet", row_group_size=13, **options)
    whole = (tmp_path / "a.parquet").read_bytes()
    size = struct.unpack("<I", whole[-8:-4])[0]
    levels = {"output_image.bytes": (2, 0), "input_images.list.element.bytes": (4, 1)}
    draw = random.Random(5)
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            start = draw.choice((len(whole) - size - 8, 4))
            data[draw.randrange(start, len(whole))] = draw.randrange(256)
        try:
            found = cells.chunks(bytes(data[-size - 8 : -8]), levels)
            for chunk in found[0].values():
                at = chunk.index_at
                starts = cells.page_starts(bytes(data[at : at + chunk.index_bytes]))
                cells.cell(lambda a, b, data=data: bytes(data[a:b]), chunk, starts, 5)
        except cells.NotHere:
            pass


def opened(module, folder):
    catalogue = module("catalogue").Catalogue(str(folder))
    catalogue.start()
    catalogue.wait(30, whole=True)
    return catalogue


def test_a_folder_is_indexed_without_its_preview(module, dataset):
    catalogue = opened(module, dataset)
    assert (catalogue.state, catalogue.rows, catalogue.indexed) == ("ready", 40, 40)
    assert (catalogue.name, catalogue.revision) == ("echo-4o-image", None)
    assert catalogue.subsets() == ["instruction_following", "multi_reference"]
    view = module("catalogue").View(category="hard")
    place = catalogue.page(view, 3, 1)[0].place
    assert catalogue.position(view, place) == 3
    assert catalogue.position(view, place + 1) is None


def test_broken_files_are_left_out_and_the_rest_is_shown(module, dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "broken")
    data = folder / "data" / "multi_reference"
    whole = (data / "train-00000-of-00001.parquet").read_bytes()
    (data / "cut.parquet").write_bytes(whole[:-100])
    (data / "empty.parquet").write_bytes(b"")
    (data / "text.parquet").write_bytes(b"PAR1" * 100)
    pq.write_table(pa.table({"x": [1]}), data / "other.parquet")
    (data / ".hidden.parquet").write_bytes(whole)
    catalogue = opened(module, folder)
    assert (catalogue.state, catalogue.indexed) == ("ready", 40)


def test_a_column_of_another_type_and_two_rows_of_one_id(module, tmp_path):
    both = [plain("same", f"text {n}", picture("red")) for n in range(2)]
    found = pa.Table.from_pylist(both, SCHEMA).set_column(2, "subset", pa.array([1, None]))
    pq.write_table(found, tmp_path / "a.parquet")
    catalogue = opened(module, tmp_path)
    assert (catalogue.state, catalogue.find("same").instruction) == ("ready", "text 0")
    assert catalogue.facts(1)["instruction"] == "text 1"


@pytest.mark.parametrize("name", ["empty", "missing", "other"])
def test_what_is_no_dataset_is_a_sentence_without_a_path(module, tmp_path, name, caplog):
    folder = tmp_path / name
    if name != "missing":
        folder.mkdir()
    if name == "other":
        pq.write_table(pa.table({"x": [1]}), folder / "a.parquet")
    catalogue = opened(module, folder)
    assert catalogue.state == "failed"
    assert name in catalogue.fault
    assert str(tmp_path) not in catalogue.fault
    assert "cannot read the dataset" in caplog.text
    assert "Traceback" not in caplog.text


def test_results_are_read_from_run_folders_and_from_a_dataset_alike(module, runs, results):
    code = module("results")
    both = []
    for source in (runs, results):
        read = code.Results(str(source))
        read.start()
        read.wait(30)
        assert read.state == "ready", read.fault
        run = read.runs("geneval_plus_plus")[0]
        verdicts = read.verdicts(run.name)
        pictures = [read.picture(run.name, place) for place in range(24)]
        both.append((read.runs(), verdicts, pictures))
        assert (run.model, len(verdicts), run.judge) == ("good-model", 24, "sandbox-judge")
        assert all(data.startswith(b"\x89PNG") for data in pictures)
    assert both[0] == both[1]


def test_a_run_without_interval_or_judge_is_left_out(module, results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "results")
    good = sorted((folder / "data" / "runs").glob("*.parquet"))[0]
    row = pq.read_table(good).to_pylist()[0]
    bad = [
        {"run": "no-interval", "low": None},
        {"run": "no-judge", "judge": ""},
        {"run": "infinite", "overall": float("nan")},
        {"run": "fine", "scores": '{"by_tag": {"a": 3, "b": {"score": "x"}}}'},
    ]
    made = pa.Table.from_pylist([row | one for one in bad], pq.read_schema(good))
    pq.write_table(made, folder / "data" / "runs" / "bad.parquet")
    (folder / "data" / "runs" / "cut.parquet").write_bytes(good.read_bytes()[:-9])
    code = module("results")
    read = code.Results(str(folder))
    read.start()
    read.wait(30)
    names = [run.name for run in read.runs()]
    assert (len(names), "fine" in names, read.left_out) == (3, True, 3)
    assert read.run("fine").tags == ()
    assert read.verdicts("fine") == []


def test_links_come_back_as_they_were(module):
    links, view = module("links"), module("catalogue").View
    for link in (
        links.RowsLink(),
        links.RowsLink(view("a&b", "c d", '"x" <y>', 7), 3, "id/…"),
        links.BoardLink("run", "tag", "wrong", 2),
        links.BoardLink(),
    ):
        assert links.read(str(link)) == link


@pytest.mark.parametrize(
    "query", ["?at=x", "?at=0", "?seed=-1", "?words=" + "x" * 300, "x" * 9000, "&" * 90, 3]
)
def test_links_with_nonsense_are_refused(module, query):
    links, refusals = module("links"), module("refusals")
    if query == "&" * 90:
        query = "&".join(f"a{n}=1" for n in range(90))
    with pytest.raises(refusals.Refusal):
        links.read(query)


def test_json_columns_that_are_none_stay_text(module, dataset):
    catalogue = opened(module, dataset)
    facts = catalogue.facts(catalogue.find("hostile-markup").place)
    assert facts["references"] == [1, None]
    assert isinstance(facts["constraints"], str)
    assert json.dumps(facts["provenance"])
