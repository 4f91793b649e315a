"""`datasets` 4.0.0, the oldest supported reader, loads every config from its own environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import authors_layout as layout
import pytest
from hub_server import HubServer
from rights_file import write_release

from echo4o.dataset_builder import import_release
from echo4o.records import sha256_bytes
from echo4o.schema import CONFIGS

READ = """
import json, sys
import datasets, hashlib
assert datasets.__version__ == "4.0.0"
found = {}
for config in sys.argv[2].split(","):
    for streaming in (False, True):
        loaded = datasets.load_dataset(sys.argv[1], config, streaming=streaming)
        for split, rows in loaded.items():
            first = next(iter(rows))
            assert first["output_image"].size[0] > 0
            names = ("output_image", "input_images")
            plain = rows.cast_column("output_image", datasets.Image(decode=False))
            hashes = [hashlib.sha256(row["output_image"]["bytes"]).hexdigest() for row in plain]
            counts = [len(row["input_images"]) for row in rows]
            found[f"{config} {split} {streaming}"] = [hashes, counts]
print(json.dumps(found))
"""
# What `datasets` 4.0.0 was released beside, so that it gets the libraries that it knows.
PACKAGES = ["datasets==4.0.0", "pyarrow==21.0.0", "huggingface_hub<1", "pillow<13", "pandas<3"]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a fresh environment with that version."""
    place = tmp_path_factory.mktemp("oldest") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    pip = [place / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, *PACKAGES], check=True, timeout=400)
    return place / "bin" / "python"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    for subset in (layout.INSTRUCTION, layout.SURREAL):
        layout.write_t2i(root / "release", subset, rows=6)
    layout.write_collection(root / "release", [[0, 1], [1, 2, 0], [2], [0, 2, 1, 3]], pool=4)
    import_release(str(root / "release"), root / "echo-4o-image", validation=3)
    return root / "echo-4o-image"


def read(python, place, **environment):
    done = subprocess.run(
        [python, "-c", READ, str(place), ",".join(CONFIGS)],
        env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_every_config_loads_from_the_folder_and_from_the_hub(python, dataset, tmp_path):
    local = read(python, dataset, HF_HOME=str(tmp_path / "home"))
    assert {name.split()[0] for name in local} == set(CONFIGS)
    hashes = {
        digest for name, (found, _) in local.items() if name.startswith("all") for digest in found
    }
    wanted = [layout.picture(n) for n in range(6)] + [layout.picture(2000 + n) for n in range(4)]
    assert hashes == {sha256_bytes(data) for data in wanted}
    assert all(local[name.replace("False", "True")] == local[name] for name in local)
    server = HubServer(tmp_path / "hub")
    try:
        home = tmp_path / "pushing"
        script = "import sys; from echo4o.cli import main; main(['data', 'push', *sys.argv[1:]])"
        words = [str(dataset), "rehearsal/oldest", "--rights", str(write_release(tmp_path))]
        server.run(script, home, *words)
        environment = server.environment(tmp_path / "home 2")
        remote = read(python, "rehearsal/oldest", **environment)
    finally:
        server.stop()
    assert remote == local
    figures = {"datasets": "4.0.0", "configs": sorted(CONFIGS), "readings": len(local) * 2}
    results = Path(__file__).parents[2] / "benchmarks" / "results" / "oldest_reader.json"
    results.write_text(json.dumps(figures, indent=1) + "\n")
    print(figures)
