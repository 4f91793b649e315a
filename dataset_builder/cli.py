"""`echo4o data <verb>`: plan, generate, build, import, push, stats. Imports fast."""

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path

from echo4o.errors import Echo4oError
from echo4o.records import RunRecord, write_atomic


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data plan`."""
    parser.add_argument("recipe", choices=["shapes"], help="which rows to plan")
    parser.add_argument("--out", type=Path, required=True, help="folder of the plan")
    parser.add_argument("--rows", type=int, default=6000, help="number of rows")
    parser.add_argument("--seed", type=int, default=0, help="the same seed plans the same rows")
    parser.add_argument("--mix", help="subset=share,... instead of the recipe's shares")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="benchmark items (JSON lines) that no row may ask for",
    )


def plan(args: argparse.Namespace) -> None:
    """Write plan.jsonl, what was dropped, and the record."""
    from .decontaminate import Blocklist
    from .plan import PLAN_NAME, parse_mix
    from .shapes import plan_shapes

    started, clock = datetime.now(UTC), time.monotonic()
    block = Blocklist(args.against)
    mix = None if args.mix is None else parse_mix(args.mix)
    made = plan_shapes(rows=args.rows, seed=args.seed, mix=mix, block=block)
    text = made.to_text()
    _refuse_other_plan(args.out, text)
    coverage = made.coverage()
    write_atomic(args.out / "plan.dropped.jsonl", block.report())
    write_atomic(args.out / PLAN_NAME, text)
    RunRecord(
        name="plan",
        command="echo4o data plan",
        inputs=block.inputs,
        parameters={"recipe": args.recipe, "rows": args.rows, "mix": args.mix},
        seed=args.seed,
        metrics=coverage | {"blocked_items": len(block), "dropped": len(block.dropped)},
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 3),
    ).save(args.out / "plan.record.json")
    print(
        f"planned {len(made.rows)} rows and {len(made.references)} references in {args.out}; "
        f"{len(block.dropped)} different rows were dropped as benchmark items"
    )


def _refuse_other_plan(folder: Path, text: str) -> None:
    from .generate import LEDGER_NAME
    from .plan import PLAN_NAME

    path = folder / PLAN_NAME
    if (folder / LEDGER_NAME).exists() and path.exists() and path.read_text() != text:
        raise Echo4oError(f"{folder} holds another plan and its pictures; plan in a new folder")


def generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data generate`."""
    parser.add_argument("folder", type=Path, help="folder of the plan")
    parser.add_argument("--model", required=True, help="image model of the API")
    parser.add_argument("--base-url", help="address of the API; default: $OPENAI_BASE_URL")
    parser.add_argument("--budget", type=float, metavar="USD", help="never spend more than this")
    parser.add_argument("--concurrency", type=int, default=8, help="most calls in flight")
    parser.add_argument("--requests-per-minute", type=float, help="slow down to this")
    parser.add_argument("--size", default="1024x1024", help="WIDTHxHEIGHT of every picture")
    parser.add_argument("--quality", default="auto", help="as the API names it")
    parser.add_argument("--output-format", choices=["png", "jpeg", "webp"], default="png")
    parser.add_argument("--dry-run", action="store_true", help="only estimate calls and price")


def generate(args: argparse.Namespace) -> None:
    """Buy the pictures that the plan still lacks."""
    from .generate import Settings, estimate_usd
    from .generate import generate as buy

    settings = Settings(
        model=args.model,
        size=args.size,
        quality=args.quality,
        output_format=args.output_format,
    )
    if args.dry_run:
        calls, price = estimate_usd(args.folder, settings)
        print(f"{calls} calls, about {price:.2f} USD; nothing was called")
        return
    summary = buy(
        args.folder,
        settings,
        base_url=args.base_url,
        budget_usd=args.budget,
        concurrency=args.concurrency,
        requests_per_minute=args.requests_per_minute,
        progress=True,
    )
    counted = ", ".join(f"{count} {name}" for name, count in summary.outcomes.items())
    print(f"{counted}; {summary.calls} calls now, {summary.spent_usd:.4f} USD spent in all")
    if summary.outcomes.get("failed"):
        print("failed rows are tried again when you run the same command; a build leaves them out")


def build_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data build`."""
    parser.add_argument("folder", type=Path, help="folder of the plan and its pictures")
    parser.add_argument("--out", type=Path, required=True, help="dataset folder: .../echo-4o-image")
    parser.add_argument("--validation", type=int, default=0, metavar="N", help="validation rows")
    parser.add_argument("--license", help="licence of the pictures, as the Hub names it")


def build(args: argparse.Namespace) -> None:
    """Write the dataset folder."""
    from .build import build as write

    result = write(
        args.folder,
        args.out,
        validation=args.validation,
        license_id=args.license,
        progress=True,
    )
    _print_result(result.record, args.out)


def import__arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data import`."""
    parser.add_argument("source", help="folder in the authors' layout, or its Hub id")
    parser.add_argument("--out", type=Path, required=True, help="dataset folder: .../echo-4o-image")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub id")
    parser.add_argument("--validation", type=int, default=0, metavar="N", help="validation rows")
    parser.add_argument("--verify", action="store_true", help="decode every picture")


def import_(args: argparse.Namespace) -> None:
    """Read the authors' layout into a dataset folder."""
    from .importing import import_release

    result = import_release(
        args.source,
        args.out,
        revision=args.revision,
        validation=args.validation,
        verify=args.verify,
        progress=True,
    )
    _print_result(result.record, args.out)


def _print_result(record: RunRecord, out: Path) -> None:
    print(f"{record.metrics['rows']} rows in {out}: {json.dumps(record.metrics['by_subset'])}")
    if record.metrics["left_out"]:
        print(f"left out: {json.dumps(record.metrics['left_out'])}; see {out / 'left_out.jsonl'}")


def push_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data push`."""
    parser.add_argument("folder", type=Path, help="dataset folder")
    parser.add_argument("repo", help="ORG/NAME on the Hub")
    parser.add_argument("--tag", help="immutable name of this version, for example v1")
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.add_argument("--dry-run", action="store_true", help="check and compare, write nothing")


def push(args: argparse.Namespace) -> None:
    """Check a dataset folder, publish it in one step, load it back and compare."""
    from echo4o.hub import publish_folder

    from .look import check_folder, compare

    wanted = check_folder(args.folder)
    done = publish_folder(
        args.folder,
        args.repo,
        repo_type="dataset",
        message="Publish echo-4o-image",
        tag=args.tag,
        private=args.private,
        dry_run=args.dry_run,
        check=lambda commit: compare(wanted, args.repo, commit),
    )
    if args.dry_run:
        print(f"would send {done.uploaded_bytes} bytes to {args.repo}; nothing was written")
        return
    if done.revision is not None:
        compare(wanted, args.repo, done.revision)
    tag = f", tag {done.tag}" if done.tag else ""
    print(f"published {args.repo} at {done.revision}{tag}; it loads back the same")


def stats_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data stats`."""
    parser.add_argument("dataset", help="dataset folder or Hub id")
    parser.add_argument("--config", default="all", help="one of the dataset's configs")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub id")


def stats(args: argparse.Namespace) -> None:
    """Print what a dataset holds, as JSON."""
    from .look import count

    tally = count(args.dataset, args.config, args.revision)
    print(json.dumps(tally.to_dict(), indent=2, sort_keys=True))
