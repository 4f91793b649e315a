"""The authors' data as files of this machine: pinned, checked, read without running anything."""

import hashlib
import http.server
import json
import threading
from functools import partial

import pytest

from echo4o.cli import main
from echo4o.errors import Echo4oError
from echo4o.eval import wording
from echo4o.eval.fetch import fetch_task
from echo4o.eval.script_text import read_wording
from echo4o.eval.tasks import get_task
from echo4o.eval.wording import SOURCES, Source, load_wording

SYSTEM = 'You look closely.\n\nReply:\n{\n  "correct": 1 or 0\n}\n'
FLAGS = "Asked:\n{instruction}\n\nList {{1}}:\n{checklist}"
POINTS = 'Mark it (0\u201310).\n\nASKED: "{instruction}"  \nMEANT: "{note}"  \n\nNow:\n'
# Each is a way to put the same two texts together; SYSTEM, HEAD, MID and TAIL are literals.
SHAPES = {
    "f-string in place": """
def process_sample(sample, image):
    prompt = sample["prompt"].strip()
    extra = build(sample)
    encoded = encode(image)
    return client.chat.completions.create(model="m", messages=[
        {{"role": "system", "content": {system}}},
        {{"role": "user", "content": [
            {{"type": "text", "text": f{fstring}}},
            {{"type": "image_url", "image_url": {{"url": f"data:image/jpeg;base64,{{encoded}}"}}}},
        ]}},
    ])
""",
    "constants and a name": """
SYSTEM_PROMPT = {system}
def evaluate(item, path):
    instruction, note = item["instruction"], item["note"]
    user_prompt = f{fstring_2}
    messages = [
        {{"role": "system", "content": [{{"type": "text", "text": SYSTEM_PROMPT}}]}},
        {{"role": "user", "content": [{{"type": "text", "text": user_prompt}}, picture(path)]}},
    ]
    return ask(messages)
""",
    "template and format": """
import os
TEMPLATE = {template}
class Judge:
    system: str = "never this"
    def ask(self, row):
        system_message = {system}
        text = TEMPLATE.format(first=row.prompt, second=row.more)
        content = [dict(type="text", text="no"), {{"type": "text", "text": text}}]
        return [dict(role="system", content=system_message), dict(role="user", content=content)]
""",
    "pieces": """
HEAD = {head}
def user_text(a, b):
    text = HEAD + a
    text += {mid} + b
    return text + {tail}
def messages(row):
    return [{{"role": "system", "content": {system}}},
            {{"role": "user", "content": user_text(row["a"], row["b"])}}]
""",
    "replace": """
RUBRIC = {replaced}.strip("#")
def messages(row):
    filled = RUBRIC.replace("<A>", row.a).replace("<B>", row.b)
    return [{{"role": "system", "content": {system}}},
            {{"role": "user", "content": [{{"type": "text", "text": filled}}]}}]
""",
    "parameters and a class": """
import textwrap
class Words:
    system = {system}
def ask(system, question, image, retries=3):
    for attempt in range(retries):
        messages = [{{"role": "system", "content": system}}, {{"role": "user", "content": [
            {{"type": "text", "text": question}}, {{"type": "image_url", "image_url": image}}]}}]
        send(messages)
def main():
    for row in rows:
        checked = check(row)
        question = f{fstring_3}
        ask(Words.system, textwrap.dedent(question), row.image)
""",
    "methods and lists that grow": """
class Judge:
    def __init__(self, key):
        self.system_prompt = {system}
    def create_prompt(self, a, b):
        return f{fstring_4}
    def ask(self, item, url):
        prompt = self.create_prompt(item["a"], item["b"])
        messages = []
        content = []
        content.append({{"type": "text", "text": prompt}})
        content.append({{"type": "image_url", "image_url": {{"url": url}}}})
        messages.append({{"role": "system", "content": self.system_prompt}})
        messages.append({{"role": "user", "content": content}})
""",
    "percent": """
def messages(row):
    return [{{"role": "system", "content": {system}}},
            {{"role": "user", "content": {percent} % (row.a, row.b)}}]
""",
}


def script(shape, system, user, holes):
    """A script that says `system` and `user` in one of the shapes; running it would end badly."""
    head, rest = user.split("{" + holes[0] + "}")
    mid, tail = rest.split("{" + holes[1] + "}")
    braces = [part.replace("{", "{{").replace("}", "}}") for part in (head, mid, tail)]
    text = SHAPES[shape].format(
        system=repr(system),
        fstring=repr(f"{braces[0]}{{prompt}}{braces[1]}{{extra}}{braces[2]}"),
        fstring_2=repr(f"{braces[0]}{{instruction}}{braces[1]}{{note}}{braces[2]}"),
        fstring_3=repr(f"{braces[0]}{{row.prompt}}{braces[1]}{{checked}}{braces[2]}"),
        fstring_4=repr(f"{braces[0]}{{a}}{braces[1]}{{b}}{braces[2]}"),
        template=repr(f"{braces[0]}{{first}}{braces[1]}{{second}}{braces[2]}"),
        head=repr(head),
        mid=repr(mid),
        tail=repr(tail),
        replaced=repr(f"##{head}<A>{mid}<B>{tail}##"),
        percent=repr("%s".join(part.replace("%", "%%") for part in (head, mid, tail))),
    )
    return f"import missing_module\nraise SystemExit('this was run')\n{text}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("user", "holes"),
    [(FLAGS, ("instruction", "checklist")), (POINTS, ("instruction", "note"))],
    ids=["flags", "points"],
)
def test_wording_is_read_whatever_the_shape(shape, user, holes):
    found = read_wording(script(shape, SYSTEM, user, holes), holes)
    assert found.system == SYSTEM
    assert found.user == user


