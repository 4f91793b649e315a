"""`echo4o eval fetch|run|report`."""

import argparse
from pathlib import Path

from .judge_cli import (
    check_judges,
    judge_pictures,
    judging_arguments,
    read_command,
    task_arguments,
)

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
    task_arguments(parser)
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
    judging_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Generate, judge and score; what is finished is kept."""
    from .generate import GenerateConfig, generate
    from .painters import PipelinePainter

    # Everything that can be wrong with the command and its surroundings is found before any work.
    asked = read_command(args)
    config = GenerateConfig(
        seed=args.seed,
        steps=args.steps,
        guidance=args.guidance,
        size=args.size,
        batch_size=args.batch_size,
    )
    check_judges(asked, args.out)
    pictures = args.out / PICTURES
    painter = PipelinePainter(args.model, args.revision)
    generate(asked.items, asked.source, painter, pictures, config, progress=True)
    judge_pictures(asked, pictures, args.out, explained=args.explain)


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


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT like 64x64, got {text!r}")
    return int(width), int(height)
