"""New HDF5 files on a disk that may fill up.

When a write fails, HDF5 can neither flush nor close the file any more, and the process may crash later, at
the next file or at its end.  `DiskSink` keeps the first error for its caller, swallows all that HDF5 still
wants to write, and so lets it close in peace.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py

__all__ = ["DiskSink", "new_hdf5"]


class DiskSink(io.RawIOBase):
    """A new file for ``h5py.File(sink, "w")``.

    Parameters
    ----------
    path : Path
        Must not exist.

    Attributes
    ----------
    error : OSError or None
        The first error of the disk; what was written is then worthless.

    Raises
    ------
    OSError
        If the file cannot be created.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.error: OSError | None = None
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._place = 0
        self._size = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; the end is where HDF5 believes it to be."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Read; what is not on the disk reads as zero."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            n = os.preadv(self._file, [view[done:]], self._place + done)
            if n == 0:
                view[done:] = bytes(len(view) - done)
                break
            done += n
        self._place += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        """Write all of `data`, or keep the error; returns its length either way."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += os.pwrite(self._file, view[done:], self._place + done)
        except OSError as error:
            self.error = error
        self._place += len(view)
        self._size = max(self._size, self._place)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size, or keep the error."""
        size = self._place if size is None else size
        try:
            if self.error is None:
                os.ftruncate(self._file, size)
        except OSError as error:
            self.error = error
        self._size = size
        return size

    def sync(self) -> None:
        """Make the file durable, or keep the error."""
        try:
            if self.error is None:
                os.fsync(self._file)
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Close the file; once."""
        if not self.closed:
            super().close()
            os.close(self._file)


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Give a new HDF5 file to write to; closed and synced when the block is left.

    Parameters
    ----------
    path : Path
        Must not exist.

    Raises
    ------
    OSError
        If it cannot be created, or the disk failed while it was written.
    """
    import h5py

    with DiskSink(path) as sink:
        try:
            with h5py.File(sink, "w") as file:
                yield file
        except (OSError, RuntimeError) as error:
            raise sink.error or error from None
        sink.sync()
        if sink.error is not None:
            raise sink.error
