"""What the page's places look like: HTML of every state. No event and no model in here."""

import base64
import html

from jobs import File, Progress, Result
from line import Place

FOOT = (
    "Every picture made here is machine-made; its file says so and holds prompt, seed and settings."
)
FACES = (
    "Please upload a person's picture only with that person's consent. Uploads are shown to "
    "nobody else and deleted after an hour."
)
CAPTION = 90
"""Characters of a prompt below its picture."""
MARK = '<div class="mark" aria-hidden="true"><i></i><i></i><i></i></div>'


def masthead(name: str, state: str, longest: int) -> str:
    """Title, one sentence, and a pill: which model, and whether it is ready."""
    safe = html.escape(name)
    words = {
        "none": "No model loaded",
        "loading": f"Loading {safe} ...",
        "ready": f"{safe} &middot; up to {longest} px",
        "failed": f"{safe} could not be loaded",
    }[state]
    return (
        '<div id="masthead"><div><h1>Echo-4o</h1>'
        "<p>Make a picture, put pictures together, ask about one.</p></div>"
        f'<span id="model-line" role="status"><span class="dot {state}"></span>{words}</span></div>'
    )


def notice(title: str, words: str) -> str:
    """A designed empty place."""
    return (
        f'<div class="stage notice">{MARK}<strong>{html.escape(title)}</strong>'
        f"<span>{html.escape(words)}</span></div>"
    )


def waiting(place: Place | None = None) -> str:
    """Asked for, not begun: how many are in front, once that is known."""
    title = "Waiting for your turn" if place is None else in_front(place)
    return (
        f'<div class="stage notice waiting" aria-busy="true">{MARK}'
        f'<strong role="status">{title}</strong>'
        "<span>One request is worked on at a time; yours is in the queue.</span></div>"
    )


def in_front(place: Place) -> str:
    """A place in the queue in words."""
    if not place.before:
        return "You are next"
    time_ = f", {seconds(place.seconds)}" if place.seconds else ""
    return f"{place.before} before you{time_}"


def working(progress: Progress) -> str:
    """The picture as far as it is, how far that is, and the time to go."""
    percent = round(100 * progress.share)
    left = "a moment" if progress.left < 1.5 else seconds(progress.left)
    words = f"{progress.words}, {left} to go"
    if progress.preview is None:
        middle = MARK
    else:
        data = base64.b64encode(progress.preview).decode()
        middle = f'<img src="data:image/jpeg;base64,{data}" alt="Preview of the picture so far">'
    return (
        f'<div class="stage working" aria-busy="true">{middle}'
        f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}" aria-label="{html.escape(words)}">'
        f'<i style="width:{percent}%"></i></div><p>{html.escape(words)}</p></div>'
    )


def stopping() -> str:
    """Asked to end; the model hears of it with its next piece."""
    return (
        f'<div class="stage notice waiting" aria-busy="true">{MARK}'
        '<strong role="status">Stopping</strong></div>'
    )


def stopped() -> str:
    """Ended because the visitor asked for it."""
    return notice("Stopped", "Nothing was kept; start again whenever you like.")


def failed(words: str) -> str:
    """Nothing came of it, and there is no earlier picture to show."""
    return (
        '<div class="stage notice broken"><div class="mark" aria-hidden="true"><i></i></div>'
        f"<strong>No picture this time</strong><span>{html.escape(words)}</span></div>"
    )


def alert(words: str) -> str:
    """One sentence beside the button, read out at once."""
    return f'<div class="alert" role="alert">{html.escape(words)}</div>' if words else ""


BABBLE = "This tiny model was never taught to write: expect babble."


def thought(words: str, *, writing: bool, is_tiny: bool = False) -> str:
    """The plan of think mode, while it is written and after."""
    state = "writing" if writing else "written"
    title = f"Plan <small>{BABBLE}</small>" if is_tiny else "Plan"
    shown = html.escape(words) or "The model writes its plan here before it paints."
    empty = "" if words else " empty"
    return (
        f'<div class="thought {state}{empty}"><strong>{title}</strong>'
        f'<div class="words" tabindex="0"><div>{shown}</div></div></div>'
    )


def label(file: File) -> str:
    """The label that every picture carries."""
    return f"machine-made, seed {file.seed}"


def caption(file: File, prompt: str) -> str:
    """Label and prompt, which is also what is read out in the picture's place."""
    words = " ".join(prompt.split())
    return f"{label(file)}: {words[:CAPTION]}{'...' if len(words) > CAPTION else ''}"


def note(result: Result, width: int, height: int, settings: str, link: str) -> str:
    """What the pictures were made with, and the link that brings it back."""
    seeds = ", ".join(str(file.seed) for file in result.files)
    kept_back = f" {result.withheld} kept back by the check of contents." if result.withheld else ""
    return (
        f'<p class="note" role="status">{width} x {height} pixels, {html.escape(settings)}, '
        f"seed {seeds}, {result.seconds:.1f} s.{kept_back} "
        f'<a href="{html.escape(link)}">Link to these settings</a></p>'
    )


def seconds(value: float) -> str:
    """A span of time in words that are short enough for a button."""
    if value < 90:
        return f"about {max(round(value), 1)} s"
    return f"about {round(value / 60)} min"


def plain_note(words: str) -> str:
    """A sentence below pictures."""
    return f'<p class="note" role="status">{html.escape(words)}</p>'
