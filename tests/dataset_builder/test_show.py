"""`data stats` and `data show`: numbers that are right, pages on which nothing foreign runs."""

import io
import json
import re
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from rights_file import write_release

from echo4o.cli import main
from echo4o.dataset_builder.captions import Combinations, read_captions
from echo4o.dataset_builder.card import CardFacts
from echo4o.dataset_builder.folder import FolderWriter
from echo4o.dataset_builder.insight import stats
from echo4o.dataset_builder.sampling import is_plain, sample
from echo4o.errors import Echo4oError
from echo4o.ledger import Ledger
from echo4o.records import RunRecord
from echo4o.schema import Picture, Row

HOSTILE = "</p><script>document.title='owned'</script><img src=x onerror=alert(1)> \u202e{{ 7*7 }}"


def png(plain=True, seed=0):
    image = Image.new("RGB", (96, 96), (240, 240, 238))
    if not plain:
        image = Image.effect_noise((96, 96), 90).convert("RGB")
    ImageDraw.Draw(image).ellipse((30, 30 + seed % 9, 60, 60 + seed % 9), fill=(200, 30, 30))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def row(number, subset="instruction_following", text="A photo of one red circle", **more):
    data = png(plain=number % 4 != 3, seed=number)
    is_exact = subset == "instruction_following"
    made = Row(
        id=f"{subset}-{number:06d}",
        task_type="t2i",
        subset=subset,
        category="easy" if is_exact else "hybridization",
        instruction=text,
        output_image=Picture(data=data, name=f"{number}.png"),
        width=96,
        height=96,
        generator="maker",
        constraints={"include": [{"class": "circle", "color": "red", "count": 1 + number % 2}]},
    )
    return replace(made, **more)


def checked(aligned, after=None, **more):
    decision = "keep" if after is None else "rewrite"
    told = {"aligned": aligned, "aligned_after": after, "decision": decision, **more}
    return {"check": told, "content_credentials": {"present": True, "valid": None}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rows = [row(number) for number in range(8)]
    rows[0] = row(0, provenance=checked(True))
    rows[1] = row(1, provenance=checked(False, True), requested_instruction="two circles")
    rows[2] = row(2, provenance=checked(False, False), requested_instruction="three circles")
    rows[3] = row(3, provenance=checked(False, duplicate_of=rows[0].id))
    rows[4] = row(4, text=HOSTILE, provenance={"check": "nonsense"})
    rows += [row(number, "surreal_fantasy", "A red moon") for number in range(3)]
    out = tmp_path_factory.mktemp("show") / "echo-4o-image"
    with FolderWriter(out, preview=frozenset(one.id for one in rows[:2])) as writer:
        for one in rows:
            writer.add(one)
        writer.finish(RunRecord(name="echo-4o-image", command="test"), CardFacts(origin="Made."))
    return out


def test_alignment_backgrounds_and_marks(dataset):
    told = stats(str(dataset), pictures=8)
    assert told["rows"] == 11
    following = told["quality"]["aligned"]["instruction_following"]
    assert following == {"checked": 4, "before": 0.25, "after": 0.5, "rewritten": 2}
    assert told["quality"]["near_duplicates"] == 1
    assert told["quality"]["content_credentials"] == {"not verified": 4}
    plain = told["plain_backgrounds"]["instruction_following"]
    assert plain == {"looked_at": 8, "plain": 6, "share": 0.75, "damaged": 0}
    assert told["quality"]["combinations"]["class x count"]["covered"] == 2
    only = stats(str(dataset), "surreal_fantasy", pictures=2)
    assert only["plain_backgrounds"]["surreal_fantasy"]["looked_at"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "{data}", "--page", "{data}"], "--page .* is a folder; give the name of a file"),
        (["stats", "{data}", "--marks", "{data}"], "--marks .* is a folder"),
        (["stats", "{data}", "--captions", "nowhere"], "nowhere cannot be read"),
        (["stats", "{data}", "--plan", "nowhere"], "there is no ledger at nowhere"),
        (["stats", "{data}/data"], "is no built dataset; run `echo4o data build`"),
        (["show", "nowhere"], "neither a folder here nor a Hub id"),
        (["export", "nowhere", "bagel", "--out", "nothing"], "neither a folder here nor a Hub id"),
        (["push", "{data}", "a/b", "--tag", "v 1", "--rights", "{rights}"], "no name of a tag"),
        (["push", "{data}", "noorg", "--rights", "{rights}"], "give ORG/NAME"),
    ],
)
def test_mistakes_are_told_before_anything_is_counted(dataset, tmp_path, words, said, capsys):
    rights = write_release(tmp_path)
    with pytest.raises(SystemExit):
        main(["data", *(word.format(data=dataset, rights=rights) for word in words)])
    told = capsys.readouterr().err
    assert re.search(f"^error: .*{said}", told, re.M)
    assert "count:" not in told


