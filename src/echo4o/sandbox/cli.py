"""`echo4o sandbox serve` and `echo4o sandbox paint`."""

import argparse
import json
import random
from pathlib import Path


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sandbox serve`."""
    parser.add_argument("--root", type=Path, default=Path("sandbox"), help="where state is kept")
    parser.add_argument("--openai-port", type=_port, default=8001, help="0 for a free port")
    parser.add_argument("--hub-port", type=_port, default=8002, help="0 for a free port")
    parser.add_argument(
        "--faults", default="", help="e.g. 429=0.05,500=0.02,cut=0.01,latency=200ms,seed=7"
    )
    parser.add_argument("--ready-file", type=Path, help="JSON with addresses and keys, when up")


def serve(args: argparse.Namespace) -> None:
    """Run both servers until SIGTERM or Ctrl-C."""
    from .faults import Faults
    from .hub.store import ORGANISATION, USER
    from .keys import API_KEY, GIVEN_KEY, GIVEN_TOKEN, HUB_TOKEN, told
    from .openai.chat import CHAT_MODELS
    from .openai.images import IMAGE_MODELS
    from .serve import serve_sandbox

    def announce(line: str) -> None:
        """Tell an address, and the variables that lead every client to it."""
        name, _, url = line.partition(": ")
        print(line, flush=True)
        if name == "openai":
            key = told(API_KEY, GIVEN_KEY)
            print(f"  export OPENAI_BASE_URL={url} OPENAI_API_KEY={key}")
            judge, writer = CHAT_MODELS
            print(f"  {IMAGE_MODELS[0]} paints, {judge} judges, {writer} words", flush=True)
        else:
            token = told(HUB_TOKEN, GIVEN_TOKEN)
            print(f"  export HF_ENDPOINT={url} HF_TOKEN={token} HF_HUB_DISABLE_XET=1")
            print(f"  you may write to {USER}/NAME and {ORGANISATION}/NAME", flush=True)

    serve_sandbox(
        args.root,
        openai_port=args.openai_port,
        hub_port=args.hub_port,
        faults=Faults.parse(args.faults),
        ready_file=args.ready_file,
        announce=announce,
    )


def paint_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sandbox paint`."""
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--count", type=int, default=1000, help="how many pictures")
    parser.add_argument("--size", type=int, default=64, help="side in pixels, at least 32")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes")


def paint(args: argparse.Namespace) -> None:
    """Paint scenes of chance as PNG, with metadata.jsonl (what `datasets` calls an imagefolder)."""
    from tqdm import tqdm

    from ..errors import Echo4oError
    from ..records import write_atomic
    from . import world
    from .world.scenes import random_scene

    if args.count < 1 or not 32 <= args.size <= 2048:
        raise Echo4oError(
            f"--count must be 1 or more and --size 32 to 2048, got {args.count} and {args.size}"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in tqdm(range(args.count), desc="paint"):
        instruction, include = random_scene(random.Random(f"{args.seed}|{number}"))
        name = f"{number:06d}.png"
        picture = world.paint(instruction, width=args.size, height=args.size, seed=number)
        picture.save(args.out / name)
        row = {"file_name": name, "instruction": instruction, "constraints": {"include": include}}
        lines.append(json.dumps(row))
    write_atomic(args.out / "metadata.jsonl", "\n".join(lines) + "\n")
    print(f"{args.count} pictures in {args.out}")


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, got {port}")
    return port
