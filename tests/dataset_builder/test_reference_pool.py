"""Given reference pictures: classified, registered, refused, used; what a plan will cost."""

import io
import json
import re
import subprocess
import sys

import authors_layout as layout
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from PIL import Image as Pictures
from tests_sandbox import image_api

from echo4o.cli import main
from echo4o.client import Reply
from echo4o.dataset_builder.plan import read_plan
from echo4o.dataset_builder.pool_candidates import candidates_of
from echo4o.dataset_builder.pool_vision import _told, described
from echo4o.dataset_builder.questions import ApiSettings, Questions
from echo4o.dataset_builder.reference_pool import fill_pool
from echo4o.errors import Echo4oError
from echo4o.ledger import Ledger
from echo4o.records import sha256_bytes
from echo4o.sandbox import world
from echo4o.sandbox.world import SHAPES

SETTINGS = ["--model", "sandbox-image", "--size", "64x64"]
CONSENT = {"consent": "model release", "licence": "cc-by-4.0"}


def picture(number, size=(96, 64)):
    buffer = io.BytesIO()
    color = (number * 5 % 256, number * 11 % 256, number * 17 % 256)
    Pictures.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def read_pool(source, folder, **options):
    return fill_pool(*candidates_of(source), folder, **options)


def write_folder(root, counts=(8, 8, 4), facts=None):
    """A pool of humans, objects and scenes, all with consent, labels on all but the scenes."""
    lines = []
    for kind, name, count in zip(("human", "object", "sence"), "hos", counts, strict=True):
        (root / kind).mkdir(parents=True)
        for number in range(count):
            path = root / kind / f"{name}{number}.png"
            path.write_bytes(picture(100 * "hos".index(name) + number, (96 + 32 * number, 64)))
            known = {"label": f"a {kind} called {name}{number}"} if name != "s" else {}
            entry = {"file_name": f"{kind}/{path.name}", **known, **CONSENT}
            lines.append(entry | (facts or {}).get(path.name, {}))
    (root / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def test_folder_is_classified_labelled_and_registered(tmp_path):
    pool = read_pool(str(write_folder(tmp_path / "pool")), tmp_path / "plan")
    kinds = [entry.category for entry in pool.entries]
    assert [kinds.count(kind) for kind in ("human", "object", "scene")] == [8, 8, 4]
    assert not pool.refused
    first = pool.entries[0]
    assert first.constraints["label"] == "human called h0"
    assert first.source["register"] == {
        "source": "human/h0.png",
        "licence": "cc-by-4.0",
        "attribution": None,
        "depicts_person": True,
        "consent": "model release",
    }
    kept = tmp_path / "plan" / "references" / f"{first.source['sha256']}.png"
    assert sha256_bytes(kept.read_bytes()) == first.source["sha256"]


def test_unusable_pictures_are_refused_by_name(tmp_path):
    facts = {
        "h0.png": {"consent": None},
        "h1.png": {"minor": True},
        "o0.png": {"licence": None},
        "o1.png": {"depicts_person": True, "consent": None},
        "o2.png": {"kind": "dream"},
    }
    root = write_folder(tmp_path / "pool", facts=facts)
    (root / "object" / "o3.png").write_bytes(picture(103)[:-20])
    (root / "object" / "o4.png").write_bytes((root / "object" / "o5.png").read_bytes())
    (root / "object" / "bomb.png").write_bytes(layout.bomb())
    (root / "stray.png").write_bytes(picture(7))
    (root / "object" / "link.png").symlink_to("/etc/hostname")
    pool = read_pool(str(root), tmp_path / "plan", licence=None)
    reasons = {one["picture"]: one["reason"] for one in pool.refused}
    assert set(reasons) == {
        *("human/h0.png", "human/h1.png", "object/o0.png", "object/o1.png", "object/o2.png"),
        *("object/o3.png", "object/o5.png", "object/bomb.png", "stray.png"),
    }
    assert "consent" in reasons["human/h0.png"]
    assert "minor" in reasons["human/h1.png"]
    assert "licence" in reasons["object/o0.png"]
    assert "kind is unknown" in reasons["object/o2.png"]
    assert "cut off" in reasons["object/o3.png"]
    assert "there already" in reasons["object/o5.png"]
    assert "no licence" in reasons["object/bomb.png"]
    wider = read_pool(str(root), tmp_path / "wide", licence="cc0-1.0")
    bombs = [one["reason"] for one in wider.refused if one["picture"] == "object/bomb.png"]
    assert "40000" in bombs[0]


@pytest.mark.parametrize("damage", ["{", "[]", '{"label": "x"}'])
def test_damaged_metadata_is_one_sentence(tmp_path, damage):
    root = write_folder(tmp_path / "pool")
    (root / "metadata.jsonl").write_text(damage + "\n")
    with pytest.raises(Echo4oError, match="line 1 is no object with `file_name`"):
        read_pool(str(root), tmp_path / "plan")


def test_too_small_pools_say_what_is_missing(tmp_path, capsys):
    root = write_folder(tmp_path / "pool", counts=(8, 2, 4))
    words = ["data", "plan", "ablation_multi_reference", "--out", str(tmp_path / "plan")]
    with pytest.raises(SystemExit):
        main([*words, "--rows", "20", "--references", str(root)])
    assert "2 object pictures, and rows need 4" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--references", str(tmp_path)])
    assert "not one picture can be used" in capsys.readouterr().err


# HF_ENDPOINT is read when the libraries are imported, so this runs in a process of its own.
FROM_HUB = """
import sys
from huggingface_hub import HfApi
from echo4o.cli import main
api = HfApi()
api.create_repo("echo4o-sandbox/refs", repo_type="dataset")
api.upload_folder(repo_id="echo4o-sandbox/refs", repo_type="dataset", folder_path=sys.argv[1])
words = ["--rows", "20", "--references", "echo4o-sandbox/refs@main", "--out", sys.argv[2]]
main(["data", "plan", "ablation_multi_reference", *words])
"""


def test_a_datasets_repository_is_a_pool(tmp_path, sandbox):
    cells = {"image": [], "label": [], "text": [], "license": [], "consent": []}
    for number in range(18):
        cells["image"].append({"bytes": picture(number), "path": None})
        cells["label"].append(number % 3)
        cells["text"].append(f"an item {number}.")
        cells["license"].append("cc0-1.0" if number != 17 else None)
        cells["consent"].append("release")
    features = Features(
        {
            "image": Image(),
            "label": ClassLabel(names=["person", "thing", "place"]),
            **{name: Value("string") for name in ("text", "license", "consent")},
        }
    )
    (tmp_path / "repo").mkdir()
    table = Dataset.from_dict(cells, features=features)
    table.to_parquet(str(tmp_path / "repo" / "train-00000-of-00001.parquet"))
    out = tmp_path / "plan"
    words = [sys.executable, "-c", FROM_HUB, str(tmp_path / "repo"), str(out)]
    environment = sandbox.environment(tmp_path / "home")
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plan, _ = read_plan(out)
    assert len(plan.rows) == 20
    labels = {one.constraints["label"]: one.category for one in plan.references}
    assert labels["item 0"] == "human"
    assert labels["item 1"] == "object"
    assert len(labels) == 17
    refused = [json.loads(line) for line in (out / "plan.references.refused.jsonl").open()]
    assert [one["picture"] for one in refused] == ["train/17"]
    source = json.loads((out / "plan.record.json").read_text())["inputs"][0]
    assert source["id"] == "echo4o-sandbox/refs"
    assert len(source["revision"]) == 40


@pytest.fixture
def api(tmp_path, monkeypatch):
    with image_api(tmp_path / "api") as api:
        monkeypatch.setenv("OPENAI_BASE_URL", api.openai)
        monkeypatch.setenv("OPENAI_API_KEY", api.api_key)
        yield api


def write_shapes(root):
    """Pictures in no folder of a kind: one object, several, and none at all."""
    root.mkdir()
    prompts = [f"A photo of a {color} {shape}" for color in ("red", "blue") for shape in SHAPES[:4]]
    scenes = [f"A photo of two {color} circles and a pink bar" for color in ("red", "blue")]
    for number, prompt in enumerate([*prompts, *scenes]):
        world.paint(prompt, width=64, height=64, seed=number).save(root / f"{number:02d}.png")
    Pictures.new("RGB", (64, 64), (240, 240, 240)).save(root / "99.png")
    return root


def test_a_vision_model_classifies_what_nobody_did(tmp_path, api, capsys):
    root, out = write_shapes(tmp_path / "pool"), tmp_path / "plan"
    words = ["data", "plan", "ablation_multi_reference", "--references", str(root), "--rows", "9"]
    words += ["--references-license", "cc0-1.0", "--vlm", "sandbox-judge", "--out", str(out)]
    with pytest.raises(SystemExit):
        main([*words, "--dry-run"])
    price = re.search(r"look at 11 pictures would cost about (\S+) USD", capsys.readouterr().err)
    assert not (api.root / "openai" / "calls.jsonl").read_text()
    for _ in range(2):
        # No picture of a person: such rows cannot be planned, but everything else is told first.
        with pytest.raises(SystemExit):
            main(words)
        assert "0 human pictures" in capsys.readouterr().err
        assert bill(api)[1] == 11
    assert float(price[1]) == pytest.approx(bill(api)[0], rel=0.15)
    origin, candidates = candidates_of(str(root))
    with Questions(out, ApiSettings()) as questions:
        pool = fill_pool(
            origin, described(candidates, "sandbox-judge", questions), out, licence="cc0-1.0"
        )
    assert bill(api)[1] == 11
    kinds = [one.category for one in pool.entries]
    assert kinds == ["object"] * 8 + ["scene"] * 2
    assert pool.entries[0].constraints["label"] == "red circle"
    assert pool.entries[0].constraints["described_by"].startswith("sandbox-judge")
    assert [one["picture"] for one in pool.refused] == ["99.png"]
    assert "--vlm" in pool.refused[0]["reason"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"kind": "object", "description": "cup", "depicts_person": True}, "without `consent`"),
        ({"kind": "human", "description": "man", "depicts_person": False}, "without `consent`"),
        ({"kind": "unclear", "description": "?", "depicts_person": False}, "kind is unknown"),
        ({"kind": "object", "description": "cup"}, "without `consent`"),
        ("no json", "kind is unknown"),
        ("[" * 100_000, "kind is unknown"),
        ({"kind": "object", "description": "\x1b[2J\x00cup\u202e", "depicts_person": False}, None),
    ],
)
def test_a_person_that_the_model_sees_needs_consent(tmp_path, said, reason):
    (tmp_path / "x.png").write_bytes(picture(1))
    candidate = next(candidates_of(str(tmp_path))[1])
    text = said if isinstance(said, str) else json.dumps(said)
    told = _told(candidate, Reply(outcome="done", text=text, model="some-model"))
    origin = candidates_of(str(tmp_path))[0]
    if reason is None:
        pool = fill_pool(origin, [told], tmp_path / "plan", licence="cc0-1.0")
        assert pool.entries[0].category == "object"
        # The plan must be readable afterwards.
        assert pool.entries[0].instruction == "[2J cup"
        return
    with pytest.raises(Echo4oError, match=reason):
        fill_pool(origin, [told], tmp_path / "plan", licence="cc0-1.0")


