"""Collections on the Hub, read and written: the part of `hub.py` that is about no repo."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from .hub_errors import patiently


class Listed(NamedTuple):
    """One item of a collection."""

    id: str
    """Repo, or number of a paper."""
    type: Literal["model", "dataset", "space", "paper"]
    note: str = ""


def publish_collection(
    owner: str, title: str, items: Sequence[Listed], *, description: str = ""
) -> str:
    """Make a collection that holds these items, and return its slug; others in it stay.

    Run again it adds what is missing and changes nothing else.

    Raises:
        HubError: the Hub refused, or an item is not there.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    made = patiently(
        f"make the collection {title} of {owner}",
        lambda: api.create_collection(
            title, namespace=owner, description=description or None, exists_ok=True
        ),
    )
    present = {(item.item_type, item.item_id) for item in made.items}
    for one in items:
        if (one.type, one.id) not in present:
            _add(made.slug, one)
    return str(made.slug)


def read_collection(slug: str) -> set[tuple[str, str]]:
    """Type and id of everything in a collection.

    Raises:
        HubError: there is none, or the Hub refused.
    """
    from huggingface_hub import HfApi

    found = patiently(f"read the collection {slug}", lambda: HfApi().get_collection(slug))
    return {(item.item_type, item.item_id) for item in found.items}


def _add(slug: str, one: Listed) -> None:
    from huggingface_hub import HfApi

    patiently(
        f"add {one.id} to the collection {slug}",
        lambda: HfApi().add_collection_item(
            slug, one.id, one.type, note=one.note or None, exists_ok=True
        ),
    )
