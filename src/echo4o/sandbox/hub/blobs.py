"""File contents on disk, named by their sha256; a blob is complete or it is not there.

This outlives a killed server. It is not meant to outlive a power cut, so nothing waits for fsync.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from echo4o.sandbox.hub.errors import HubRefusal


class Blobs:
    """Content-addressed storage below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root / "blobs"
        self.incoming = root / "incoming"
        # What lies here was being received when an earlier server died.
        shutil.rmtree(self.incoming, ignore_errors=True)
        for folder in (self.root, self.incoming):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the content with this hash is, or would be."""
        return self.root / sha256[:2] / sha256

    def read(self, sha256: str) -> bytes:
        """The whole content; for small files only."""
        return self.path(sha256).read_bytes()

    def put(self, data: bytes) -> str:
        """Store small content and return its sha256."""
        with Upload(self) as upload:
            upload.write(data)
            return upload.finish()


class Upload:
    """Content that is still arriving; leaving the block without `finish` discards it."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._hash = hashlib.sha256()
        self.size = 0
        handle, name = tempfile.mkstemp(dir=blobs.incoming)
        self._file = os.fdopen(handle, "wb")
        self._path = Path(name)

    def __enter__(self) -> "Upload":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Append a piece."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)

    def finish(self, *, sha256: str | None = None, size: int | None = None) -> str:
        """Make the content durable and visible; refuses (400) what is not the expected content."""
        found = self._hash.hexdigest()
        if size is not None and self.size != size:
            raise HubRefusal(400, f"expected {size} bytes, received {self.size}")
        if sha256 is not None and found != sha256:
            raise HubRefusal(400, f"expected content with sha256 {sha256}, received {found}")
        target = self._blobs.path(found)
        if target.exists():
            return found
        self._file.close()
        target.parent.mkdir(exist_ok=True)
        self._path.rename(target)
        return found
