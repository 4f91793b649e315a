"""`echo4o data <verb>`: plan, build, import, push, card, export. Imports fast."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from echo4o.errors import Echo4oError
from echo4o.manifest import Release, release_argument, seal
from echo4o.records import RunRecord

if TYPE_CHECKING:
    from .estimate import Estimator


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data plan`."""
    from .drafts import RECIPES

    parser.add_argument("recipe", choices=["shapes", *RECIPES], help="which rows to plan")
    parser.add_argument("--out", type=Path, required=True, help="folder of the plan")
    parser.add_argument("--rows", type=int, help="number of rows; default: the recipe's own")
    parser.add_argument("--seed", type=int, default=0, help="the same seed plans the same rows")
    parser.add_argument("--mix", help="subset=share,... instead of the shares of recipe shapes")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="benchmark items (JSON lines) that no row may ask for, or benchmark pictures",
    )
    parser.add_argument(
        "--references",
        metavar="SOURCE",
        help="pool of pictures: a folder or ORG/NAME[:CONFIG][@REVISION]; default: they are made",
    )
    parser.add_argument("--references-license", help="of pictures whose metadata names none")
    parser.add_argument("--llm", metavar="MODEL", help="chat model that words the rows")
    parser.add_argument(
        "--vlm", metavar="MODEL", help="chat model that classifies references of unknown kind"
    )
    parser.add_argument("--llm-budget", type=float, metavar="USD", help="of --llm and --vlm")
    parser.add_argument("--base-url", help="address of the API; default: $OPENAI_BASE_URL")
    parser.add_argument("--concurrency", type=int, default=8, help="most calls in flight")
    parser.add_argument("--dry-run", action="store_true", help="only count and estimate")
    parser.add_argument("--model", help="image model to estimate the price for")
    price_arguments(parser)


def price_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of everything that names a price."""
    parser.add_argument("--size", default="1024x1024", help="WIDTHxHEIGHT of every picture")
    parser.add_argument("--quality", default="auto", help="as the API names it")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="price table, else built in")
    parser.add_argument("--requests-per-minute", type=float, help="rate limit of the account")
    parser.add_argument("--tokens-per-minute", type=float, help="rate limit, for the estimate")


def refuse_idle(args: argparse.Namespace, needed: str, *options: str) -> None:
    """Refuse options that do nothing without another one.

    Raises:
        Echo4oError: one of them was given, and `needed` was not.
    """
    given = {word.partition("=")[0] for word in args.words}
    idle = [one for one in options if one in given]
    if idle and getattr(args, needed.removeprefix("--")) is None:
        raise Echo4oError(f"{idle[0]} does nothing without {needed}; add that, or leave it out")


def plan(args: argparse.Namespace) -> None:
    """Write plan.jsonl, what was dropped, and the record."""
    from echo4o.client import PriceTable

    from .planning import Request, write
    from .questions import ApiSettings

    estimated = ("--size", "--quality", "--requests-per-minute", "--tokens-per-minute")
    refuse_idle(args, "--model", *estimated)
    refuse_idle(args, "--references", "--references-license", "--vlm")
    request = Request(
        recipe=args.recipe,
        rows=args.rows,
        seed=args.seed,
        mix=args.mix,
        against=tuple(args.against),
        references=args.references,
        references_license=args.references_license,
        llm=args.llm,
        vlm=args.vlm,
        api=ApiSettings(
            base_url=args.base_url, budget_usd=args.llm_budget, concurrency=args.concurrency
        ),
    )
    done = write(
        request,
        args.out,
        estimator=estimator_of(args),
        prices=PriceTable.load(args.prices),
        dry_run=args.dry_run,
        progress=True,
    )
    verb = "would plan" if args.dry_run else "planned"
    against = f"; {done.dropped} different rows or pictures were dropped as benchmark items"
    print(
        f"{verb} {done.rows} rows and {done.references} references in {args.out}"
        f"{against if args.against else ''}"
    )
    if done.words:
        print(f"language and vision models: {json.dumps(done.words)}")
    if done.estimate is not None:
        print(*done.estimate.lines(), sep="\n")


def estimator_of(args: argparse.Namespace) -> "Estimator | None":
    """Estimates for the model and limits that were named, None without a model."""
    if args.model is None:
        return None
    from echo4o.client import PriceTable

    from .estimate import Estimator, Limits
    from .generate import Settings

    settings = Settings(model=args.model, size=args.size, quality=args.quality)
    limits = Limits(
        requests_per_minute=args.requests_per_minute, tokens_per_minute=args.tokens_per_minute
    )
    return Estimator(settings, PriceTable.load(args.prices), limits)


def build_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data build`."""
    parser.add_argument("folder", type=Path, help="folder of the plan and its pictures")
    parser.add_argument("--out", type=Path, required=True, help="dataset folder: .../echo-4o-image")
    parser.add_argument(
        "--validation",
        type=int,
        metavar="N",
        help="rows of the split validation, which shares no combination of objects and no "
        "reference with train; 0 for none (default: 2000, but at most a tenth of all rows)",
    )
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
    parser.add_argument(
        "--validation",
        type=int,
        default=0,
        metavar="N",
        help="rows of a split validation, which the authors do not have",
    )
    parser.add_argument("--verify", action="store_true", help="decode every picture")
    parser.add_argument(
        "--download", action="store_true", help="fetch a Hub id into the cache first: resumes"
    )


