"""`Echo4oImage`, the importable replacement of a loading script."""

import authors_layout as layout
import pytest

from echo4o.dataset_builder import Echo4oImage
from echo4o.errors import Echo4oError
from echo4o.schema import features


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("builder")
    layout.write_t2i(root, rows=4)
    layout.write_collection(root, [[0, 1], [1, 0]], pool=2)
    return root


def test_download_and_prepare(release, tmp_path):
    builder = Echo4oImage(data_dir=str(release), cache_dir=str(tmp_path))
    builder.download_and_prepare(num_proc=2)
    rows = builder.as_dataset("train")
    assert rows.features == features()
    assert len(rows) == 6
    assert {row["output_image"].size for row in rows} == {(24, 16)}


def test_a_changed_folder_is_read_anew(tmp_path):
    found = []
    for rows in (2, 3):
        layout.write_t2i(tmp_path / "r", rows=rows)
        builder = Echo4oImage(data_dir=str(tmp_path / "r"), cache_dir=str(tmp_path / "c"))
        builder.download_and_prepare()
        found.append(len(builder.as_dataset("train")))
    assert found == [2, 3]


def test_streaming_over_several_workers_gives_every_row_once(release, tmp_path):
    from torch.utils.data import DataLoader

    builder = Echo4oImage(data_dir=str(release), cache_dir=str(tmp_path))
    rows = builder.as_streaming_dataset("train").decode(False)
    assert rows.num_shards == 2
    ids = [row["id"] for row in DataLoader(rows, num_workers=2, batch_size=None)]
    assert len(ids) == len(set(ids)) == 6


def test_streaming_of_one_subset(release, tmp_path):
    builder = Echo4oImage(
        config_name="multi_reference", data_dir=str(release), cache_dir=str(tmp_path)
    )
    rows = list(builder.as_streaming_dataset("train").decode(False))
    assert [[one["bytes"] for one in row["input_images"]] for row in rows] == [
        [layout.picture(1000), layout.picture(1001)],
        [layout.picture(1001), layout.picture(1000)],
    ]


def test_parquet_of_ones_own(release, tmp_path):
    builder = Echo4oImage(
        config_name="instruction_following", data_dir=str(release), cache_dir=str(tmp_path / "c")
    )
    builder.download_and_prepare(str(tmp_path / "out"), file_format="parquet")
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 1


def test_two_pictures_of_one_name_are_an_error(release, tmp_path):
    members = [("00000.jpg", layout.picture(1)), ("./00000.jpg", layout.picture(2))]
    layout.write_t2i(tmp_path / "r", rows=1)
    layout.write_tar(tmp_path / "r" / layout.INSTRUCTION / "images" / "0-5000.tar.gz", members)
    builder = Echo4oImage(data_dir=str(tmp_path / "r"), cache_dir=str(tmp_path))
    with pytest.raises(Echo4oError, match=r"two different pictures are called images/00000\.jpg"):
        list(builder.as_streaming_dataset("train"))


def test_a_subset_that_is_not_there_is_one_sentence(tmp_path):
    layout.write_nano(tmp_path / "nano")
    options = {"data_dir": str(tmp_path / "nano"), "cache_dir": str(tmp_path / "c")}
    with pytest.raises(Echo4oError, match="no rows of surreal_fantasy; it has multi_reference"):
        Echo4oImage(config_name="surreal_fantasy", **options).as_streaming_dataset("train")


def test_no_folder_is_one_sentence(tmp_path):
    with pytest.raises(Echo4oError, match="needs data_dir"):
        Echo4oImage(cache_dir=str(tmp_path)).as_streaming_dataset("train")
