"""Metrics of the Hub, loaded by `evaluate` itself through a Hub that fails for a moment."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from huggingface_hub import HfApi
from starlette.responses import PlainTextResponse
from tests_sandbox import hub_alone

import echo4o.eval

METRIC = Path(echo4o.eval.__file__).parent / "metrics/geneval_plus_plus"
SPACE = "rehearsal/geneval_plus_plus"
# The Hub's address is fixed at import, so a process of its own; one for both, as it takes seconds.
SCRIPT = f"""
from echo4o.cli import main
main(["eval", "again", "{SPACE}@main", "--json"])
main(["eval", "again", "rehearsal/geneval"])
"""


class FailsEvaluate:
    """A Hub that fails once for each method that `evaluate` uses; all others are served."""

    def __init__(self, app):
        self.app, self.seen = app, Counter()

    async def __call__(self, scope, receive, send):
        agent = dict(scope.get("headers", ())).get(b"user-agent", b"")
        # `evaluate` calls itself `datasets` there, which nobody else does here.
        if scope["type"] == "http" and agent.startswith(b"datasets/"):
            self.seen[scope["method"]] += 1
            if self.seen[scope["method"]] == 1:
                answer = PlainTextResponse('{"error": "Overloaded"}', 503)
                return await answer(scope, receive, send)
        return await self.app(scope, receive, send)


def test_a_metric_is_loaded_from_a_hub_that_fails_for_a_moment(tmp_path):
    """Also when only the file fails, whose place then takes the answer of the Hub that failed."""
    made = []

    def around(app):
        made.append(FailsEvaluate(app))
        return made[0]

    with hub_alone(tmp_path / "sandbox", around) as hub:
        api = HfApi(hub.hub, token=hub.token)
        api.create_repo(SPACE, repo_type="space", space_sdk="gradio")
        api.upload_folder(
            folder_path=METRIC, repo_id=SPACE, repo_type="space", allow_patterns=["*.py"]
        )
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=hub.environment(tmp_path / "home") | {"HF_UPDATE_DOWNLOAD_COUNTS": "0"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert "Traceback" not in done.stderr
    (told,) = json.loads(done.stdout.splitlines()[-1])
    assert told["space"] == f"{SPACE}@main"
    assert "answers a checklist" in told["description"]
    assert made[0].seen == {"HEAD": 3, "GET": 2}
    # What is not there is no failure: said at once, by one look of the Hub's own client.
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: cannot read geneval.py of space rehe")
