"""`echo4o eval judge|compare|calibrate`, and what every verb that judges has in common."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .cases import Case
    from .intervals import Score
    from .items import Item, ItemSet
    from .judging import JudgeConfig
    from .panel import Panel
    from .runs import Run
    from .tasks import Task


def judge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval judge`."""
    task_arguments(parser)
    parser.add_argument(
        "--images",
        required=True,
        help="folder or zip file with 1.png, 2.jpg ... by item number, or a dataset on the Hub",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; resumes")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what it would ask and cost; no call is made"
    )
    judging_arguments(parser)


def judge(args: argparse.Namespace) -> None:
    """Judge pictures that exist, and score them."""
    from .image_sources import arranged, as_folder

    asked = read_command(args)
    pictures = arranged(
        asked.task, asked.items, as_folder(args.images, args.out, progress=True), args.out
    )
    if args.dry_run:
        _forecast(asked, pictures, args.out)
        return
    judge_pictures(asked, pictures, args.out, explained=args.explain)


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval compare`."""
    parser.add_argument(
        "runs", nargs="+", type=Path, help="run folders; the last is held against the first"
    )
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="also write a Markdown table of first and last"
    )


def compare(args: argparse.Namespace) -> None:
    """Say which run is better; over the same pictures, how far their judges agree."""
    from echo4o.records import write_atomic

    from .before_after import before_after
    from .compared import compare_runs
    from .runs import each_run

    runs = each_run(args.runs)
    print("\n".join(compare_runs(runs)))
    if args.table is not None:
        write_atomic(args.table, before_after(runs[0], runs[-1]))


def calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval calibrate`."""
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of the new judge")
    parser.add_argument(
        "--new", type=Path, required=True, help="run of the new judge over the common pictures"
    )
    parser.add_argument(
        "--old", type=Path, required=True, help="run of the old judge over the same pictures"
    )
    parser.add_argument(
        "--method",
        choices=("isotonic", "linear"),
        default="isotonic",
        help="how points are mapped; shares of right items have one way only",
    )
    parser.add_argument("--out", type=Path, default=Path("calibrated.json"), help="JSON file")


def calibrate(args: argparse.Namespace) -> None:
    """Say what an old judge would have given, from pictures that a new one judged, too."""
    from .calibrate import calibrate as map_runs
    from .calibrate import lines, save

    results = map_runs(args.new, args.old, args.runs, method=args.method)
    for run, result in zip(args.runs, results, strict=True):
        print("\n".join(lines(result, run.resolve().name)))
    save(results, args.runs, args.out)
    print(f"calibrated  {args.out}")


def task_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which items are asked about, and how."""
    parser.add_argument(
        "task",
        help="which benchmark: geneval_plus_plus, imagine_bench, geneval, dpg_bench or omnicontext",
    )
    parser.add_argument(
        "--items",
        default="kit",
        help="`kit` for our own items, `authors` for fetched ones (geneval has `rewritten` ones, "
        "too), hub:ORG/NAME[@REVISION] for a dataset on the Hub, or a file",
    )
    parser.add_argument("--limit", type=int, help="only so many items, spread over the tags")
    parser.add_argument(
        "--protocol",
        help="how the judge is asked and read: paper, released, strict (the authors' wording), "
        "fork (omnicontext alone) or kit (ours); if absent kit for our own items, fork for others "
        "of omnicontext, paper for the rest",
    )
    parser.add_argument(
        "--explain", action="store_true", help="say which items the authors' readings tell apart"
    )


