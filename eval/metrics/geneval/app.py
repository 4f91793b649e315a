"""The Space's page: look at one picture of one item and see what was found.

The models are set by the Space's owner (ECHO4O_DETECTOR, ECHO4O_COLOURS); a visitor cannot name
others.
"""

import os
import tempfile
from pathlib import Path

import gradio as gr
from PIL import Image

from echo4o.errors import Echo4oError
from echo4o.eval.boxes import drawn
from echo4o.eval.judging import JudgeConfig
from echo4o.eval.tasks import get_task
from echo4o.eval.visitors import judge_one

TASK = get_task("geneval")
ITEMS = {f"{item.prompt} ({item.tag})": item for item in TASK.items("kit").items}
LEDGER = Path(tempfile.mkdtemp(prefix="echo4o-")) / "ledger.sqlite"
UPLOAD_BYTES = 10 * 2**20
ABOUT = """# GenEval
Are the objects, numbers, colours and places of a prompt in the picture? Choose an item, give a
picture of it, and a detector looks. For whole runs use `evaluate.load` or `echo4o eval`; see
*Files*.
"""


def judge_picture(
    choice: str | None, picture: str | None
) -> tuple[str, list[list[str]], Image.Image | None]:
    """Return the verdict in words, one row per expectation, and the picture with its boxes."""
    detector = os.environ.get("ECHO4O_DETECTOR")
    if not detector:
        raise gr.Error("This Space has no detector yet; its owner sets ECHO4O_DETECTOR.")
    colours = os.environ.get("ECHO4O_COLOURS")
    config = JudgeConfig(
        model=f"detector:{detector}", **({} if not colours else {"colours": colours})
    )
    try:
        verdict = judge_one(TASK, ITEMS.get(choice or ""), picture, config, LEDGER)
    except Echo4oError as error:
        raise gr.Error(str(error)) from error
    if verdict.outcome != "judged":
        return f"**No verdict**: {verdict.outcome}", [], None
    rows = [
        ["yes" if finding.satisfied else "no", finding.expectation, finding.reason]
        for finding in verdict.findings
    ]
    with Image.open(picture) as image:
        shown = drawn(image.convert("RGB"), verdict)
    return f"**{'Right' if verdict.correct else 'Wrong'}**", rows, shown


with gr.Blocks(title="GenEval") as demo:
    gr.Markdown(ABOUT)
    with gr.Row():
        with gr.Column():
            item_box = gr.Dropdown(list(ITEMS), value=next(iter(ITEMS)), label="Item")
            picture_box = gr.Image(type="filepath", label="Picture")
            button = gr.Button("Look", variant="primary")
        with gr.Column():
            verdict_box = gr.Markdown("No verdict yet.")
            finding_box = gr.Dataframe(
                headers=["", "expected", "what was wrong"], label="Findings", wrap=True
            )
            shown_box = gr.Image(label="What the detector saw")
    # The ledger has one writer; calls wait for each other.
    button.click(
        judge_picture,
        [item_box, picture_box],
        [verdict_box, finding_box, shown_box],
        api_name="judge",
        concurrency_limit=1,
    )
demo.queue(max_size=16)

if __name__ == "__main__":
    demo.launch(max_file_size=UPLOAD_BYTES)
