"""The Space's page: judge one picture against one item and see the reasons."""

import tempfile
from pathlib import Path

import gradio as gr

from echo4o.errors import Echo4oError
from echo4o.eval.tasks import get_task
from echo4o.eval.visitors import judge_one, paid_judge

TASK = get_task("imagine_bench")
ITEMS = {f"{item.prompt} ({item.tag})": item for item in TASK.items("kit").items}
LEDGER = Path(tempfile.mkdtemp(prefix="echo4o-")) / "ledger.sqlite"
UPLOAD_BYTES = 10 * 2**20
ABOUT = """# Imagine-Bench
Does a picture show what was imagined, and still the thing itself? Choose an item, give a picture of
it, and a judge model marks fantasy, identity and looks. For whole runs use `evaluate.load` or
`echo4o eval`; see *Files*.
"""


def judge_picture(choice: str | None, picture: str | None) -> tuple[str, list[list[str]]]:
    """Return the points in words, and one row per mark."""
    try:
        verdict = judge_one(TASK, ITEMS.get(choice or ""), picture, paid_judge(), LEDGER)
    except Echo4oError as error:
        raise gr.Error(str(error)) from error
    if verdict.outcome != "judged":
        return f"**No verdict**: {verdict.outcome}", []
    rows = [
        [f"{finding.points:g}", finding.expectation, finding.reason] for finding in verdict.findings
    ]
    return f"**{verdict.value:g} of 10 points**", rows


with gr.Blocks(title="Imagine-Bench") as demo:
    gr.Markdown(ABOUT)
    with gr.Row():
        with gr.Column():
            item_box = gr.Dropdown(list(ITEMS), value=next(iter(ITEMS)), label="Item")
            picture_box = gr.Image(type="filepath", label="Picture")
            button = gr.Button("Judge", variant="primary")
        with gr.Column():
            verdict_box = gr.Markdown("No verdict yet.")
            finding_box = gr.Dataframe(headers=["mark", "of", "reason"], label="Marks", wrap=True)
    # The ledger has one writer; calls wait for each other.
    button.click(
        judge_picture,
        [item_box, picture_box],
        [verdict_box, finding_box],
        api_name="judge",
        concurrency_limit=1,
    )
demo.queue(max_size=16)

if __name__ == "__main__":
    demo.launch(max_file_size=UPLOAD_BYTES)
