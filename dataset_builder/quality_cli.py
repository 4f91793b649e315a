"""`echo4o data check|remove|stats|show`. Imports fast."""

import argparse
import json
from pathlib import Path

from echo4o.errors import Echo4oError
from echo4o.records import JsonValue


def check_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data check`."""
    parser.add_argument("folder", type=Path, help="folder of the plan and its pictures")
    parser.add_argument("--model", required=True, help="vision model that judges")
    parser.add_argument(
        "--moderation",
        metavar="MODEL",
        help="also ask the API's moderations endpoint about every text and picture",
    )
    parser.add_argument("--base-url", help="address of the API; default: $OPENAI_BASE_URL")
    parser.add_argument("--budget", type=float, metavar="USD", help="of all checks of this folder")
    parser.add_argument("--concurrency", type=int, default=8, help="most calls in flight")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="price table, else built in")
    parser.add_argument(
        "--policy",
        default="",
        metavar="SUBSET=WHAT,...",
        help="keep, rewrite or drop rows whose picture differs from the text (default: "
        "instruction_following=rewrite, keep the others)",
    )
    parser.add_argument(
        "--keep-flagged",
        action="store_true",
        help="only note unsafe content, possible minors and trademarks, drop nothing for them",
    )
    parser.add_argument("--dry-run", action="store_true", help="only count and estimate")


def check(args: argparse.Namespace) -> None:
    """Judge every bought picture and write check.jsonl, which `data build` follows."""
    from echo4o.client import PriceTable

    from .checking import check as judge
    from .checking import estimate
    from .deciding import Rules, parse_policy

    rules = Rules(
        model=args.model,
        moderation=args.moderation,
        policy=parse_policy(args.policy),
        drop_flagged=not args.keep_flagged,
    )
    prices = PriceTable.load(args.prices)
    if args.dry_run:
        expected = estimate(args.folder, rules, prices)
        print(f"{expected.rows} pictures, about {expected.usd:.2f} USD to look at each once")
        print(
            f"rewritten rows are looked at twice: {expected.again_usd:.2f} USD more if every text "
            "is that may be; nothing was called"
        )
        return
    done = judge(
        args.folder,
        rules,
        base_url=args.base_url,
        budget_usd=args.budget,
        concurrency=args.concurrency,
        prices=prices,
        progress=True,
    )
    print(*done.counted.lines(), sep="\n")
    print(f"{done.calls} calls now, {done.spent_usd:.4f} USD spent in all")
    if done.counted.by_decision["undecided"]:
        print("undecided rows are asked about again when you run the same command; they stay")


def remove_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data remove`."""
    parser.add_argument("folder", type=Path, help="built dataset; becomes its next version")
    parser.add_argument(
        "--ids",
        type=Path,
        required=True,
        metavar="FILE",
        help="one row id a line, or JSON lines as --marks and tombstones.jsonl have them",
    )
    parser.add_argument("--reason", required=True, help="why; stands in the list of changes")
    parser.add_argument(
        "--legal",
        action="store_true",
        help="a legal take-down: note that tags and history may be rewritten",
    )


def remove(args: argparse.Namespace) -> None:
    """Take rows out of a built dataset."""
    from .removing import read_ids
    from .removing import remove as take_out

    ids = read_ids(args.ids)
    done = take_out(args.folder, ids, args.reason, is_legal=args.legal, progress=True)
    print(
        f"{done.rows} rows removed: {args.folder} is version {done.version} now; {done.shards} "
        f"files written anew, {done.kept} stayed as they were"
    )
    print("publish it with `echo4o data push` under its next tag")


def stats_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data stats`."""
    parser.add_argument("dataset", help="dataset folder or Hub id")
    parser.add_argument("--config", default="all", help="one of the dataset's configs")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub id")
    parser.add_argument(
        "--pictures",
        type=int,
        default=100,
        metavar="N",
        help="pictures of each subset that are held against a plain background",
    )
    parser.add_argument(
        "--captions", type=Path, metavar="FILE", help="real captions to compare combinations with"
    )
    parser.add_argument(
        "--marks",
        type=Path,
        metavar="FILE",
        help="decode every picture; damaged rows and near-duplicates go to FILE, which "
        "`data remove --ids` reads",
    )
    parser.add_argument(
        "--plan", type=Path, metavar="DIR", help="the plan's folder: refusals and money as well"
    )


def stats(args: argparse.Namespace) -> None:
    """Print what a dataset holds, as JSON."""
    print(json.dumps(_told(args), indent=2, sort_keys=True))


def _inspected(args: argparse.Namespace) -> dict[str, JsonValue]:
    """Look at every picture and write what is damaged or repeated."""
    from functools import partial

    from echo4o.hub_errors import patiently
    from echo4o.records import write_atomic

    from .inspecting import inspect
    from .look import pinned

    revision = pinned(args.dataset, args.revision)
    look = partial(inspect, args.dataset, args.config, revision, progress=True)
    found = patiently(f"read pictures of {args.dataset}", look)
    write_atomic(args.marks, "".join(found.lines()))
    return found.to_dict()


def _told(args: argparse.Namespace) -> dict[str, JsonValue]:
    from .insight import stats as count

    if args.pictures < 0:
        raise ValueError(f"--pictures must be 0 or more, got {args.pictures}")
    _check_file("--marks", args.marks)
    told = count(
        args.dataset,
        args.config,
        args.revision,
        pictures=args.pictures,
        captions=args.captions,
        plan=args.plan,
        progress=True,
    )
    return told if args.marks is None else told | {"every_picture": _inspected(args)}


def _check_file(option: str, path: Path | None) -> None:
    """Refuse a folder before minutes are spent on what would be written there."""
    if path is not None and path.is_dir():
        raise Echo4oError(f"{option} {path} is a folder; give the name of a file")


def show_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data show`."""
    stats_arguments(parser)
    parser.add_argument("--rows", type=int, default=4, metavar="N", help="rows of each subset")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write an HTML page instead")


def show(args: argparse.Namespace) -> None:
    """Show numbers and some rows, in the terminal or as a page."""
    from .look import pinned
    from .sampling import sample
    from .showing import lines, write_page

    if args.rows < 0:
        raise ValueError(f"--rows must be 0 or more, got {args.rows}")
    _check_file("--page", args.page)
    told = _told(args)
    revision = pinned(args.dataset, args.revision)
    rows = sample(args.dataset, args.config, args.rows, revision)
    if args.page is None:
        print(*lines(told, rows), sep="\n")
        return
    write_page(args.page, f"{args.dataset} ({args.config})", told, rows)
    print(f"{args.page}: {told['rows']} rows counted, {args.rows} of each subset shown")
