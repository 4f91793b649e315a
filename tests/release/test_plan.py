"""RELEASE.toml, and what a verification is told to look at."""

import json
from pathlib import Path

import pytest

from echo4o.errors import Echo4oError
from echo4o.manifest import Pinned, Release, seal
from echo4o.records import sha256_file
from echo4o.release.plan import Plan
from echo4o.release.verify import read_targets
from echo4o.rights import Rights

TOML = '[release]\nname = "n"\nversion = "v1"\n'


OTHER = "[model]\nfolder = 'omnigen2'\nrepo = 'a/b'\n"
FLUX = OTHER.replace("omnigen2", "flux")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "unknown table"),
        ("= 1", "cannot be read"),
        ("[[items]]\ntask = 't'\nrepo = 'a/b'", "no table [release]"),
        (TOML, "nothing to publish"),
        ("\ufeff" + TOML, "nothing to publish"),  # an editor of Windows writes that first
        (TOML + "[dataset]\nfolder = 'gone'\nrepo = 'a/b'", "not there"),
        (TOML + "[dataset]\nfolder = '.'\nrepo = 'a/b'", "unsigned"),
        (TOML + "[dataset]\nfolder = '.'\nrepo = 'ab'\n[rights]", "ORG/NAME"),
        (TOML + "[dataset]\nrepo = 'a/b'", "no `folder`"),
        (TOML + "[model]\nfolder = '.'\nrepo = 'a/b'\nruns = 'x'", "`runs` cannot be 'x'"),
        (TOML + "[items]\ntask = 't'", "two brackets"),
        (TOML + "[[spaces]]\nname = 'generate'\nrepo = 'a/b'", "shall load"),
        (TOML + "[[spaces]]\nname = 'nope'\nrepo = 'a/b'", "no Space 'nope'"),
        (TOML + "[[items]]\ntask='t'\nrepo='a/b'\n[[items]]\ntask='u'\nrepo='a/b'", "twice"),
        (TOML + "wheel='https://h/echo4o-1-py3-none-any.whl'\n[metrics]\norganisation='a'", "hash"),
        (TOML + OTHER + "authors_layout = 'a/c'", "`authors_layout` is for models of Echo4oPipel"),
        (
            TOML + OTHER + "[[spaces]]\nname = 'generate'\nrepo = 'a/s'",
            "shows models of Echo4oPipe",
        ),
        (TOML + FLUX, "a model of FluxPipeline; known are Echo4oPipeline"),
    ],
)
def test_a_plan_is_refused_in_a_sentence(tmp_path, text, words):
    for name, kind in (("omnigen2/model", "OmniGen2Pipeline"), ("flux", "FluxPipeline")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text(f'{{"_class_name": "{kind}"}}')
    file = tmp_path / "RELEASE.toml"
    file.write_text(text)
    with pytest.raises(Echo4oError) as error:
        Plan.load(file)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_targets_are_addresses_or_the_published_list(tmp_path):
    one = Pinned(id="a/b", type="dataset", revision="1" * 40, manifest="2" * 64)
    file = tmp_path / "published.json"
    repo = {"id": one.id, "type": one.type, "revision": one.revision, "manifest": one.manifest}
    file.write_text(json.dumps({"repos": [repo], "collection": "a/c-1"}))
    targets, collection = read_targets([str(file), "spaces/a/d@v1", "a/m"])
    assert [tuple(t) for t in targets] == [
        ("dataset", "a/b", "1" * 40, "2" * 64),
        ("space", "a/d", "v1", None),
        ("model", "a/m", None, None),
    ]
    assert collection == "a/c-1"
    for wrong in ("a", "x/y/z/w", "http://a/b", str(tmp_path)):
        with pytest.raises(Echo4oError, match="no file and no repo"):
            read_targets([wrong])
    release = Release(name="n", version="v2", packages={}, after=(one,))
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/README.md").write_text("# A")
    seal(tmp_path / "repo", "a/m", "model", release)
    given = tmp_path / "repo/release.json"
    assert read_targets([str(given)]) == ([("model", "a/m", "v2", sha256_file(given))], None)
    wrong_list = ('{"repos": [{"id": "../x"}]}', "[" * 100_000, '{"repos": [], "collection": [1]}')
    for text in wrong_list:
        file.write_text(text)
        with pytest.raises(Echo4oError, match="no list"):
            read_targets([str(file)])


def test_the_papers_release_is_refused_until_it_is_made_and_signed(tmp_path):
    file = Path(__file__).parents[2] / "releases/echo4o.toml"
    copy = tmp_path / "releases" / file.name
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    with pytest.raises(Echo4oError, match="echo-4o-image, which is not there"):
        Plan.load(copy)
    for name in ("echo-4o-image", "scores", "run"):
        (tmp_path / name).mkdir()
    plan = Plan.load(copy)
    assert plan.loaded(plan.spaces[1]) == {
        "dataset": "Yejy53/Echo-4o-Image",
        "results": "Yejy53/Echo-4o-results",
    }
    with pytest.raises(Echo4oError, match="terms_read"):
        Rights.load(copy)