def test_sample_is_spread_and_bounded(dataset):
    assert [one.id[-1] for one in sample(str(dataset), "instruction_following", 4)] == list("0246")
    assert len(list(sample(str(dataset), "all", 50))) == 11
    assert not list(sample(str(dataset), "all", 0))
    with pytest.raises(Echo4oError, match="has no files"):
        list(sample(str(dataset.parent), "all", 3))


@pytest.mark.parametrize(
    ("paint", "expected"),
    [
        (lambda pen: pen.rectangle((40, 40, 90, 90), fill="red"), True),
        (lambda pen: pen.rectangle((0, 0, 20, 20), fill="red"), True),
        (lambda pen: pen.rectangle((0, 0, 128, 60), fill="red"), False),
        (lambda pen: [pen.line((x, 0, x, 128), fill=(x, x, x)) for x in range(0, 128)], False),
    ],
    ids=["middle", "corner", "two halves", "gradient"],
)
def test_what_counts_as_plain(paint, expected):
    image = Image.new("RGB", (128, 128), "white")
    paint(ImageDraw.Draw(image))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert is_plain(buffer.getvalue()) is expected


def test_page_and_terminal_show_foreign_text_as_text(dataset, tmp_path, capsys):
    page = tmp_path / "page.html"
    main(["data", "show", str(dataset), "--rows", "8", "--page", str(page)])
    text = page.read_text()
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;" in text
    assert "{{ 7*7 }}" in text
    assert "default-src 'none'" in text
    assert text.count("data:image/jpeg;base64,") == 11
    capsys.readouterr()
    main(["data", "show", str(dataset), "--rows", "8"])
    told = capsys.readouterr().out
    assert "text rewritten, follows its text" in told
    assert "near-duplicate of instruction_following-000000" in told
    assert "\u202e" not in told  # which would turn the line around
    main(["data", "stats", str(dataset), "--pictures", "0"])
    assert json.loads(capsys.readouterr().out)["rows"] == 11


def test_facts_that_are_no_facts_are_not_counted(dataset, tmp_path, capsys):
    """A dataset of the Hub may say anything in its JSON columns."""
    foreign = shutil.copytree(dataset, tmp_path / "foreign")
    told = ({"include": 1}, {"include": [1, None, "x"]}, {"include": {"class": "x"}}, {})
    for shard in (foreign / "data" / "instruction_following").glob("train-*.parquet"):
        table = pq.read_table(shard)
        column = [json.dumps(told[number % len(told)]) for number in range(table.num_rows)]
        place = table.column_names.index("constraints")
        pq.write_table(table.set_column(place, "constraints", pa.array(column)), shard)
    found = stats(str(foreign), "instruction_following")
    assert (found["rows"], found["facts"]) == (8, {})
    marks = tmp_path / "marks.jsonl"
    main(["data", "show", str(foreign), "--rows", "8", "--marks", str(marks)])
    assert "instruction_following-000007" in capsys.readouterr().out
    assert marks.is_file()


