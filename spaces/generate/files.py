"""Visitors' files: all in one folder of ours, named relative to it, gone after an hour."""

import os
import tempfile
import threading
import time
from pathlib import Path

import gradio as gr
from gradio.blocks import Block
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from gradio_client.utils import is_http_url_like

HOUR = 3600.0
SWEEP_SECONDS = 60.0


def settle() -> None:
    """Work in a new folder, and have Gradio keep its files there and name no other one.

    Gradio's replies name files by their whole path, and it fetches what a request names by an
    address; both happen in one method.
    """
    os.chdir(tempfile.mkdtemp(prefix="echo4o-files-"))
    os.environ["GRADIO_TEMP_DIR"] = "files"
    usual = Block.async_move_resource_to_block_cache

    async def move(block: Block, path: str | Path | None) -> str | None:
        if path is not None and is_http_url_like(str(path)):
            raise gr.Error("Pictures are not fetched from addresses: upload the file.")
        moved = await usual(block, path)
        return None if moved is None else os.path.relpath(moved)

    Block.async_move_resource_to_block_cache = move
    threading.Thread(target=_sweep_forever, name="sweep", daemon=True).start()


def store(data: bytes, name: str) -> str:
    """Put a finished file where Gradio serves it from, bytes unchanged."""
    path = save_bytes_to_cache(data, name, get_upload_folder())
    os.utime(path)  # the same bytes may lie there already, about to be swept
    return os.path.relpath(path)


def sweep(folder: Path, *, older_than: float = HOUR) -> int:
    """Delete the files below `folder` that nobody wrote to for so many seconds; returns how many.

    Only ever called with the folder of this process's own uploads and results.
    """
    deadline, gone = time.time() - older_than, 0
    for path in [*folder.rglob("*")] if folder.is_dir() else []:
        try:
            if path.is_file() and path.stat().st_mtime < deadline:
                path.unlink()
                gone += 1
            elif path.is_dir() and path.stat().st_mtime < deadline:
                path.rmdir()
        except OSError:
            continue  # somebody else deleted it, or the folder is not empty yet
    return gone


def _sweep_forever() -> None:
    while True:
        time.sleep(SWEEP_SECONDS)
        sweep(Path(get_upload_folder()))
