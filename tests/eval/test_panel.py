"""Several judges, several repeats, and what all of it will cost."""

import json
import random
from collections import Counter

import pytest
from eval_tools import KIT, TASK, paint_into
from PIL import Image
from tests_sandbox import image_api

from echo4o.cli import main
from echo4o.eval.estimate import estimate
from echo4o.eval.items import select, tags
from echo4o.eval.judging import JudgeConfig, judge_cases
from echo4o.eval.runs import load_run, panel_folders, run_cases
from echo4o.eval.tasks import get_task


def billed(server):
    """What the service charged, by its own book."""
    lines = (server.root / "openai" / "calls.jsonl").read_text().splitlines()
    return sum(json.loads(line)["cost_usd"] for line in lines)


def judge_words(pictures, out, *words):
    asked = ["--images", pictures, "--out", out, "--limit", "7", *words]
    return [str(word) for word in ("eval", "judge", TASK.name, *asked)]


def test_two_judges_have_a_run_each_and_one_budget(api, tmp_path, capsys):
    pictures = paint_into(tmp_path / "pictures", select(KIT.items, 7))
    out = tmp_path / "run"
    words = judge_words(pictures, out, "--judges", "sandbox-judge,sandbox-text", "--repeats", "2")
    main([*words, "--dry-run"])
    said = capsys.readouterr().out
    assert "sandbox-judge: 14 calls, 0 known already" in said
    assert not out.exists()
    main(words)
    said = capsys.readouterr().out
    assert "Krippendorff's alpha between the judges" in said
    runs = [load_run(out / name) for name in ("sandbox-judge", "sandbox-text")]
    assert [run.calls for run in runs] == [14, 14]
    panel = json.loads((out / "panel.json").read_text())
    assert panel["together"]["overall"]["items"] == 7
    assert list(panel["agreement"]["by_tag"]) == [item.tag for item in select(KIT.items, 7)]
    assert panel["judges"]["sandbox-text"]["repeats"] == 2
    alone = json.loads((out / "sandbox-judge" / "run.json").read_text())
    assert alone["self_agreement"]["overall"]["items"] == 7
    main(["eval", "report", str(out), "--out", str(out / "r")])
    main(["eval", "compare", str(out)])
    assert "The same pictures, judged by" in capsys.readouterr().out
    page = (out / "r").read_text()
    assert "Agreement of the judges" in page
    assert 'overall <span class="small soft">7 pictures</span>' in page
    main(words)
    assert [load_run(out / one).calls for one in panel["judges"]] == [0, 0]
    assert runs[1].spent_usd == pytest.approx(billed(api))
    main([*words, "--dry-run", "--budget", "0"])
    assert "sandbox-text: 0 calls, 14 known already" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*judge_words(pictures, out, "--judges", "sandbox-judge, sandbox-judge")])
    assert "two judges have the name 'sandbox-judge'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(judge_words(pictures, out, "--judge", "sandbox-judge"))
    assert "holds the runs of several judges" in capsys.readouterr().err
    (out / "stale").mkdir()
    (out / "stale" / "run.json").write_bytes((out / "sandbox-text" / "run.json").read_bytes())
    assert [one.name for one in panel_folders(out)] == ["sandbox-judge", "sandbox-text"]