def bill(api):
    lines = (api.root / "openai" / "calls.jsonl").read_text().splitlines()
    return sum(json.loads(line)["cost_usd"] for line in lines), len(lines)


@pytest.mark.parametrize("given", [False, True])
def test_estimate_before_the_first_call_is_the_bill(tmp_path, api, given, capsys):
    """Text, references and pictures of all subsets; references made, or given in many sizes."""
    folder = tmp_path / "plan"
    words = ["data", "plan", "echo4o_image", "--rows", "60", "--out", str(folder), *SETTINGS]
    if given:
        words += ["--references", str(write_folder(tmp_path / "pool"))]
    main([*words, "--requests-per-minute", "120", "--dry-run"])
    assert not folder.exists()
    main(words)
    record = json.loads((folder / "plan.record.json").read_text())
    expected = record["metrics"]["estimate"]
    capsys.readouterr()
    main(["data", "generate", str(folder), *SETTINGS, "--tokens-per-minute", "5000", "--dry-run"])
    said = capsys.readouterr().out
    assert f"{expected['calls']} calls of sandbox-image" in said
    assert f"at least {expected['tokens'] / 5000 / 60:.1f} hours" in said
    assert not (api.root / "openai" / "calls.jsonl").exists() or bill(api)[1] == 0
    main(["data", "generate", str(folder), *SETTINGS])
    spent, calls = bill(api)
    assert calls == expected["calls"]
    assert expected["usd"] == pytest.approx(spent, rel=0.03)
    assert sum(expected["by_subset"].values()) == pytest.approx(expected["usd"])
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        usage = [one.usage for one in ledger.entries()]
    assert sum(one["text"] for one in usage) == expected["text_tokens"]
    assert sum(one["images"] for one in usage) == expected["picture_tokens"]
    assert sum(one["output"] for one in usage) == expected["output_tokens"]


