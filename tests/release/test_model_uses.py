"""A model of any kind is loaded by its own pipeline and served through its own `handler.py`."""

import pytest
from tiny_blip3o import make_blip3o
from tiny_omnigen2 import make_omnigen2

from echo4o.models.endpoint import write_handler
from echo4o.release.model_uses import check_model
from echo4o.release.table import Table


@pytest.mark.parametrize(
    ("make", "kind"),
    [(make_omnigen2, "OmniGen2Pipeline"), (lambda: make_blip3o(direct=True), "Blip3oPipeline")],
    ids=["omnigen2", "blip3o"],
)
def test_another_kind_of_model_is_loaded_and_served(tmp_path, make, kind):
    made = make()
    made.save_pretrained(tmp_path)
    write_handler(tmp_path, "echo4o")
    table = Table()
    pipe = check_model(tmp_path, "m", table)
    assert not table.bad_rows, table.lines()
    assert type(pipe).__name__ == kind
    found = {row.check: row.found for row in table.rows}
    count = made.transformer.num_parameters()
    assert found["from_pretrained"] == f"{kind}, {count:,} parameters"
    assert "handler.py answers" in found


def test_a_kind_that_echo4o_does_not_know_is_told_in_a_sentence(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    table = Table()
    assert check_model(tmp_path, "m", table) is None
    assert [row.check for row in table.bad_rows] == ["from_pretrained"]
    assert table.bad_rows[0].found.startswith("FluxPipeline is none of the pipelines of echo4o")
