"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file beside its place, force it to disk, and put it there.

    Args:
        path: The file; what was there goes once all is written. Its folder exists.
        content: Text is written in UTF-8.

    Raises:
        OSError: If it cannot be written; names the path. Nothing of it is left.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a name that outlives a crash, and so its content
        part.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            part.unlink()


def cannot_write(path: Path, error: OSError) -> OSError:
    """The same error, saying of what."""
    reason = error.strerror or str(error)
    return OSError(error.errno, f"{path} cannot be written: {reason}")