def import_(args: argparse.Namespace) -> None:
    """Read the authors' layout into a dataset folder."""
    from .importing import import_release

    result = import_release(
        args.source,
        args.out,
        revision=args.revision,
        download=args.download,
        validation=args.validation,
        verify=args.verify,
        progress=True,
    )
    _print_result(result.record, args.out)


def _print_result(record: RunRecord, out: Path) -> None:
    print(f"{record.metrics['rows']} rows in {out}: {json.dumps(record.metrics['by_subset'])}")
    print(f"by split: {json.dumps(record.metrics['by_split'])}")
    if record.metrics["left_out"]:
        print(f"left out: {json.dumps(record.metrics['left_out'])}; see {out / 'left_out.jsonl'}")


def push_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data push`."""
    parser.add_argument("folder", type=Path, help="dataset folder")
    parser.add_argument("repo", help="ORG/NAME on the Hub")
    parser.add_argument(
        "--rights",
        type=Path,
        metavar="FILE",
        help="RELEASE.toml with the table [rights]; needed once, the dataset's card keeps it",
    )
    parser.add_argument("--tag", help="immutable name of this version, for example v1")
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.add_argument("--dry-run", action="store_true", help="check and compare, write nothing")
    release_argument(parser)


def push(args: argparse.Namespace) -> None:
    """Check a dataset folder, publish it in one step, load it back and compare."""
    from echo4o.hub import publish_folder

    from .look import check_folder, compare
    from .signing_off import check_rights

    wanted = check_folder(args.folder)
    check_rights(args.folder, args.rights, repo=args.repo, dry_run=args.dry_run)
    if args.release is not None and not args.dry_run:
        seal(args.folder, args.repo, "dataset", Release.load(args.release))
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
    if done.revision is not None and done.pull_request is None:
        compare(wanted, args.repo, done.revision)
    tag = f", tag {done.tag}" if done.tag else ""
    print(f"published {args.repo} at {done.revision}{tag}; it loads back the same")


def card_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data card`."""
    parser.add_argument("folder", type=Path, help="dataset folder")


def card(args: argparse.Namespace) -> None:
    """Print the card that record and statistics give."""
    from .signing_off import card_of

    print(card_of(args.folder), end="")


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `data export`."""
    from .trainer_forms import FORMATS

    parser.add_argument("dataset", help="dataset folder or Hub id")
    parser.add_argument("format", choices=list(FORMATS), help="trainer that will read it")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--config", default="all", help="one of the dataset's configs")
    parser.add_argument("--split", default="train", help="train or validation")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub id")
    parser.add_argument("--seen-as", metavar="PATH", help="the folder's path where it is trained")


def export(args: argparse.Namespace) -> None:
    """Write a dataset in the form of a trainer."""
    from .exporting import export as write

    done = write(
        args.dataset,
        args.format,
        args.out,
        config=args.config,
        split=args.split,
        revision=args.revision,
        seen_as=args.seen_as,
        progress=True,
    )
    print(f"{done.rows.total()} rows in {args.out}: {json.dumps(dict(sorted(done.rows.items())))}")
    for reason, count in done.left_out.items():
        print(f"left out: {count} rows, because {reason}")