def judging_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say who judges."""
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--judge",
        help="judge model at the API; local:NAME for one of this machine, a Hub id or folder of a "
        "vision-language model that transformers loads; detector:NAME for geneval",
    )
    who.add_argument("--judges", metavar="A,B,C", help="several, one after the other")
    parser.add_argument(
        "--colours",
        metavar="NAME",
        help="CLIP model that names colours for a judge detector:NAME; the benchmark's if absent",
    )
    parser.add_argument(
        "--repeats", type=int, default=1, help="times every picture is judged; the mean counts"
    )
    parser.add_argument("--base-url", help="OpenAI-compatible API; OPENAI_BASE_URL if absent")
    parser.add_argument("--concurrency", type=int, default=8, help="most calls in flight")
    parser.add_argument("--budget", type=float, help="most USD that this run may ever spend")
    canary = parser.add_mutually_exclusive_group()
    canary.add_argument(
        "--canary",
        type=Path,
        metavar="FOLDER",
        help="where the fixed pictures lie that show whether a judge has moved; a folder in the "
        "user's cache if absent",
    )
    canary.add_argument(
        "--no-canary", action="store_true", help="neither record nor ask about such pictures"
    )
    parser.add_argument(
        "--batch-api",
        action="store_true",
        help="send the questions as batches: cheaper, and answered within a day",
    )


class Command(NamedTuple):
    """What is to be judged and by whom, read and checked."""

    task: "Task"
    source: "ItemSet"
    items: "tuple[Item, ...]"
    protocol: str
    configs: "tuple[JudgeConfig, ...]"
    """One for each judge."""
    canaries: Path | None
    """Folder of the canaries; None for none."""


def read_command(args: argparse.Namespace) -> Command:
    """Return what the options of `task_arguments` and `judging_arguments` ask for.

    Raises:
        Echo4oError: the task, its items, the wording of the protocol or the judge is not there.
    """
    from .canary import default_folder
    from .items import select
    from .judging import JudgeConfig, check_kind
    from .panel import folder_names
    from .tasks import default_protocol, get_task

    task = get_task(args.task)
    source = task.items(args.items)
    protocol = args.protocol or default_protocol(args.items, task)
    asked = task.protocol(protocol)
    if args.explain and not task.readings:
        raise ValueError(f"all readings of {task.name} have the same rules; leave --explain away")
    if args.explain and protocol not in task.readings:
        raise ValueError(
            f"replies to the protocol {protocol} cannot be read another way; --explain needs "
            f"--protocol {', '.join(task.readings)}"
        )
    names = [args.judge] if args.judges is None else args.judges.split(",")
    configs = tuple(
        JudgeConfig(
            model=name.strip(),
            base_url=args.base_url,
            concurrency=args.concurrency,
            budget_usd=args.budget,
            repeats=args.repeats,
            batch_api=args.batch_api,
            **({} if args.colours is None else {"colours": args.colours}),
        )
        for name in names
    )
    folder_names(configs)  # refuses two judges of one name
    for config in configs:
        check_kind(asked, config)
    canaries = None if args.no_canary else (args.canary or default_folder())
    items = select(source.items, args.limit)
    return Command(task, source, items, protocol, configs, canaries)


def check_judges(asked: Command, out: Path) -> None:
    """Refuse now what judging would refuse before its first call."""
    from .judging import check_judge
    from .panel import folder_names
    from .runs import LEDGER, refuse_another_run

    several = len(asked.configs) > 1
    for config, name in zip(asked.configs, folder_names(asked.configs), strict=True):
        wanted = {"task": asked.task.name, "protocol": asked.protocol, "judge": config.name}
        refuse_another_run(out / name if several else out, {**wanted, "items": asked.source.sha256})
        check_judge(config, out / LEDGER)


def judge_pictures(asked: Command, pictures: Path, out: Path, *, explained: bool) -> None:
    """Judge a folder of pictures into `out` and say what came of it."""
    from .panel import judge_panel
    from .runs import judge_run

    if len(asked.configs) == 1:
        finished = judge_run(
            asked.task,
            asked.source,
            asked.items,
            pictures=pictures,
            out=out,
            protocol=asked.protocol,
            config=asked.configs[0],
            canaries=asked.canaries,
            progress=True,
        )
        tell_run(finished, out, explained=explained)
        return
    panel = judge_panel(
        asked.task,
        asked.source,
        asked.items,
        pictures=pictures,
        out=out,
        protocol=asked.protocol,
        configs=asked.configs,
        canaries=asked.canaries,
        progress=True,
    )
    for name, run in panel.runs.items():
        print(f"judge {run.judge['model']}")
        tell_run(run, out / name, explained=explained)
    _tell_panel(panel, out)


def _forecast(asked: Command, pictures: Path, out: Path) -> None:
    from .runs import run_cases

    cases = {
        config: run_cases(
            asked.task, asked.items, pictures=pictures, protocol=asked.protocol, config=config
        )
        for config in asked.configs
    }
    tell_price(asked, cases, out)


def tell_price(
    asked: Command,
    cases: "Mapping[JudgeConfig, list[Case]]",
    out: Path,
    size: tuple[int, int] | None = None,
) -> None:
    """Say what each judge would be asked and what that would cost, canaries included.

    `size` is that of pictures which are not there yet.
    """
    from .canary import open_canary
    from .estimate import estimate
    from .runs import LEDGER

    total = 0.0
    for config, own in cases.items():
        canary = []
        if asked.canaries is not None and not config.is_local:
            protocol, server = own[0].protocol, config.base_url
            canary = open_canary(asked.canaries, asked.task, protocol, config.model, server).cases()
        found = estimate([*own, *canary], config, out / LEDGER, size=size, progress=True)
        total += found.cost_usd
        ends = f"{found.all_right_usd:.4f} if all are right, {found.all_wrong_usd:.4f} if none is"
        print(
            f"{config.model}: {found.calls} calls, {found.known} known already; "
            f"{found.text} text and {found.images} picture tokens sent, {found.output} received; "
            f"{found.cost_usd:.4f} USD"
            + (f" ({ends})" if found.all_right_usd < found.all_wrong_usd else "")
        )
    budget = asked.configs[0].budget_usd
    if budget is not None and total > budget:
        print(f"that is more than the budget of {budget:.2f} USD; what fits into it is asked")


def tell_run(finished: "Run", out: Path, *, explained: bool) -> None:
    """Print a run's scores and what became of its questions."""
    from .drift import drift_lines
    from .explain import explain
    from .runs import kept_items

    scores = finished.scores()
    lines = [("overall", scores.overall), ("one or two objects", scores.one_or_two_objects)]
    for name, score in [*lines, *scores.by_group.items(), *scores.by_tag.items()]:
        if score is not None:
            print(f"{name:30}{_score(score, scores.scale)}  {score.items:4d} items")
    counts = ", ".join(f"{count} {name}" for name, count in scores.outcomes.items() if count)
    print(
        f"verdicts: {counts}; {finished.calls} calls now in {finished.seconds:.1f} s, "
        f"{finished.spent_usd:.4f} USD in all"
    )
    smallest = 100 * scores.smallest_clear / scores.scale
    print(
        f"protocol {finished.protocol['name']}; two runs of so many items are told apart from "
        f"{smallest:.1f} % of the scale on (80 % power)"
    )
    if finished.drift is not None:
        print("\n".join(drift_lines(finished.drift, finished.judge["model"])))
    if explained:
        print("\n".join(explain(finished, kept_items(out, finished))))
    print(f"run     {out / 'run.json'}")


def _score(score: "Score", scale: float) -> str:
    if scale == 1:
        share, low, high = (100 * end for end in (score.score, score.low, score.high))
        return f"{share:5.1f} %  [{low:4.1f}, {high:4.1f}]"
    return f"{score.score:7.3f}  [{score.low:4.2f}, {score.high:4.2f}]"


def _tell_panel(panel: "Panel", out: Path) -> None:
    from .compared import agreement_lines
    from .runs import PANEL_FILE

    together = panel.together
    print(f"all judges together           {_score(together.overall, together.scale)}")
    if panel.overall is not None:
        print("Krippendorff's alpha between the judges:")
        print("\n".join(agreement_lines(panel.overall, panel.by_tag)))
    print(f"panel   {out / PANEL_FILE}")
