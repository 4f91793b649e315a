"""`echo4o eval fetch|report|rescore`."""

import argparse
import json
from pathlib import Path

from echo4o.errors import Echo4oError


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
        if (fetch_own := get_task(name).hooks.fetch) is not None:
            print("\n".join(fetch_own(args.origin)))
            continue
        got = fetch_task(name, args.origin)
        print(f"{name:20}{got.items:4d} items  {got.items_file}")
        print(f"{'':20}wording     {got.wording_file}")


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
    from .runs import each_run

    path = write_report(
        each_run(args.runs), args.out, loss=args.loss, title=args.title, progress=True
    )
    print(f"report  {path} ({path.stat().st_size / 2**20:.1f} MiB)")


def rescore_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval rescore`."""
    parser.add_argument("folder", type=Path, help="a run folder, or a downloaded results dataset")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def rescore(args: argparse.Namespace) -> None:
    """Work the scores out again from the stored verdicts; any difference ends in status 1."""
    from .rescore import check_results

    runs, differences = check_results(args.folder)
    if args.json:
        print(json.dumps({"runs": runs, "differences": [one._asdict() for one in differences]}))
        return
    for one in differences:
        print(f"{one.place}: found {one.found}, expected {one.expected}")
    if differences:
        raise Echo4oError(f"{len(differences)} difference(s) in {len(runs)} run(s)")
    print(f"{len(runs)} run(s): every score follows from its verdicts")