@pytest.mark.shared
@pytest.mark.parametrize("task", SOURCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_authors_wording_comes_out_as_recorded(shared, task, shape):
    recorded = json.loads((shared / "benchmarks" / "protocols" / f"{task}.json").read_text())
    holes = SOURCES[task].holes
    found = read_wording(script(shape, recorded["system"], recorded["user"], holes), holes)
    assert found.system == recorded["system"]
    assert found.user == recorded["user"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "def (",
        "x = 1\n" * 10,
        "a" + "(" * 9000,
        "\0",
        'm = [{"role": "user", "content": "no hole"}]',
    ],
)
def test_other_scripts_are_refused(text):
    with pytest.raises(Echo4oError, match="the authors' script"):
        read_wording(text, ("instruction", "note"))


def test_texts_of_items_cannot_open_other_holes():
    words = wording.Wording(system="s", user="{instruction}|{note}|{other}")
    assert words.fill({"instruction": "{note}", "note": "{{x}}"}) == "{note}|{{x}}|{other}"


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """A repository of the authors' layout with our own words, and where its files should go."""
    monkeypatch.setenv("ECHO4O_BENCHMARKS", str(tmp_path / "data"))
    folder = tmp_path / "origin" / "test_scripts"
    folder.mkdir(parents=True)
    row = {"id": 7, "instruction": "A glass kite", "note": "It is of glass.", "type": "MATERIAL"}
    items = json.dumps(row).encode() + b"\n"
    text = script("constants and a name", SYSTEM, POINTS, ("instruction", "note")).encode()
    (folder / "Imagine.jsonl").write_bytes(items)
    (folder / "judge+.py").write_bytes(text)
    source = Source(
        items="Imagine.jsonl",
        items_sha256=hashlib.sha256(items).hexdigest(),
        script="judge+.py",
        script_sha256=hashlib.sha256(text).hexdigest(),
        holes=("instruction", "note"),
    )
    monkeypatch.setitem(SOURCES, "imagine_bench", source)
    return tmp_path / "origin"


def test_fetched_data_is_used_from_then_on(origin, tmp_path, capsys):
    task = get_task("imagine_bench")
    for missing in (lambda: task.items("authors"), lambda: task.protocol("paper")):
        with pytest.raises(Echo4oError, match="echo4o eval fetch imagine_bench"):
            missing()
    main(["eval", "fetch", "imagine_bench", "--from", str(origin)])
    assert "imagine_bench          1 items" in capsys.readouterr().out
    assert load_wording("imagine_bench").user == POINTS
    item = task.items("authors").items[0]
    assert (item.number, item.tag, item.prompt) == (7, "MATERIAL", "A glass kite")
    asked = task.protocol("paper").question(item)
    assert asked.text == POINTS.format(instruction="A glass kite", note="It is of glass.")
    (tmp_path / "data" / "Imagine.jsonl").write_text("{}")
    with pytest.raises(Echo4oError, match="has SHA-256"):
        task.items("authors")
    for text in ("{", "[]", '{"system": "s", "user": "no hole"}'):
        (tmp_path / "data" / "protocols" / "imagine_bench.json").write_text(text)
        with pytest.raises(Echo4oError, match="run `echo4o eval fetch`"):
            task.protocol("strict")


def test_fetch_over_http_and_what_it_refuses(origin, tmp_path):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(origin))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        assert fetch_task("imagine_bench", address).items == 1
        with pytest.raises(Echo4oError, match=r"cannot be read .*--from FOLDER"):
            fetch_task("geneval_plus_plus", address)
        server.shutdown()
    with pytest.raises(Echo4oError, match=r"no test_scripts/Geneval\+\+.jsonl in"):
        fetch_task("geneval_plus_plus", str(origin))
    with (origin / "test_scripts" / "judge+.py").open("a") as file:
        file.write("#")
    with pytest.raises(Echo4oError, match=r"judge\+.py from .* has SHA-256"):
        fetch_task("imagine_bench", str(origin))


@pytest.mark.shared
def test_pins_are_the_recorded_ones(shared):
    recorded = json.loads((shared / "benchmarks" / "sources.json").read_text())
    assert recorded["commit"] == wording.COMMIT
    assert recorded["repository"].endswith(wording.REPOSITORY)
    for source in SOURCES.values():
        for name, digest in (
            (source.items, source.items_sha256),
            (source.script, source.script_sha256),
        ):
            assert recorded["files"][f"test_scripts/{name}"]["sha256"] == digest