def test_combinations_against_captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text(
        "A red circle beside two blue squares.\n"
        '{"caption": "Three red circles and a red square"}\n'
        '{"text": "some red circle"}\n\n'
        "The redcircle and circles of red\n"
        "two blue squares, circle\n"
    )
    found = Combinations()
    found.add([{"class": "circle", "color": "red", "count": 1}])
    found.add([{"class": "square", "color": "blue", "count": 2}])
    told = found.against(read_captions(path))
    assert told["captions"] == 5
    # Often there: red circle (3), blue square (2, both said of squares alone); once: red square.
    assert told["class x color"] == {
        "possible": 4,
        "in_captions": 3,
        "rare_in_captions": 2,
        "rare_covered": 0,
        "share_of_rare_covered": 0.0,
    }
    assert told["class x count"]["in_captions"] == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b'{"words": "x"}\n', "has no text `caption`"),
        (b'{"caption": 3}\n', "has no text `caption`"),
        (b"{broken\n", "has no text `caption`"),
    ],
)
def test_captions_that_are_wrong(content, said, dataset, tmp_path, capsys):
    path = tmp_path / "captions.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit):
        main(["data", "stats", str(dataset), "--captions", str(path), "--pictures", "0"])
    assert said in capsys.readouterr().err


def test_what_was_bought(dataset, tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for key, outcome, cost, reason in (
            ("a", "done", 0.02, None),
            ("b", "refused", 0.0, "moderation_blocked: violence"),
            ("c", "done", 0.04, None),
        ):
            ledger.reserve(key, kind="image", model="m", request="{}", price_usd=0.05)
            ledger.settle(key, outcome, cost_usd=cost, attempts=2, created="", reason=reason)
    told = stats(str(dataset), plan=tmp_path)["bought"]
    assert told["calls"] == {"done": 2, "refused": 1}
    assert told["refusals"] == {"moderation_blocked": 1}
    assert told["refused_share"] == 0.3333
    assert (told["spent_usd"], told["usd_for_each_picture"], told["attempts"]) == (0.06, 0.03, 6)
    with pytest.raises(Echo4oError, match="there is no ledger"):
        stats(str(dataset), plan=tmp_path / "nowhere")


def test_every_picture_of_a_built_dataset(tmp_path, capsys):
    whole = row(0)
    jpeg = io.BytesIO()
    Image.open(io.BytesIO(whole.output_image.data)).save(jpeg, "JPEG", quality=70)
    damaged = bytearray(whole.output_image.data)
    damaged[len(damaged) // 2] ^= 0xFF
    facts = {"include": [{"class": "square", "count": 1}]}
    rows = [
        whole,
        row(1, constraints=facts, output_image=whole.output_image),
        row(2, constraints=whole.constraints, output_image=Picture(data=jpeg.getvalue(), name="j")),
        row(4, output_image=Picture(data=bytes(damaged), name="d")),
    ]
    out = tmp_path / "echo-4o-image"
    with FolderWriter(out, preview=frozenset()) as writer:
        for one in rows:
            writer.add(one)
        writer.finish(RunRecord(name="echo-4o-image", command="test"), CardFacts(origin="Made."))
    marks = tmp_path / "marks.jsonl"
    main(["data", "stats", str(out), "--pictures", "0", "--marks", str(marks)])
    told = json.loads(capsys.readouterr().out)["every_picture"]
    assert told == {
        "decoded": 3, "damaged": 1, "near_duplicates": 1, "content_credentials": 0
    }  # fmt: skip
    main(["data", "remove", str(out), "--ids", str(marks), "--reason", "damaged or repeated"])
    assert [one.id for one in sample(str(out), "all", 9)] == [rows[0].id, rows[1].id]


def test_numbers_that_make_no_sense(dataset, capsys):
    for words in (["--pictures", "-1"], ["--rows", "-1"]):
        with pytest.raises(SystemExit):
            main(["data", "show", str(dataset), *words])
        assert "must be 0 or more" in capsys.readouterr().err
