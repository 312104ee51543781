"""QEMU's monitor protocol: commands to a QEMU, and its events."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sim.guest.qemu import GuestError

__all__ = ["Qmp"]

_CONNECT_S = 60
_ANSWER_S = 60


class Qmp:
    """A connection to the monitor of a QEMU. Use it in a ``with`` statement, or `close` it.

    Parameters
    ----------
    path
        Of the monitor's socket, which QEMU may still have to make.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._got = b""
        self.events: list[dict[str, Any]] = []
        """Events so far: ``event``, ``data``, and ``timestamp`` in seconds and microseconds."""
        deadline = time.monotonic() + _CONNECT_S
        while True:
            self._link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._link.connect(str(path))
                break
            except OSError as error:
                self._link.close()
                if time.monotonic() > deadline:
                    raise GuestError(f"{path}: no monitor of QEMU, {error.strerror}") from None
                time.sleep(0.05)
        try:
            self._next(_ANSWER_S)  # its greeting
            self.command("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def _next(self, timeout_s: float) -> dict[str, Any]:
        """Give the next line; `GuestError` when there is none in time, or QEMU has gone."""
        while b"\n" not in self._got:
            self._link.settimeout(max(timeout_s, 0.001))
            try:
                data = self._link.recv(65536)
            except TimeoutError:
                raise GuestError(f"{self._path}: QEMU does not answer") from None
            except OSError:
                data = b""
            if not data:
                raise GuestError(f"{self._path}: QEMU has ended")
            self._got += data
        line, _newline, self._got = self._got.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def command(self, name: str, **arguments: object) -> Any:
        """Have QEMU do something; give what it returns. `GuestError` if it refuses."""
        words = {"execute": name, "arguments": {key.replace("_", "-"): value
                                                for key, value in arguments.items()}}
        try:
            self._link.sendall(json.dumps(words).encode() + b"\n")
        except OSError:
            raise GuestError(f"{name}: QEMU has ended") from None
        deadline = time.monotonic() + _ANSWER_S
        while True:
            line = self._next(deadline - time.monotonic())
            if "event" in line:
                self.events.append(line)
            elif "error" in line:
                raise GuestError(f"{name}: {line['error'].get('desc', line['error'])}")
            elif "return" in line:
                return line["return"]

    def when(self, event: str, **data: object) -> float | None:
        """Give when an event came last, with this data; None if it never did.

        In seconds of the machine's clock.
        """
        self.command("query-status")  # so that what has happened has been read
        for seen in reversed(self.events):
            if seen["event"] == event and data.items() <= seen.get("data", {}).items():
                stamp = seen["timestamp"]
                return float(stamp["seconds"] + 1e-6 * stamp["microseconds"])
        return None

    def close(self) -> None:
        """End the connection; QEMU goes on."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
