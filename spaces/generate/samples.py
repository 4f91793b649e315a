"""The release's recorded samples: what is shown where no model is loaded.

Each picture file carries its own prompt, seed and settings.
"""

from pathlib import Path
from typing import Any

import gradio as gr
import look
from files import store

FOLDER = Path(__file__).with_name("samples")


def shown(has_model: bool) -> list[Any]:
    """Updates of the gallery and the note of Create: the samples, or nothing."""
    if has_model:
        return [gr.skip(), gr.skip()]
    from echo4o.models.pictures import read_record

    pictures = []
    for path in sorted(FOLDER.glob("*.png")):
        record = read_record(path)
        steps, guidance = (
            record.parameters[name] for name in ("num_inference_steps", "guidance_scale")
        )
        words = f"machine-made, seed {record.seed}, {steps} steps, guidance {guidance:g}"
        shown_file = store(path.read_bytes(), path.name)
        pictures.append((shown_file, f"{words}: {record.prompt}"))
    if not pictures:
        return [gr.skip(), gr.skip()]
    note = look.plain_note(
        f"Recorded samples of the model {record.model}, picked by hand. Choose one to see its "
        "prompt, seed and settings; its file holds them too."
    )
    return [gr.update(value=pictures, visible=True, selected_index=0), note]
