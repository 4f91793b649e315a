"""A published release on this disk: changed, forged, or honestly made anew; checked in-process."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from echo4o.manifest import MANIFEST, SIGNATURE, Release, read_manifest, seal
from echo4o.records import RunRecord, sha256_file
from echo4o.release.table import Table
from echo4o.release.uses import check_model_card, check_results, check_scores
from echo4o.release.verify import Target, check_repo

FIGURES = Path(__file__).parents[2] / "benchmarks/results/release.json"
COMMAND = [sys.executable, "-m", "echo4o.cli", "release", "rehearse", "--quick", "--out"]
KINDS = {
    "weights": r"^[^/]*/model/.*\.safetensors$",
    "parquet": r"--echo-4o-image[^/]*/data/.*\.parquet$",
    "card": r"/README\.md$",
    "record": r"/record\.json$",
    "verdicts": r"/runs/.*/run\.json$|/data/verdicts/.*\.parquet$",
    "manifest": r"/release\.json$",
    "Space": r"^spaces--.*\.(py|txt|css)$",
}


def note(**figures):
    """Add figures to the results file."""
    before = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    FIGURES.write_text(json.dumps(before | figures, indent=1, sort_keys=True) + "\n")


def rehearse(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a quick rehearsal."""
    return subprocess.run(
        [*COMMAND, str(out), *options], capture_output=True, text=True, timeout=850
    )


def files_of(repos: Path) -> dict[str, list[Path]]:
    """The files of each kind in the downloaded repos."""
    names = [p for p in sorted(repos.rglob("*")) if p.is_file() and ".cache" not in p.parts]
    return {
        kind: [p for p in names if re.search(pattern, p.relative_to(repos).as_posix())]
        for kind, pattern in KINDS.items()
    }


def target_of(folder: Path, *, pinned: bool) -> Target:
    """The repo that a downloaded folder is of."""
    manifest = read_manifest(folder)
    sha256 = sha256_file(folder / MANIFEST) if pinned else None
    return Target(manifest.type, manifest.repo, None, sha256)


def copy_repo(folder: Path, target: Path) -> Path:
    """A copy whose files may be changed without touching the original."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(".cache"), copy_function=os.link)
    return target


def write(path: Path, data: bytes) -> None:
    """Replace a file; never through a link."""
    path.unlink()
    path.write_bytes(data)


def change_one(data: bytes, draw: random.Random) -> bytes:
    """One byte, or one digit of a number, becomes another."""
    digits = [m.start() for m in re.finditer(rb"\d", data[:1_000_000])]
    if digits and draw.random() < 0.5:
        place = draw.choice(digits)
        new = draw.choice([d for d in b"0123456789" if d != data[place]])
    else:
        place = draw.randrange(len(data))
        new = draw.choice([b for b in range(256) if b != data[place]])
    return data[:place] + bytes([new]) + data[place + 1 :]


def forge(folder: Path, name: str, key: Path | None, kept: Path) -> None:
    """Make everything fit a changed file: records, manifest, and a signature by another key."""
    for record_file in folder.rglob("record.json"):
        record = RunRecord.load(record_file)
        files = {
            one: sha256_file(record_file.parent / one)
            for one in record.files
            if (record_file.parent / one).is_file()
        }
        if files != record.files and name != "record.json":
            record_file.unlink()
            replace(record, files=files).save(record_file.parent)
    old = read_manifest(folder)
    release = Release(
        name=old.release,
        version=old.version,
        after=old.after,
        packages=old.packages,
        key=None if key is None else str(key),
        kept=str(kept),
    )
    for one in (MANIFEST, SIGNATURE):
        (folder / one).unlink()
    seal(folder, old.repo, old.type, release)


def check_all(results: Path, model: Path, key: Path) -> Table:
    """What verification finds in a results and a model repo without a Hub."""
    table = Table()
    for folder in (results, model):
        check_repo(folder, target_of(folder, pinned=True), key, table)
    made_by = read_manifest(model).made_by
    runs = check_results(results, "results", table, made_by=made_by)
    check_model_card(model, "model", read_manifest(model).repo, table, made_by=made_by)
    assert check_scores(model, "model", runs, table, made_by=made_by)
    return table


def honest(repos: Path, out: Path, draw: random.Random, key: Path) -> tuple[Path, Path]:
    """Results and model of another release: other verdicts, scores, card; all by our own verbs."""
    from echo4o.cli import run_verb
    from echo4o.eval.results_repo import _stage
    from echo4o.eval.runs import load_run, save_run

    old_results = next(repos.glob("datasets--*results*"))
    old_model = next(p for p in repos.iterdir() if (p / "model_index.json").is_file())
    shutil.rmtree(out, ignore_errors=True)
    results, model = out / "results", copy_repo(old_model, out / "model")
    shutil.rmtree(model / "scores")
    (results / "data").mkdir(parents=True)
    (results / "README.md").write_bytes((old_results / "README.md").read_bytes())
    words = []
    for number, file in enumerate(sorted(old_results.glob("runs/*/run.json"))):
        run = load_run(file)
        verdicts = tuple(
            replace(
                one,
                correct=flag,
                findings=tuple(replace(f, satisfied=flag) for f in one.findings),
            )
            if one.outcome == "judged"
            else one
            for one in run.verdicts
            for flag in [draw.random() < 0.5]
        )
        run = replace(run, verdicts=verdicts)
        _stage(run, results, pictures=False, has_texts=draw.random() < 0.5)
        short = model / "scores" / f"run-{number}"
        short.mkdir(parents=True)
        save_run(run, short)
        told = json.loads((short / "run.json").read_bytes())
        del told["verdicts"]
        (short / "run.json").write_text(json.dumps(told))
        words += ["--eval", str(short)]
    (model / "README.md").unlink()
    repo = read_manifest(old_model).repo
    run_verb("card", "render", ["model", str(model), "--repo", repo, *words])
    release = Release(
        name="honest", version="v9", packages={}, key=str(key), kept=str(out / "kept")
    )
    seal(results, "org/results", "dataset", release)
    seal(model, repo, "model", release)
    return results, model
