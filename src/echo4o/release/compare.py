"""Two models through the same tasks, before and after a training, and one table of both.

The flow is that of the verbs `eval run` and `eval compare`; nothing is judged twice, and a run that
was interrupted goes on.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..cli import run_verb
from ..errors import Echo4oError
from ..records import write_atomic

_TITLE = """# {after}, against {before}

Both models made their own pictures with the same settings and seeds; one judge read all of them.
"""


def compare(
    before: str,
    after: str,
    tasks: Sequence[str],
    out: Path,
    words: Sequence[str],
    say: Callable[[str], None],
) -> Path:
    """Run every task for both models; returns the Markdown file with the comparison.

    Args:
        before: Folder or Hub id of a model, NAME@REVISION on the Hub.
        after: The same.
        tasks: Names of tasks.
        out: Folder of all runs.
        words: More options of `echo4o eval run`.
        say: Takes lines for people.

    Raises:
        Echo4oError: both models are the same.
    """
    if before == after:
        raise Echo4oError(f"before and after are the same model, {before}; give two")
    parts = [_TITLE.format(before=before, after=after)]
    for task in tasks:
        runs = []
        for name, model in (("before", before), ("after", after)):
            folder = out / task / name
            say(f"{task}: {name}, {model}")
            run_verb("eval", "run", [task, *_model(model), "--out", str(folder), *words])
            runs.append(str(folder))
        table = out / task / "comparison.md"
        run_verb("eval", "compare", [*runs, "--table", str(table)])
        parts.append(table.read_text())
    result = out / "comparison.md"
    write_atomic(result, "\n".join(parts))
    return result


def _model(name: str) -> list[str]:
    model, at, revision = name.rpartition("@")
    if not at or Path(name).exists():
        return ["--model", name]
    return ["--model", model, "--revision", revision]
