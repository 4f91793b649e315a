"""`echo4o eval run`: make the pictures of a task, have them judged, write the report."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .judge_cli import (
    Command,
    check_judges,
    judge_pictures,
    judging_arguments,
    read_command,
    task_arguments,
    tell_price,
)

if TYPE_CHECKING:
    from .buying import BuyConfig

PICTURES = "pictures"
PURCHASES = Path("bought") / "ledger.sqlite"
REPORT = "report.html"
_USUAL_SIZE = (1024, 1024)
"""Of most models' pictures, where no size is named."""


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval run`."""
    task_arguments(parser)
    parser.add_argument(
        "--model",
        required=True,
        help="folder or Hub id of a BAGEL, OmniGen2 or BLIP3-o, or of any text-to-image pipeline "
        "of diffusers; "
        "api:NAME for an image model behind an OpenAI-compatible API",
    )
    parser.add_argument("--revision", help="branch, tag or commit of the model on the Hub")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; resumes")
    parser.add_argument(
        "--samples-per-prompt",
        type=int,
        metavar="N",
        help="pictures of each item; as many as the benchmark takes if absent",
    )
    parser.add_argument("--steps", type=int, help="denoising steps; the pipeline's own if absent")
    parser.add_argument(
        "--guidance", type=float, help="text guidance; the pipeline's own if absent"
    )
    parser.add_argument(
        "--size", type=_size, help="WIDTHxHEIGHT in pixels; the model's own if absent"
    )
    parser.add_argument(
        "--dtype", help="float32, bfloat16 or float16; as the model comes if absent"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="pictures made at once")
    parser.add_argument("--seed", type=int, default=0, help="every picture's seed follows from it")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="make the pictures in so many processes of this machine, one GPU or a share of the "
        "cores each; torchrun and accelerate launch work as well",
    )
    bought = parser.add_argument_group("pictures of api:NAME")
    bought.add_argument("--quality", default="auto", help="as the API names it")
    bought.add_argument(
        "--picture-base-url", help="API of the image model, where it is not the judge's"
    )
    bought.add_argument(
        "--picture-budget", type=float, help="most USD that this run's pictures may ever cost"
    )
    judging_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="say what is left to do and to buy; nothing is done"
    )


def run(args: argparse.Namespace) -> None:
    """Make the pictures, judge, score and report; what is finished is kept."""
    from echo4o.launch import is_first_rank, is_rank

    from .buying import PREFIX

    # Everything that can be wrong with the command and its surroundings is found before any work.
    asked = read_command(args)
    _settle_pictures(args, asked)
    if "png" not in (endings := asked.task.protocol(asked.protocol).endings):
        raise ValueError(
            f"the reading {asked.protocol} of {asked.task.name} looks only for files that end in "
            f"{', '.join(endings)}, and pictures are made as PNG; use another --protocol, or have "
            "pictures in that form judged with `echo4o eval judge`"
        )
    is_bought = args.model.startswith(PREFIX)
    _refuse_useless_options(args, is_bought=is_bought)
    if args.dry_run:
        _forecast(args, asked, is_bought=is_bought)
        return
    if is_first_rank():
        check_judges(asked, args.out)
    if is_bought:
        _buy(args, asked)
    elif args.processes > 1 and not is_rank():
        _launch(args)
        return
    else:
        _paint(args, asked)
    if is_first_rank():
        judge_pictures(asked, args.out / PICTURES, args.out, explained=args.explain)
        _report(args.out, several=args.judges is not None)


def _settle_pictures(args: argparse.Namespace, asked: Command) -> None:
    """Fill in how many pictures of what size the benchmark takes; refuse what it does not."""
    from .items import KIT
    from .scores import RELEASED

    task, is_own = asked.task, asked.protocol == KIT
    if args.samples_per_prompt is None:
        args.samples_per_prompt = 1 if is_own else task.pictures
    if not is_own and task.pictures > 1 and args.samples_per_prompt != task.pictures:
        raise ValueError(
            f"{task.name} takes {task.pictures} pictures of a prompt, not "
            f"{args.samples_per_prompt}; leave --samples-per-prompt away, or use --protocol {KIT}"
        )
    if asked.protocol == RELEASED and args.samples_per_prompt > task.pictures:
        raise ValueError(
            f"the reading {RELEASED} judges one picture of a prompt, not "
            f"{args.samples_per_prompt}; use another --protocol"
        )
    if not is_own and task.size is not None:
        if args.size not in (None, task.size):
            raise ValueError(
                f"{task.name} takes pictures of {task.size[0]}x{task.size[1]} pixels, not "
                f"{args.size[0]}x{args.size[1]}; leave --size away, or use --protocol {KIT}"
            )
        args.size = task.size


def _forecast(args: argparse.Namespace, asked: Command, *, is_bought: bool) -> None:
    from .buying import estimate_usd
    from .generate import missing
    from .judging import make_cases

    folder = args.out / PICTURES
    size, samples = args.size or _USUAL_SIZE, range(1, args.samples_per_prompt + 1)
    if is_bought:
        pictures, expected = estimate_usd(asked.items, folder, _buy_config(args))
        print(f"pictures to buy: {pictures}, about {expected:.2f} USD")
    else:
        wanted = len(asked.items) * args.samples_per_prompt
        if folder.is_dir():
            wanted = len(missing(asked.items, folder, args.samples_per_prompt))
        print(f"pictures to make: {wanted}")
    print(
        f"then to judge, where pictures are not there yet as {size[0]}x{size[1]} pixels (--size):"
    )
    protocol = asked.task.protocol(asked.protocol)
    found = [protocol.find(folder, one) if folder.is_dir() else {} for one in samples]
    cases = {
        config: make_cases(asked.items, found, protocol, config.repeats) for config in asked.configs
    }
    tell_price(asked, cases, args.out, size)


def _paint(args: argparse.Namespace, asked: Command) -> None:
    from echo4o.launch import is_first_rank

    from .generate import GenerateConfig, generate
    from .painters import PipelinePainter

    config = GenerateConfig(
        seed=args.seed,
        steps=args.steps,
        guidance=args.guidance,
        size=args.size,
        dtype=args.dtype,
        samples=args.samples_per_prompt,
        batch_size=args.batch_size,
    )
    painter = PipelinePainter(args.model, args.revision)
    folder = args.out / PICTURES
    generate(asked.items, asked.source, painter, folder, config, progress=is_first_rank())


def _launch(args: argparse.Namespace) -> None:
    """Run the same command once per process; the first of them judges and reports."""
    from echo4o.launch import launch

    status = launch(args.processes, "echo4o.cli", ["eval", "run", *args.words])
    if status:
        sys.exit(status)


def _buy(args: argparse.Namespace, asked: Command) -> None:
    from .buying import buy, estimate_usd

    config = _buy_config(args)
    folder = args.out / PICTURES
    pictures, expected = estimate_usd(asked.items, folder, config)
    print(f"pictures to buy: {pictures}, about {expected:.2f} USD")
    bought = buy(
        asked.items, asked.source, folder, config, ledger=args.out / PURCHASES, progress=True
    )
    print(
        f"pictures: {bought.pictures} bought, {len(bought.refused)} refused, {len(bought.failed)} "
        f"failed; {bought.calls} calls now, {bought.spent_usd:.4f} USD in all"
    )


def _buy_config(args: argparse.Namespace) -> "BuyConfig":
    from .buying import PREFIX, BuyConfig

    return BuyConfig(
        model=args.model.removeprefix(PREFIX),
        base_url=args.picture_base_url or args.base_url,
        size=args.size or _USUAL_SIZE,
        quality=args.quality,
        samples=args.samples_per_prompt,
        concurrency=args.concurrency,
        budget_usd=args.picture_budget,
    )


def _refuse_useless_options(args: argparse.Namespace, *, is_bought: bool) -> None:
    if args.processes < 1:
        raise ValueError(f"--processes must be at least 1, got {args.processes}")
    local = {
        "--revision": args.revision,
        "--steps": args.steps,
        "--guidance": args.guidance,
        "--dtype": args.dtype,
        "--processes": None if args.processes == 1 else args.processes,
    }
    remote = {
        "--quality": None if args.quality == "auto" else args.quality,
        "--picture-base-url": args.picture_base_url,
        "--picture-budget": args.picture_budget,
    }
    given = [name for name, value in (local if is_bought else remote).items() if value is not None]
    if given:
        kind = "an image model behind an API" if is_bought else "a model that runs here"
        raise ValueError(f"{given[0]} means nothing for {kind} ({args.model}); leave it away")


def _report(out: Path, *, several: bool) -> None:
    from .report import write_report
    from .runs import panel_folders

    path = write_report(panel_folders(out) if several else [out], out / REPORT, progress=True)
    print(f"report  {path}")


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT like 64x64, got {text!r}")
    return int(width), int(height)
