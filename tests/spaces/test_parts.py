"""Parts of the demo that need no page: limits, checks of contents, links, costs, the judge."""

import os
import threading
import time

import gradio as gr
import pytest
from PIL import Image
from starlette.requests import Request


@pytest.fixture(autouse=True)
def uploads(tmp_path, monkeypatch):
    """A folder of uploads for this test."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def test_a_visitor_is_limited_and_others_are_not(module):
    limits, now = module("limits"), [0.0]
    rate = limits.RateLimit(2, clock=lambda: now[0])
    rate.spend("one")
    rate.spend("one")
    with pytest.raises(limits.Refusal, match=r"2 requests within an hour.*possible in 61 minutes"):
        rate.spend("one")
    rate.spend("other")
    now[0] = 3600
    rate.spend("one")
    free = limits.RateLimit(0)
    for _ in range(100):
        free.spend("one")


@pytest.mark.parametrize(
    ("noted", "who"),
    [
        ("9.9.9.9, 10.0.0.3", "9.9.9.9"),
        ("1.1.1.1, 8.8.8.8", "8.8.8.8"),  # the first is what the visitor wrote
        ("rubbish", "10.1.2.3"),
        ("", "10.1.2.3"),
    ],
)
def test_hosted_visitors_are_told_apart_behind_a_proxy(module, monkeypatch, noted, who):
    limits = module("limits")
    monkeypatch.setattr(limits, "HOSTED", True)
    headers = [(b"x-forwarded-for", noted.encode())]
    scope = {"type": "http", "headers": headers, "client": ("10.1.2.3", 1)}
    assert limits.visitor(gr.Request(request=Request(scope))) == who


def test_old_files_are_swept_and_young_ones_stay(module, uploads):
    files = module("files")
    old, young = uploads / "a" / "old.png", uploads / "b" / "young.png"
    for path in (old, young):
        path.parent.mkdir()
        path.write_bytes(b"x")
    hour_ago = time.time() - 3700
    os.utime(old, (hour_ago, hour_ago))
    assert files.sweep(uploads) == 1
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize(
    ("prompt", "is_fine"),
    [
        ("a cube-shaped football", True),
        ("a naked mole rat, sexy", False),
        ("a nude child", False),
        ("Naked LUNCH on a table", False),
        ("a bare tree in Essex", True),
        ("children playing football", True),
        ("gory scene", False),
    ],
)
def test_prompts_pass_rules(module, prompt, is_fine):
    safety = module("safety")
    if is_fine:
        safety.check_words(prompt)
    else:
        with pytest.raises(safety.Refusal, match="not made here"):
            safety.check_words(prompt)


def test_pictures_pass_a_classifier_or_nothing_is_made(module, classifier, tmp_path):
    safety = module("safety")
    check = safety.PictureCheck(str(classifier))
    check._load()
    picture = Image.new("RGB", (30, 20), "white")
    assert check.passes(picture)
    with_bias(check._model, nsfw=2.0)
    assert not check.passes(picture)
    broken = safety.PictureCheck(str(tmp_path))
    with pytest.raises(OSError, match="preprocessor_config"):
        broken._load()
    with pytest.raises(safety.Refusal, match="could not be loaded, so nothing is made"):
        broken.passes(picture)


def with_bias(model, nsfw):
    import torch

    with torch.no_grad():
        model.classifier.bias[1] = nsfw


def test_links_restore_and_nonsense_in_them_is_left_out(module):
    restore = module("restore")
    values = restore.Values("a <b> & ü", "Wide 16:9", 3, 7, "Quality", 49, 2.5, True)
    from urllib.parse import parse_qsl

    query = dict(parse_qsl(restore.link(values).removeprefix("?")))
    assert restore.from_link(query) == values
    bad = {"prompt": "x" * 5000, "seed": "-9", "steps": "many", "aspect": "<b>", "guidance": "nan"}
    assert restore.from_link(bad) is None
    assert restore.from_link({"utm_source": "x"}) is None


def test_costs_are_learned(module):
    cost, engine = module("cost"), module("engine")
    known = cost.CostModel(7_000_000_000, rate=cost.GPU_RATE)
    fast = engine.Job("", (), engine.Settings(1024, 1024, 25, 4.0), (1,))
    full = fast._replace(settings=engine.Settings(1024, 1024, 49, 4.0, fast=False))
    assert known.seconds(full, 16) > 3 * known.seconds(fast, 16)
    assert 20 <= known.reserved(fast, 16) <= known.reserved(full, 16) <= 240
    for _ in range(3):
        known.learn(full, 16, 60.0)
    assert known.seconds(full, 16) == pytest.approx(60.0)


@pytest.mark.parametrize("wrong", [10**9, "x", None, float("nan"), [1]])
def test_the_button_survives_what_no_widget_sends(module, wrong):
    expected, engine = module("expected"), module("engine").Engine(None)
    engine.state = "ready"
    label = expected.of_tab(engine, "Create", "Square 1:1", wrong, -1, "Fast", 25, 4.0, False)
    assert label == "Create"


def test_what_does_not_fit_is_said_before_it_is_loaded(module):
    engine = module("engine")
    with pytest.raises(MemoryError, match="take 29 GB and 16 GB are free here"):
        engine.check_memory(29_000_000_000, 16_000_000_000)
    engine.check_memory(1, 2)
    assert engine.free_memory(on_gpu=False) > 1e8


def test_a_stream_that_nobody_reads_ends_its_work(module):
    streams = module("streams")
    line, done = streams.Streams(), threading.Event()

    def work(put):
        try:
            for number in range(100_000):
                put(number)
                time.sleep(0.01)
        finally:
            done.set()

    items = line.run(work)
    assert next(items) == 0
    items.close()
    assert done.wait(60)

    def fails(put):
        put(1)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(line.run(fails))


def test_loads_do_not_overlap_and_work_waits_for_them(module):
    loads, streams = module("loads"), module("streams")
    running, most, order = [], [], []

    def load(name):
        running.append(name)
        most.append(len(running))
        time.sleep(0.1)
        running.remove(name)
        order.append(name)

    for name in ("model", "check"):
        loads.LOADS.start(lambda name=name: load(name))
    items = streams.Streams().run(lambda put: put(order.append("work")))
    list(items)
    assert max(most) == 1
    assert sorted(order[:2]) == ["check", "model"]
    assert order[2] == "work"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("ZeroGPU quota exceeded Space app has reached its GPU limit.", "sign in to Hugging Face"),
        ("x You have exceeded your free ZeroGPU quota (60s requested vs. 2s left)", "sign in to"),
        ("x You have exceeded your ZeroGPU runs limit.", "sign in to Hugging Face"),
        ("x The requested GPU duration (240s) is larger than the maximum allowed", "less GPU time"),
        ("ZeroGPU worker error GPU task aborted", "fewer pictures or fewer steps"),
        ("ZeroGPU quota exceeded No GPU was available after 60s. Try", "busy"),
        ("ZeroGPU worker error ValueError", "failed"),
    ],
)
def test_zero_gpu_is_explained(module, message, words):
    assert words in module("jobs").zero_gpu_words(message)


def test_the_judge_checks_the_prompt_and_keeps_to_its_limits(
    module, sandbox, tmp_path, monkeypatch
):
    judge = module("judge")
    monkeypatch.setenv("OPENAI_BASE_URL", sandbox.openai)
    monkeypatch.setenv("OPENAI_API_KEY", sandbox.api_key)
    assert judge.Judge.configured() is None
    monkeypatch.setenv("ECHO4O_JUDGE", "sandbox-judge")
    monkeypatch.setenv("ECHO4O_JUDGE_FOLDER", str(tmp_path / "ledgers"))
    asked = judge.Judge.configured()
    from echo4o.sandbox.world import paint

    paint("a red circle", width=256, height=256, seed=1).save(tmp_path / "red.png")
    picture = str(tmp_path / "red.png")
    found = asked.look(picture, "A photo of a red circle", "one")
    assert found
    assert all(one.satisfied for one in found)
    wrong = asked.look(picture, "A photo of a blue square", "one")
    assert not all(one.satisfied for one in wrong)
    asked.look(picture, "A photo of a red circle", "one")
    with pytest.raises(judge.Refusal, match="You have had 3 pictures judged today"):
        asked.look(picture, "A photo of a red circle", "one")
    poor = judge.Judge("sandbox-judge", 0.0, tmp_path / "poor")
    with pytest.raises(judge.Refusal, match="budget for judging is used up"):
        poor.look(picture, "A photo of a red circle", "two")
    assert "<script>" not in judge.shown([judge.Finding("<script>", True, "x")], "m")


@pytest.mark.parametrize("reply", ["", "[]", '{"findings": [1]}', '{"findings": []}', "[" * 9000])
def test_a_judge_that_answers_nonsense_is_no_crash(module, reply):
    judge = module("judge")
    with pytest.raises(judge.Refusal):
        judge.read(reply)


def test_a_verdict_is_shown_below_its_own_picture_alone(module):
    tabs = module("tabs")
    one, other = [("a.png", "one")], [("b.png", "other"), ("a.png", "one")]
    assert tabs.verdict_of(("a.png", "2 of 2 hold"), one) == "2 of 2 hold"
    assert tabs.verdict_of(("a.png", "2 of 2 hold"), other) == ""
    assert tabs.verdict_of(("", "There is no picture"), []) == "There is no picture"


def test_captions_keep_their_capitals(module):
    prompt = module("checks").captioned("Put both on the rug", ["Ada's BMW", "", "a Bear"])
    assert prompt == "Image 1 is Ada's BMW, image 3 is a Bear. Put both on the rug"


def test_nobody_has_a_place_in_a_line_that_does_not_exist_yet(module):
    page = gr.Blocks().queue()
    assert module("line").place(page._queue, "visit", 1) is None
