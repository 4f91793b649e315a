"""The demo: Create, Compose, Ask and Compare on one page, with the first three as API endpoints.

Only layout and events; `checks` refuses, `engine` makes. Uploaded exactly as it stands.
"""

try:
    # ZeroGPU patches torch, so its package comes before everything that imports torch.
    from spaces import GPU
except ImportError:
    GPU = None

import os
from typing import Any

import api
import checks
import compare
import expected
import files
import gradio as gr
import look
import restore
import samples
import tabs
import theme
from engine import Engine, configured_source
from jobs import Desk, Gate
from judge import Judge

WAITING_VISITORS = 64
LIVE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
gate = Gate()
desk = Desk(Engine(*configured_source()), gate, GPU)
desk.engine.start()
judge = Judge.configured()
desks = {desk.engine.name: desk}
if other := os.environ.get("ECHO4O_COMPARE", "").strip():
    # A second model, for the tab Compare alone.
    second = Desk(Engine(other), gate, GPU)
    second.engine.start()
    desks[second.engine.name] = second
# Paths that were given are whole by now.
files.settle()


def build() -> gr.Blocks:
    """The page."""
    engine = desk.engine
    with gr.Blocks(title="Echo-4o") as page:
        top = gr.HTML(look.masthead(engine.name, engine.state, 0), padding=False)
        visit = gr.State([])
        with gr.Tabs() as chosen:
            with gr.Tab("Create", id="create"):
                created = tabs.create(desk, visit)
            with gr.Tab("Compose", id="compose"):
                composed = tabs.compose(desk, visit)
            with gr.Tab("Ask", id="ask"):
                ask = tabs.ask(desk)
            with gr.Tab("Compare", id="compare"):
                compared = compare.compare(desks, visit)
        if judge is not None:
            tabs.judging(judge, visit, created)
        history = tabs.history(visit, created)
        for done in (created.done, composed.done, compared.done):
            done.then(tabs.remembered, visit, history, queue=False, **LIVE)
        tabs.repeat(desk, created, composed, chosen)
        gr.HTML(f'<p class="note foot">{look.FOOT}</p>', padding=False)
        used = [created.buttons, composed.buttons, ask, compared.buttons]

        waiting = gr.Timer(1, active=False)
        told = [
            top,
            *[buttons.start for buttons in used],
            *created.starters,
            created.results.rest,
            composed.results.rest,
            *[buttons.alert for buttons in used],
            created.results.gallery,
            created.results.note,
            waiting,
        ]

        def where_it_is() -> list[Any]:
            """The page for a model that is there, or for none; nothing while it is loaded."""
            if engine.state == "loading":
                return [*[gr.skip()] * (len(told) - 1), gr.Timer(active=True)]
            ready = engine.state == "ready"
            usual = restore.Values()[1:]
            names = [expected.of_tab(engine, word, *usual) for word in ("Create", "Compose")]
            names += ["Ask", compare.button_label(desks)]
            return [
                look.masthead(engine.name, engine.state, engine.longest),
                *[gr.update(interactive=ready, value=name) for name in names],
                *[gr.update(value=one) for one in tabs.words(engine)],
                tabs.empty(desk, "create") if ready else gr.update(visible=False),
                tabs.empty(desk, "compose"),
                *[look.alert("" if ready else desk.why_not())] * 4,
                *samples.shown(ready),
                gr.Timer(active=False),
            ]

        def arrive(request: gr.Request) -> list[Any]:
            """What a link restores; without one nobody's typing is touched."""
            found = restore.from_link(dict(request.query_params))
            return [*(found or [gr.skip()] * len(restore.Values())), *where_it_is()]

        # Not through the queue: when that is full, a page would never come alive.
        here = [created.prompt, *created.settings, *told]
        page.load(arrive, outputs=here, queue=False, **LIVE)
        waiting.tick(where_it_is, outputs=told, queue=False, **LIVE)
        api.add_endpoints(desk)
    return page.queue(max_size=WAITING_VISITORS)


page = build()

if __name__ == "__main__":
    page.launch(
        theme=theme.THEME,
        css=theme.STYLE,
        max_file_size=checks.UPLOAD_BYTES,
        show_error=False,
        footer_links=["api", "settings"],
        ssr_mode=False,
    )