def test_batches_cost_half_and_say_the_same(tmp_path, monkeypatch, api):
    items = select(KIT.items, 9)
    pictures = paint_into(tmp_path / "pictures", items[1:])
    (pictures / f"{items[1].number}.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    found, foreseen = {}, {}
    for batch in (False, True):
        config = JudgeConfig(model="sandbox-judge", batch_api=batch, poll_s=0.05)
        cases = run_cases(TASK, items, pictures=pictures, protocol="kit", config=config)
        ledger = tmp_path / str(batch) / "ledger.sqlite"
        foreseen[batch] = estimate(cases, config, ledger)
        found[batch] = judge_cases(cases, config=config, ledger=ledger)
        again = run_cases(TASK, items, pictures=pictures, protocol="kit", config=config)
        assert judge_cases(again, config=config, ledger=ledger).calls == 0
    assert [one.findings for one in found[True].verdicts] == [
        one.findings for one in found[False].verdicts
    ]
    assert [one.outcome for one in found[True].verdicts[:3]] == ["missing", "damaged", "judged"]
    assert found[True].spent_usd == pytest.approx(found[False].spent_usd / 2)
    assert foreseen[True].cost_usd == pytest.approx(foreseen[False].cost_usd / 2)
    assert billed(api) == pytest.approx(found[True].spent_usd + found[False].spent_usd)


def test_what_a_batch_leaves_unread_is_asked_in_another(tmp_path, monkeypatch):
    items = select(KIT.items, 20)
    pictures = paint_into(tmp_path / "pictures", items)
    config = JudgeConfig(model="sandbox-judge", batch_api=True, poll_s=0.05)
    with image_api(tmp_path / "sandbox", "garbage=0.4,refuse=0.1,seed=5") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        cases = run_cases(TASK, items, pictures=pictures, protocol="kit", config=config)
        found = judge_cases(cases, config=config, ledger=tmp_path / "l" / "ledger.sqlite")
    assert any(one.calls > 1 and one.outcome == "judged" for one in found.verdicts)
    assert {one.outcome for one in found.verdicts} >= {"judged", "refused"}
    assert all(one.calls == 3 for one in found.verdicts if one.outcome == "unreadable")


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["kit", "paper", "strict"])
@pytest.mark.parametrize("name", ["geneval_plus_plus", "imagine_bench"])
def test_the_price_is_known_beforehand(api, shared, tmp_path, monkeypatch, name, protocol):
    """Within 3 % of the service's bill, also before the replies to eight items of each tag."""
    monkeypatch.setenv("ECHO4O_BENCHMARKS", str(shared / "benchmarks"))
    task = get_task(name)
    items = task.items("kit" if protocol == "kit" else "authors").items
    found, real, first = foresee(api, tmp_path, task, items, protocol, pilot=8 * len(tags(items)))
    print(f"{name} {protocol}: {first:+.1%} without, {found / real - 1:+.1%} with replies known")
    assert found == pytest.approx(real, rel=0.03)
    assert abs(first) < 0.03


def test_the_price_is_known_beforehand_for_a_few(api, tmp_path):
    found, real, first = foresee(api, tmp_path, TASK, select(KIT.items, 35), "kit", pilot=14)
    assert found == pytest.approx(real, rel=0.03)
    assert abs(first) < 0.1


def foresee(api, root, task, items, protocol, *, pilot):
    """Price of what is left foreseen and billed, and the first guess's error in shares.

    Half of each tag's pictures are wrong: replies about those are longer.
    """
    draw, seen = random.Random(4), Counter()
    right = [bool(seen.update([item.tag]) or seen[item.tag] % 2) for item in items]
    prompts = [
        item.prompt if good else f"a red cube and {draw.randint(1, 4)} blue balls"
        for item, good in zip(items, right, strict=True)
    ]
    for path in paint_into(root / "pictures", items, prompts).iterdir():
        with Image.open(path) as image:  # as large as real ones, so that they weigh as much
            image.resize((512, 512), Image.Resampling.NEAREST).save(path)
    config, ledger = JudgeConfig(model="sandbox-judge", concurrency=2), root / "ledger.sqlite"

    def cases(chosen):
        return run_cases(task, chosen, pictures=root / "pictures", protocol=protocol, config=config)

    blind = estimate(cases(items), config, ledger).cost_usd
    judge_cases(cases(select(items, pilot)), config=config, ledger=ledger)
    before = billed(api)
    found = estimate(cases(items), config, ledger)
    assert (found.calls, found.known) == (len(items) - pilot, pilot)
    judge_cases(cases(items), config=config, ledger=ledger)
    return found.cost_usd, billed(api) - before, blind / billed(api) - 1
