"""GenEval over 553 x 4 pictures with tiny models, and DPG-Bench over 1,065 x 4 pictures.

`geneval`: the command itself with a tiny random Mask2Former and CLIP, pictures of 512 x 512; it is
killed once and run again. Then, in one process on one thread, the processor time of each picture
that is not the models' own: reading, hashing, preparing, reading the masks, the rule, the ledger.
`pace` is the same over 240 pictures.

`dpg`: the sandbox's judge answers after 1 s, 64 calls at once; a crop's questions are one call. A
second run asks nothing. Pictures of 64 x 64, so that the machine's own work is the client's.

Run: python benchmarks/bench_geneval_dpg.py [geneval|pace|overhead|dpg ...]
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from tiny_detectors import save_detectors

from echo4o.eval.items import Item
from echo4o.eval.judging import JudgeConfig, judge
from echo4o.eval.tasks import get_task
from echo4o.sandbox.world import paint

RESULTS = Path(__file__).parent / "results/geneval_dpg.json"
GENEVAL_ITEMS, DPG_ITEMS, SAMPLES = 553, 1065, 4
OVERHEAD_PICTURES, PACE_PICTURES = 100, 240
PROMPTS = 5
SURE = 1.35
"""How much surer the detector of `overhead` is than the usual tiny one: so it finds some five
objects a picture."""


def main() -> None:
    """Measure the named parts, or all."""
    parts = {"geneval": _geneval, "pace": _pace, "overhead": _overhead, "dpg": _dpg}
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in sys.argv[1:] or parts:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = parts[name](Path(folder)) | {"machine": describe()}
        print(name, json.dumps(results[name]), flush=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def _items(task_name: str, count: int, file: Path) -> tuple[Item, ...]:
    """As many items as the benchmark has, made of the kit's."""
    task = get_task(task_name)
    kit = task.items("kit").items
    rows = [kit[n % len(kit)].to_json() for n in range(count)]
    for number, row in enumerate(rows):
        if "item_id" in row:
            row["item_id"] = f"{row['item_id']}-{number}"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return task.items(str(file)).items


def _paint(folder: Path, items: tuple[Item, ...], side: int) -> None:
    """Pictures that differ in a pixel at least: equal ones would be one question."""
    folder.mkdir()
    bases = [np.asarray(paint(one.prompt, width=side, height=side, seed=1)) for one in items[:24]]
    for place, item in enumerate(items):
        for sample in range(1, SAMPLES + 1):
            pixels = bases[place % len(bases)].copy()
            pixels[0, :2] = (*divmod(place, 256), sample), (0, 0, 0)
            name = f"{item.number}.png" if sample == 1 else f"{item.number}-{sample}.png"
            Image.fromarray(pixels).save(folder / name, compress_level=1)


def _judge_words(root: Path, folder: str, detector: Path, clip: Path) -> list[str]:
    words = [sys.executable, "-m", "echo4o.cli", "eval", "judge", "geneval"]
    words += ["--protocol", "released", "--items", str(root / "items.jsonl")]
    words += ["--images", str(root / "pictures"), "--out", str(root / folder)]
    return [*words, "--judge", f"detector:{detector}", "--colours", str(clip)]


def _geneval(root: Path) -> dict[str, Any]:
    _paint(root / "pictures", _items("geneval", GENEVAL_ITEMS, root / "items.jsonl"), 512)
    command = _judge_words(root, "run", *save_detectors(root))
    clock = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    time.sleep(40)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = time.perf_counter() - clock
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - clock
    run = json.loads((root / "run" / "run.json").read_bytes())
    clock = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    again = json.loads((root / "run" / "run.json").read_bytes())
    return {
        "pictures": len(run["verdicts"]),
        "judged": sum(one["outcome"] == "judged" for one in run["verdicts"]),
        "killed_after_s": round(killed, 1),
        "looked_at_after_the_kill": run["calls"],
        "seconds_with_the_kill": round(seconds, 1),
        "calls_of_second_run": again["calls"],
        "seconds_of_second_run": round(time.perf_counter() - clock, 1),
    }


