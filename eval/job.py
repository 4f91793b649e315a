"""An evaluation on HF Jobs: the call that starts one, and what it would cost at most.

The job is templates/hf_job.py: it makes the pictures, has them judged, and opens a pull request
with the scores in the model's repo. Nobody has run one yet (claims.yaml, hf-jobs).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echo4o.errors import Echo4oError
from echo4o.hub_reading import resolve

from .item_repo import PREFIX, refuse_references
from .tasks import get_task

SCRIPT = Path(__file__).parent / "templates" / "hf_job.py"
USD_PER_HOUR = {"cpu-basic": 0.01, "a100-large": 2.5, "h200": 5.0, "h200x8": 40.0}
"""As the Hub's documentation had them in August 2026; others are not known here."""
_SECRETS = ("HF_TOKEN", "OPENAI_API_KEY")
_HIDDEN = "(from your environment)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is to be judged, and where."""

    task: str
    """Benchmark."""
    items: str
    """`hub:ORG/NAME[@REVISION]`; a job has no files of yours."""
    model: str
    """`ORG/NAME`."""
    revision: str
    """Commit of the model."""
    judge: str
    """Model of the judge."""
    protocol: str = "paper"
    """How the judge is asked; the job fetches the authors' wording unless it is `kit`."""
    results: str = ""
    """Results dataset that gets the run; empty for none."""
    wheel: str = "echo4o"
    """What pip installs there, `echo4o` or an address of a wheel."""
    flavor: str = "a100-large"
    """Kind of machine."""
    hours: float = 2.0
    """It is stopped after so long; the Hub's own default of half an hour is too short."""

    def __post_init__(self) -> None:
        if not self.items.startswith(PREFIX):
            raise ValueError(f"`items` must be {PREFIX}ORG/NAME, got {self.items!r}")
        if self.model.count("/") != 1:
            raise ValueError(f"`model` must be ORG/NAME on the Hub, got {self.model!r}")
        if not 0 < self.hours <= 48:
            raise ValueError(f"`hours` must be above 0 and at most 48, got {self.hours}")

    def call(self) -> dict[str, Any]:
        """The arguments of `huggingface_hub.run_uv_job`, secrets left out."""
        base = os.environ.get("OPENAI_BASE_URL")
        name, _, address = self.wheel.partition(" @ ")
        return {
            "script": str(SCRIPT),
            "script_args": [
                *(self.task, self.items, self.model, self.revision, self.judge),
                *(self.results or "-", self.protocol),
            ],
            "dependencies": [f"{name}[eval]" + (f" @ {address}" if address else "")],
            "python": "3.12",
            "flavor": self.flavor,
            "timeout": f"{round(self.hours * 60)}m",
            "env": {"OPENAI_BASE_URL": base} if base else {},
            "labels": {"echo4o": "eval", "task": self.task},
        }

    def cost(self) -> str:
        """What the machine costs at most; the judge's calls come on top."""
        price = USD_PER_HOUR.get(self.flavor)
        if price is None:
            return f"the price of {self.flavor} is not known here; see the Hub's page on Jobs"
        return f"at most {price * self.hours:.2f} USD for the machine, judge not included"


def pinned(job_model: str, revision: str | None) -> str:
    """The commit that a job judges, so that its scores are of one model.

    Raises:
        NotOnHubError: there is no such model or revision.
    """
    return resolve(job_model, "model", revision)


def check_asked(job: Job) -> None:
    """Find out before a machine is paid for whether the task, its protocol and items exist.

    Raises:
        Echo4oError: one of them does not, or such items cannot be on the Hub.
    """
    task = get_task(job.task)
    task.check_protocol(job.protocol)
    refuse_references(task)
    repo, _, revision = job.items.removeprefix(PREFIX).partition("@")
    resolve(repo, "dataset", revision or None)


def shown(job: Job) -> dict[str, Any]:
    """The call as a dry run prints it."""
    return job.call() | {"secrets": dict.fromkeys(_SECRETS, _HIDDEN)}


def start(job: Job) -> str:
    """Start the job; returns its address.

    Raises:
        Echo4oError: a secret is missing, or the Hub refused.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    secrets = {"HF_TOKEN": get_token(), "OPENAI_API_KEY": os.environ.get("OPENAI_API_KEY")}
    if missing := [name for name, value in secrets.items() if not value]:
        raise Echo4oError(f"the job needs {missing[0]}; set it in your environment")
    # Once: a call whose answer was lost may have started a machine that costs money.
    try:
        return str(HfApi().run_uv_job(**job.call(), secrets=secrets).url)
    except HfHubHTTPError as error:
        said = error.server_message or f"status {error.response.status_code}"
        raise Echo4oError(f"the Hub did not start the job: {said}") from error
