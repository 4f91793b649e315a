"""`echo4o sandbox paint` writes scenes that show what their metadata says."""

import json

from PIL import Image

from echo4o import cli
from echo4o.sandbox import world


def test_paint(tmp_path):
    for folder in ("a", "b"):
        cli.main(["sandbox", "paint", "--out", str(tmp_path / folder), "--count", "12"])
    lines = (tmp_path / "a" / "metadata.jsonl").read_text().splitlines()
    assert len(lines) == 12
    for row in map(json.loads, lines):
        data = (tmp_path / "a" / row["file_name"]).read_bytes()
        assert data == (tmp_path / "b" / row["file_name"]).read_bytes()
        picture = Image.open(tmp_path / "a" / row["file_name"])
        assert picture.size == (64, 64)
        findings = world.check(world.see(picture), row["constraints"]["include"])
        assert all(finding.ok for finding in findings), row["instruction"]