def test_given_references_reach_the_rows_without_their_camera_data(tmp_path, api):
    folder, out = tmp_path / "plan", tmp_path / "echo-4o-image"
    root = write_folder(tmp_path / "pool")
    exif = Pictures.Exif()
    exif[0x010F] = "CameraMaker"
    for path in root.rglob("*.png"):
        with Pictures.open(path) as image:
            image.save(path, exif=exif)
    words = ["data", "plan", "ablation_multi_reference", "--rows", "24", "--out", str(folder)]
    main([*words, "--references", str(root)])
    plan, _ = read_plan(folder)
    gone = next(one for one in plan.references if one.category == "human")
    (folder / "references" / f"{gone.source['sha256']}.png").unlink()
    main(["data", "generate", str(folder), *SETTINGS])
    main(["data", "build", str(folder), "--out", str(out), "--validation", "0"])
    rows = load_dataset(str(out), split="train", streaming=True).decode(False)
    built = {row["id"]: row for row in rows}
    planned = {row.id: row for row in plan.rows if gone.id not in row.references}
    assert set(built) == set(planned)
    assert 0 < len(built) < 24
    originals = {sha256_bytes(path.read_bytes()): path for path in root.rglob("*.png")}
    for row in built.values():
        hashes = [sha256_bytes(cell["bytes"]) for cell in row["input_images"]]
        registers = json.loads(row["references"])
        for cell, one in zip(row["input_images"], registers, strict=True):
            assert b"CameraMaker" not in cell["bytes"]
            with Pictures.open(originals[one["given_sha256"]]) as given:
                assert given.tobytes() == Pictures.open(io.BytesIO(cell["bytes"])).tobytes()
        assert [one["sha256"] for one in registers] == hashes
        assert all(one["licence"] == "cc-by-4.0" for one in registers)
        assert row["requested_instruction"] == planned[row["id"]].prompt
    left_out = [json.loads(line) for line in (out / "left_out.jsonl").open()]
    assert {one["reason"] for one in left_out} == {"lost reference"}
    assert {one["detail"] for one in left_out} == {
        f"references/{gone.source['sha256']}.png is missing"
    }
    main([*words, "--references", str(root)])
    assert (folder / "references" / f"{gone.source['sha256']}.png").is_file()


def test_a_changed_reference_keeps_its_rows_from_being_bought(tmp_path, api, caplog):
    folder, root = tmp_path / "plan", write_folder(tmp_path / "pool")
    words = ["data", "plan", "ablation_multi_reference", "--rows", "6", "--out", str(folder)]
    main([*words, "--references", str(root)])
    for path in (folder / "references").iterdir():
        path.unlink()
        path.write_bytes(picture(255))
    from echo4o.dataset_builder.generate import Settings, generate

    summary = generate(folder, Settings(model="sandbox-image", size="64x64"))
    assert summary.outcomes == {"no reference": 6}
    assert summary.calls == 0
    assert "does not match its hash" in caplog.text
