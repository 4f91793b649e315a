"""What an older request still has to show, when its visitor has asked for something else."""

import gradio as gr
import pytest


@pytest.fixture
def explorer_page(module, dataset, runs, monkeypatch):
    """Handlers of the page by name, and the component of each name."""
    monkeypatch.setenv("ECHO4O_DATASET", str(dataset))
    monkeypatch.setenv("ECHO4O_RESULTS", str(runs))
    page = module("app").page
    handlers = {one.name: one.fn for one in page.fns.values()}
    named = {
        getattr(one, "elem_id", None) or getattr(one, "label", None): one
        for one in page.blocks.values()
    }
    module("api").catalogue.wait(60, whole=True)
    return handlers, named


def test_a_choice_is_not_overwritten_by_the_pictures_of_the_list_before(explorer_page):
    handlers, named = explorer_page
    stage, words = named["rows-stage"], named["Search"]
    visitor, other = (gr.Request(session_hash=name) for name in ("one", "other"))
    load, beside = (handlers["open_page"]("", who) for who in (visitor, other))
    for opened in (load, beside):
        while stage not in next(opened):
            pass
    chosen = [*handlers["on_filter"]("multi_reference", "", "", visitor)]
    assert "Rows 1 to 6 of 6" in [one[stage] for one in chosen if stage in one][-1]
    late = [*load]
    assert not any(stage in one for one in late)
    assert any(named["board-stage"] in one for one in late)
    assert any(stage in one for one in beside)
    # Somebody may type, choose or change the tab while pictures are on their way.
    shown = [one for one in chosen if stage in one]
    assert all(words not in one for one in chosen)
    assert [named["Subset"] in one for one in shown] == [True, False]


def test_the_list_that_was_read_at_last_is_the_one_asked_for_last(explorer_page):
    handlers, named = explorer_page
    stage, visitor = named["rows-stage"], gr.Request(session_hash="one")
    for name in ("instruction_following", "multi_reference"):
        list(handlers["on_filter"](name, "", "", visitor))
    ticked = [one for one in handlers["on_tick"](visitor) if stage in one]
    assert "Rows 1 to 6 of 6" in ticked[-1][stage]
    tabs = [one for one in named.values() if isinstance(one, gr.Tabs)]
    assert not any(one in changed for one in tabs for changed in ticked)
