"""`echo4o eval fetch|run|judge|report|compare`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .intervals import Score
    from .judging import JudgeConfig
    from .runs import Run

PICTURES = "pictures"


def fetch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval fetch`."""
    parser.add_argument("tasks", nargs="*", help="which benchmarks; all of them if absent")
    parser.add_argument(
        "--from",
        dest="origin",
        help="folder or address that holds the authors' repository; GitHub if absent",
    )


def fetch(args: argparse.Namespace) -> None:
    """Get the authors' items and judge wording onto this machine, hashes checked."""
    from .fetch import fetch_task
    from .tasks import get_task, task_names

    for name in args.tasks or task_names():
        got = fetch_task(get_task(name).name, args.origin)
        print(f"{name:20}{got.items:4d} items  {got.items_file}")
        print(f"{'':20}wording     {got.wording_file}")


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval run`."""
    _task_arguments(parser)
    parser.add_argument("--model", required=True, help="Hub id or folder of an Echo4oPipeline")
    parser.add_argument("--revision", help="branch, tag or commit of the model on the Hub")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; resumes")
    parser.add_argument("--steps", type=int, help="denoising steps; the pipeline's own if absent")
    parser.add_argument(
        "--guidance", type=float, help="text guidance; the pipeline's own if absent"
    )
    parser.add_argument(
        "--size", type=_size, help="WIDTHxHEIGHT in pixels; the model's own if absent"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="pictures made at once")
    parser.add_argument("--seed", type=int, default=0, help="every item's seed follows from it")
    _judge_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Generate, judge and score; what is finished is kept."""
    from .generate import GenerateConfig, PipelinePainter, generate
    from .items import select
    from .judging import check_judge
    from .runs import LEDGER, judge_run
    from .tasks import default_protocol, get_task

    # Everything that can be wrong with the command and its surroundings is found before any work.
    task, judge_config = get_task(args.task), _judge_config(args)
    protocol = args.protocol or default_protocol(args.items)
    task.protocol(protocol)
    source = task.items(args.items)
    items = select(source.items, args.limit)
    config = GenerateConfig(
        seed=args.seed,
        steps=args.steps,
        guidance=args.guidance,
        size=args.size,
        batch_size=args.batch_size,
    )
    check_judge(judge_config, args.out / LEDGER)
    pictures = args.out / PICTURES
    painter = PipelinePainter(args.model, args.revision)
    generate(items, source, painter, pictures, config, progress=True)
    finished = judge_run(
        task,
        source,
        items,
        pictures=pictures,
        out=args.out,
        protocol=protocol,
        config=judge_config,
        progress=True,
    )
    _tell(finished, args.out, explained=args.explain)


def judge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval judge`."""
    _task_arguments(parser)
    parser.add_argument(
        "--images", type=Path, required=True, help="folder with 1.png, 2.jpg ... by item number"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; resumes")
    _judge_arguments(parser)


def judge(args: argparse.Namespace) -> None:
    """Judge pictures that exist, and score them."""
    from .items import select
    from .runs import judge_run
    from .tasks import default_protocol, get_task

    task = get_task(args.task)
    source = task.items(args.items)
    finished = judge_run(
        task,
        source,
        select(source.items, args.limit),
        pictures=args.images,
        out=args.out,
        protocol=args.protocol or default_protocol(args.items),
        config=_judge_config(args),
        progress=True,
    )
    _tell(finished, args.out, explained=args.explain)


def report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval report`."""
    parser.add_argument(
        "runs", nargs="+", type=Path, help="run folders; the last is compared with the first"
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="HTML file")
    parser.add_argument("--loss", type=Path, help="loss.jsonl of the training between the runs")
    parser.add_argument("--title", help="heading; the task's name if absent")


def report(args: argparse.Namespace) -> None:
    """Write one self-contained HTML file."""
    from .report import write_report

    path = write_report(args.runs, args.out, loss=args.loss, title=args.title, progress=True)
    print(f"report  {path} ({path.stat().st_size / 2**20:.1f} MiB)")


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval compare`."""
    parser.add_argument(
        "runs", nargs="+", type=Path, help="run folders; the last is held against the first"
    )


def compare(args: argparse.Namespace) -> None:
    """Say which run is better; over the same pictures, how far their judges agree."""
    from .compared import compare_runs

    print("\n".join(compare_runs(args.runs)))


def _task_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help="which benchmark: geneval_plus_plus or imagine_bench")
    parser.add_argument(
        "--items",
        default="kit",
        help="`kit` for our own items, `authors` for fetched ones, or a JSONL file",
    )
    parser.add_argument("--limit", type=int, help="only so many items, spread over the tags")
    parser.add_argument(
        "--protocol",
        help="how the judge is asked and read: paper, released, strict (the authors' wording) or "
        "kit (ours); if absent kit for our own items, else paper",
    )
    parser.add_argument(
        "--explain", action="store_true", help="say which items the authors' readings tell apart"
    )


def _judge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--judge", required=True, help="judge model at the API")
    parser.add_argument("--base-url", help="OpenAI-compatible API; OPENAI_BASE_URL if absent")
    parser.add_argument("--concurrency", type=int, default=8, help="most calls in flight")
    parser.add_argument("--budget", type=float, help="most USD that this run may ever spend")


def _judge_config(args: argparse.Namespace) -> "JudgeConfig":
    from .judging import JudgeConfig

    return JudgeConfig(
        model=args.judge,
        base_url=args.base_url,
        concurrency=args.concurrency,
        budget_usd=args.budget,
    )


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT like 64x64, got {text!r}")
    return int(width), int(height)


def _tell(finished: "Run", out: Path, *, explained: bool) -> None:
    from .explain import explain

    scores = finished.scores()
    lines = [("overall", scores.overall), ("one or two objects", scores.one_or_two_objects)]
    for name, score in [*lines, *scores.by_group.items(), *scores.by_tag.items()]:
        if score is not None:
            print(f"{name:26}{_score(score, scores.scale)}  {score.items:4d} items")
    counts = ", ".join(f"{count} {name}" for name, count in scores.outcomes.items() if count)
    print(f"verdicts: {counts}; {finished.calls} calls now, {finished.spent_usd:.4f} USD in all")
    smallest = 100 * scores.smallest_clear / scores.scale
    print(
        f"protocol {finished.protocol['name']}; two runs of so many items are told apart from "
        f"{smallest:.1f} % of the scale on (80 % power)"
    )
    if explained:
        print("\n".join(explain(finished)))
    print(f"run     {out / 'run.json'}")


def _score(score: "Score", scale: float) -> str:
    if scale == 1:
        share, low, high = (100 * end for end in (score.score, score.low, score.high))
        return f"{share:5.1f} %  [{low:4.1f}, {high:4.1f}]"
    return f"{score.score:7.3f}  [{score.low:4.2f}, {score.high:4.2f}]"
