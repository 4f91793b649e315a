"""What `card check` finds, what it lets through, and the project's own claims and texts."""

import re
from pathlib import Path

import pytest

from echo4o.cli import VERBS
from echo4o.model_cards.check import Claim, ClaimsError, check_card, load_claims
from echo4o.model_cards.gather import space_facts
from echo4o.model_cards.metric_parts import metric_facts
from echo4o.model_cards.render import CardError, render_metric_card, render_space_card

ROOT = Path(__file__).parents[2]
CLAIMS = {
    "fast": Claim(id="fast", text="t", command="c", commit="abc", machine="m", status="verified"),
    "hub": Claim(id="hub", text="t", command="c", commit=None, machine=None, status="unverified"),
    "no": Claim(id="no", text="t", command="c", commit=None, machine=None, status="unsupported"),
}
MATTER = "---\nlicense: mit\nlibrary_name: echo4o\npipeline_tag: text-to-image\ntags: [a]\n---\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A [More Information Needed] here.", "placeholder"),
        ("Trained for None steps.", "placeholder"),
        ("Score: nan", "placeholder"),
        ("TODO write this", "placeholder"),
        ("Hello {{ name }}", "placeholder"),
        ("See [the data]().", "its address is empty"),
        ("See [the data](missing.md).", "'missing.md', which is not there"),
        ("![p](missing.png)", "'missing.png', which is not there"),
        ("```python\nif:\n```", "does not parse"),
        ("It is 3.5x faster.", "names no claim"),
        ("Right in 70 % of cases.", "names no claim"),
        ("Good. <!-- claim: never -->", "not in claims.yaml"),
        ("Good. <!-- claim: no -->", "known not to hold"),
        ("Good. <!-- claim: hub -->", "must say so"),
    ],
)
def test_finds(text, words, tmp_path):
    problems = check_card(text, folder=tmp_path, claims=CLAIMS)
    assert len(problems) == 1
    assert words in problems[0]


@pytest.mark.parametrize(
    "text",
    [
        "Fine, with `None` and `{{ x }}` as code, a nanometre and [a link](https://example.org).",
        "Right in 70 % of cases. <!-- claim: fast -->",
        "Works on the real Hub (unverified). <!-- claim: hub -->",
        "```bash\necho [x]() 70 %\n```",
        "[here](#below)",
    ],
)
def test_lets_through(text, tmp_path):
    assert check_card(text, folder=tmp_path, claims=CLAIMS) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no matter", "no front matter"),
        ("---\n- a\n---\n", "must be a mapping"),
        ("---\na: [\n---\n", "not YAML"),
        (MATTER.replace("license: mit\n", ""), "no `license`"),
        (MATTER.replace("tags: [a]\n", ""), "lacks `tags`"),
        (MATTER.replace("tags: [a]", "tags: [a]\nmodel-index: 3"), "cannot read"),
    ],
)
def test_front_matter(text, words):
    assert any(words in problem for problem in check_card(text, repo_type="model"))
    assert check_card(MATTER, repo_type="model") == []


@pytest.mark.parametrize(
    "text",
    [
        "a: 1",
        "- {id: a}",
        "- [",
        "- {id: a, text: t, command: c, commit: null, machine: null, status: maybe}",
        "- {id: a, text: t, command: c, commit: null, machine: m, status: verified}",
        "- &x {id: a, text: t, command: c, commit: null, machine: null, status: unverified}\n- *x",
    ],
)
def test_bad_claims_are_refused(text, tmp_path):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(ClaimsError):
        load_claims(tmp_path / "claims.yaml")


def test_our_own_claims_and_texts():
    claims = load_claims(ROOT / "claims.yaml")
    assert len(claims) >= 8
    pages = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md")]
    assert len(pages) >= 7
    for page in pages:
        assert check_card(page.read_text(), folder=page.parent, claims=claims) == [], page


def test_the_command_of_every_claim_exists():
    """A file, a target of the Makefile or a verb; so does each result that a page names."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for claim in load_claims(ROOT / "claims.yaml").values():
        words = claim.command.split()
        files = [word for word in words if re.match(r"(tests|benchmarks|training|eval)/", word)]
        assert all((ROOT / name).exists() for name in files), claim
        if words[0] == "make":
            assert words[1] in targets, claim
        elif words[0] == "echo4o":
            assert words[2] in VERBS[words[1]], claim
        else:
            assert files, claim
    page = (ROOT / "benchmarks/README.md").read_text()
    for command in re.findall(r"`(?:python|pytest) ([^`]*)`", page):
        files = [word for word in command.split() if word.endswith(".py")]
        assert all((ROOT / name).exists() for name in files), command


@pytest.mark.parametrize("folder", sorted((ROOT / "spaces").glob("*/")), ids=lambda f: f.name)
def test_readme_of_a_space_is_its_own_rendering(folder):
    text = (folder / "README.md").read_text()
    assert check_card(text, folder=folder, repo_type="space") == []
    assert text == render_space_card(space_facts(folder))


@pytest.mark.parametrize("folder", sorted((ROOT / "eval/metrics").glob("*/")), ids=lambda f: f.name)
def test_readme_of_a_metric_is_its_own_rendering(folder, tmp_path):
    """Description and snippet are the page's, judge and citation the module's."""
    text = (folder / "README.md").read_text()
    assert check_card(text, folder=folder, repo_type="space") == []
    assert text == render_metric_card(metric_facts(folder))
    published = render_metric_card(metric_facts(folder, repo_id=f"acme/{folder.name}"))
    assert f'evaluate.load("acme/{folder.name}")' in published
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(CardError, match="0 `evaluate` modules"):
        metric_facts(tmp_path)
