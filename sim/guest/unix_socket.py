"""A listening socket of the Unix domain, at a path that nobody else serves."""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["listen"]


def listen(path: Path) -> socket.socket:
    """Make a listening socket at a path; `FileExistsError` when it is taken."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
                else:
                    raise FileExistsError(f"{path}: another server listens here; must be a path "
                                          "that is free")
        elif path.exists():
            raise FileExistsError(f"{path}: is no socket; must be a path that is free")
        path.parent.mkdir(parents=True, exist_ok=True)
        before = os.umask(0o077)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(4)
    except BaseException:
        listener.close()
        raise
    return listener
