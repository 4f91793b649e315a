"""A new file that is hashed while it is written, past the page cache.

A dataset is larger than memory and nobody reads it back soon: going through the page cache costs a
copy, evicts what others need, and on virtual machines was measured at a seventh of the disk's rate.
"""

import errno
import fcntl
import hashlib
import mmap
import os
import sys
from concurrent.futures import Future
from pathlib import Path

from .background import Background

_BLOCK = 4 << 20


class HashedFile:
    """Takes bytes in any pieces; two blocks are held, one being filled while one is written."""

    def __init__(self, path: Path, disk: Background | None = None) -> None:
        """`disk` writes the blocks, if it is given; `path` must not be there yet or be ours."""
        self._file = path.open("wb", buffering=0)
        self._is_direct = _switch_direct(self._file.fileno(), on=True)
        self._disk = disk
        self._hash = hashlib.sha256()
        # Memory maps begin at a page, which direct writes demand.
        self._block, self._spare = mmap.mmap(-1, _BLOCK), mmap.mmap(-1, _BLOCK)
        self._filled = 0
        self._writing: Future[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether nothing more can be written."""
        return self._file.closed

    def write(self, data: bytes) -> int:
        """Append all of `data`."""
        rest = memoryview(data)
        while rest:
            taken = min(len(rest), _BLOCK - self._filled)
            self._block[self._filled : self._filled + taken] = rest[:taken]
            self._filled += taken
            rest = rest[taken:]
            if self._filled == _BLOCK:
                self._hand_over()
        return len(data)

    def flush(self) -> None:
        """Nothing: whole blocks go to the disk, and `finish` brings the rest."""

    def close(self) -> None:
        """Give up the file; what is being written is waited for."""
        if self._writing is not None and not self._writing.cancel():
            self._writing.exception()
        self._file.close()

    def finish(self) -> None:
        """Bring all of it to the disk, which may take a second."""
        if self._writing is not None:
            self._writing.result()
        self._is_direct = self._is_direct and _switch_direct(self._file.fileno(), on=False)
        self._put(self._block, self._filled)
        os.fsync(self._file.fileno())
        self._file.close()
        self._block.close()
        self._spare.close()

    def sha256(self) -> str:
        """Of the whole file, once it is finished."""
        return self._hash.hexdigest()

    def _hand_over(self) -> None:
        if self._disk is None:
            self._put(self._block, _BLOCK)
        else:
            if self._writing is not None:
                self._writing.result()
            self._writing = self._disk.do(self._put, self._block, _BLOCK)
            self._block, self._spare = self._spare, self._block
        self._filled = 0

    def _put(self, block: mmap.mmap, size: int) -> None:
        with memoryview(block) as whole:
            # Here, and not in `write`: in the disk's thread it costs the writer nothing.
            self._hash.update(whole[:size])
            done = 0
            while done < size:
                try:
                    done += os.write(self._file.fileno(), whole[done:size])
                except OSError as error:
                    # Some file systems agree to direct writes and then refuse each of them.
                    if error.errno != errno.EINVAL or not self._is_direct:
                        raise
                    self._is_direct = _switch_direct(self._file.fileno(), on=False)


def _switch_direct(file: int, *, on: bool) -> bool:
    """Turn direct writes on or off; whether they are on then."""
    if sys.platform != "linux":
        return False
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    wanted = flags | os.O_DIRECT if on else flags & ~os.O_DIRECT
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, wanted)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return on
