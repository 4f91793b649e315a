"""`echo4o eval run|judge|report`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .judging import JudgeConfig
    from .runs import Run

PICTURES = "pictures"


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
    from .tasks import get_task

    # Everything that can be wrong with the command and its surroundings is found before any work.
    task, judge_config = get_task(args.task), _judge_config(args)
    task.protocol(args.protocol)
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
        protocol=args.protocol,
        config=judge_config,
        progress=True,
    )
    _tell(finished, args.out)


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
    from .tasks import get_task

    task = get_task(args.task)
    source = task.items(args.items)
    finished = judge_run(
        task,
        source,
        select(source.items, args.limit),
        pictures=args.images,
        out=args.out,
        protocol=args.protocol,
        config=_judge_config(args),
        progress=True,
    )
    _tell(finished, args.out)


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


def _task_arguments(parser: argparse.ArgumentParser) -> None:
    from .items import KIT

    parser.add_argument("task", help="which benchmark: geneval_plus_plus")
    parser.add_argument("--items", default=KIT, help="`kit` for our own items, or a JSONL file")
    parser.add_argument("--limit", type=int, help="only so many items, spread over the tags")
    parser.add_argument("--protocol", default="kit", help="how the judge is asked and read")


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


def _tell(finished: "Run", out: Path) -> None:
    scores = finished.scores()
    lines = [("overall", scores.overall), ("one or two objects", scores.one_or_two_objects)]
    for name, score in [*lines, *scores.by_tag.items()]:
        if score is not None:
            print(
                f"{name:26}{100 * score.score:5.1f} %  [{100 * score.low:4.1f}, "
                f"{100 * score.high:4.1f}]  {score.items:4d} items"
            )
    counts = ", ".join(f"{count} {name}" for name, count in scores.outcomes.items() if count)
    print(f"verdicts: {counts}; {finished.calls} calls now, {finished.spent_usd:.4f} USD in all")
    print(f"run     {out / 'run.json'}")
