"""`echo4o eval annotate`: people judge a run's pictures on a local page."""

import argparse
from pathlib import Path


def annotate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `echo4o eval annotate`."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")


def annotate(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C, then say how far people and judge agree."""
    from echo4o.owner import sole_owner

    from .annotate import make_server
    from .votes import PEOPLE, read_people

    server, address = make_server(args.run, args.port)
    busy = f"{args.run} is being annotated by another process; use its page, or end it"
    with sole_owner(args.run / PEOPLE, busy), server:
        print(f"annotate at {address} (Ctrl-C ends it; every vote is kept at once)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    people = read_people(args.run)
    if people is None:
        print("nobody has voted yet")
        return
    print(
        f"{len(people.raters)} raters, {people.seen} pictures seen, {people.twice} by two or more, "
        f"{people.disputes} disputes open"
    )
    for name, found in (("raters", people.among), ("judge and people", people.judge)):
        if found is not None and found[0].alpha is not None:
            one = found[0]
            print(
                f"alpha, {name}: {one.alpha:.3f} [{one.low:.2f}, {one.high:.2f}], "
                f"{one.items} pictures"
            )
    print(f"`echo4o eval report {args.run}` shows it by tag")