def _pace(root: Path) -> dict[str, Any]:
    """The same over fewer pictures, short enough to have the machine alone."""
    _paint(
        root / "pictures", _items("geneval", PACE_PICTURES // SAMPLES, root / "items.jsonl"), 512
    )
    command = _judge_words(root, "run", *save_detectors(root))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    run = json.loads((root / "run" / "run.json").read_bytes())
    each = run["seconds"] / len(run["verdicts"])
    return {
        "pictures": len(run["verdicts"]),
        "seconds": run["seconds"],
        "ms_a_picture": round(1000 * each, 1),
        "minutes_for_553_x_4": round(each * GENEVAL_ITEMS * SAMPLES / 60, 1),
    }


def _overhead(root: Path) -> dict[str, Any]:
    return {f"{side} x {side}": _overhead_of(root / str(side), side) for side in (512, 1024)}


def _overhead_of(root: Path, side: int) -> dict[str, Any]:
    import torch

    from echo4o.eval.geneval_judge import DetectorJudge

    torch.set_num_threads(1)
    root.mkdir()
    items = _items("geneval", OVERHEAD_PICTURES // SAMPLES, root / "items.jsonl")
    _paint(root / "pictures", items, side)
    detector, clip = save_detectors(root, sure=SURE)
    spent = {"detector": 0.0, "clip": 0.0, "loading": 0.0}
    both = DetectorJudge._both

    def timed(call: Any, name: str) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            clock = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                spent[name] += time.thread_time() - clock

        return run

    def watched(self: DetectorJudge) -> Any:
        is_new, clock = self._models is None, time.thread_time()
        found, colours = both(self)
        if is_new:
            spent["loading"] += time.thread_time() - clock
            found._model.forward = timed(found._model.forward, "detector")
            colours._model.get_image_features = timed(colours._model.get_image_features, "clip")
            colours._model.get_text_features = timed(colours._model.get_text_features, "clip")
        return found, colours

    made = DetectorJudge.__init__
    DetectorJudge._both = watched  # type: ignore[method-assign]
    # Reading the configuration and hashing the weights: once a run, however many pictures it has.
    DetectorJudge.__init__ = timed(made, "loading")  # type: ignore[method-assign]
    files = [
        {
            item.number: root / "pictures" / (f"{item.number}{'' if n == 1 else f'-{n}'}.png")
            for item in items
        }
        for n in range(1, SAMPLES + 1)
    ]
    config = JudgeConfig(model=f"detector:{detector}", colours=str(clip))

    def run(chosen: tuple[Item, ...], ledger: Path) -> Any:
        protocol = get_task("geneval").protocol("released")
        return judge(
            chosen, files[0], more=files[1:], protocol=protocol, config=config, ledger=ledger
        )

    run(items[:1], root / "first.sqlite")  # loads the libraries
    rounds, objects, pictures = [], 0, 0
    # In rounds of a few prompts: on a busy machine the least is nearest to what it takes alone.
    for start in range(0, len(items), PROMPTS):
        spent.update(dict.fromkeys(spent, 0.0))
        clock = time.process_time()
        judged = run(items[start : start + PROMPTS], root / f"{start}.sqlite")
        used = time.process_time() - clock
        each = 1000 / len(judged.verdicts)
        rounds.append((each * (used - sum(spent.values())), each * spent["detector"]))
        pictures += len(judged.verdicts)
        objects += sum(
            len(group["boxes"])
            for one in judged.verdicts
            for group in json.loads(one.raw_reply)["objects"].values()
        )
    DetectorJudge._both, DetectorJudge.__init__ = both, made  # type: ignore[method-assign]
    outside, detector_ms = (sorted(column) for column in zip(*rounds, strict=True))
    return {
        "pictures": pictures,
        "objects_a_picture": round(objects / pictures, 1),
        "bytes_a_picture": sum(one.stat().st_size for one in files[0].values()) // len(files[0]),
        "outside_the_models_ms_a_picture": round(outside[len(outside) // 2], 1),
        "least_of_any_round_ms": round(outside[0], 1),
        "detector_ms_a_picture": round(detector_ms[len(detector_ms) // 2], 1),
    }


def _dpg(root: Path) -> dict[str, Any]:
    _paint(root / "pictures", _items("dpg_bench", DPG_ITEMS, root / "items.jsonl"), 64)
    ready = root / "ready.json"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "echo4o.cli", "sandbox", "serve", "--root", str(root / "s")),
            *("--openai-port", "0", "--hub-port", "0", "--ready-file", str(ready)),
            *("--faults", "latency=1000ms"),
        ],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        while not ready.exists():
            time.sleep(0.05)
        facts = json.loads(ready.read_text())
        environment = {**os.environ, "OPENAI_BASE_URL": facts["openai"]}
        environment["OPENAI_API_KEY"] = facts["api_key"]
        command = [sys.executable, "-m", "echo4o.cli", "eval", "judge", "dpg_bench"]
        command += ["--protocol", "kit", "--items", str(root / "items.jsonl"), "--no-canary"]
        command += ["--images", str(root / "pictures"), "--judge", "sandbox-judge"]
        command += ["--concurrency", "64", "--out", str(root / "run")]
        found = []
        for _ in range(2):
            clock = time.perf_counter()
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
            run = json.loads((root / "run" / "run.json").read_bytes())
            found.append((time.perf_counter() - clock, run["seconds"], run))
    finally:
        server.terminate()
        server.wait()
    (whole, seconds, run), (_, _, again) = found
    questions = sum(len(one["findings"]) for one in run["verdicts"])
    bound = len(run["verdicts"]) / 64
    return {
        "pictures": len(run["verdicts"]),
        "judged": sum(one["outcome"] == "judged" for one in run["verdicts"]),
        "questions": questions,
        "calls": run["calls"],
        "seconds": round(seconds, 1),
        "command_s": round(whole, 1),
        "bound_s": round(bound, 1),
        "calls_of_second_run": again["calls"],
        "seconds_of_second_run": round(again["seconds"], 1),
    }


if __name__ == "__main__":
    main()
