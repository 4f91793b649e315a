"""Many calls of the demo's API at once, and the order in which they were served."""

import time
from pathlib import Path
from typing import Any

import psutil
from gradio_client import Client
from gradio_client.utils import Status

from echo4o.models.pictures import read_record

LONG = {"prompt": "a ring", "count": 4, "steps": 100, "quality": "Quality", "think": True}
"""The longest work of the demo that a call can ask for."""
JOINED = (Status.IN_QUEUE, Status.PROCESSING, Status.ITERATING, Status.FINISHED)


def in_line(client: Client, server: psutil.Process, *, calls: int) -> None:
    """Let `calls` calls wait together behind long ones; none is lost, mixed up or overtaken.

    Each reply holds the picture of its own prompt and seed, and the server made the pictures in the
    order in which the calls joined its queue: the times of its files say so.
    """
    name = {"api_name": "/generate"}
    # Of a client of their own: cancelling a call that is over by then would end, in Gradio,
    # whichever call of the same client is worked on, and that one would never be answered.
    other = Client(client.src, verbose=False)
    first = [other.submit(**LONG, **name) for _ in range(2 + calls // 8)]
    for job in first:
        joined(job)
    jobs = []
    for n in range(calls):
        jobs.append(client.submit(prompt=f"ring {n}", seed=n, steps=2, **name))
        joined(jobs[-1])
    assert not all(job.done() for job in first), "the calls did not all wait at the same time"
    for job in first:
        job.cancel()
    replies = [job.result(timeout=300) for job in jobs]
    made = [Path(reply["pictures"][0]["image"]) for reply in replies]
    records = [read_record(path) for path in made]
    assert [(one.prompt, one.seed) for one in records] == [(f"ring {n}", n) for n in range(calls)]
    files = Path(server.cwd(), "files")
    times: dict[str, int] = {}
    for path in files.glob("*/echo-4o-*.png"):
        times[path.name] = max(path.stat().st_mtime_ns, times.get(path.name, 0))
    served = [times[path.name] for path in made]
    assert served == sorted(served), "the calls were served in another order than they came"


def joined(job: Any) -> None:
    """Wait until the server has a call in its queue."""
    deadline = time.monotonic() + 90
    while job.status().code not in JOINED:
        assert time.monotonic() < deadline, job.status()
        time.sleep(0.005)


def begun(job: Any) -> None:
    """Wait until a call's pictures have got somewhere."""
    deadline = time.monotonic() + 90
    while not any(one["progress"] > 0 for one in job.outputs()):
        assert not job.done(), job.exception()
        assert time.monotonic() < deadline, job.status()
        time.sleep(0.02)
