"""Programs of guests from Debian's packages, unpacked below build/ without touching the system."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.cache import built_once
from sim.toolchain import ToolMissing

__all__ = ["Unpacked", "codename", "kernel_version", "newer", "unpacked"]

_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DYNAMIC_LINKER = "ld-linux-x86-64.so.2"
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu",
              "usr/lib/x86_64-linux-gnu/pulseaudio")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Unpacked:
    """A folder that holds packages as if it were a machine's root."""

    folder: Path

    def program(self, path: str) -> list[str]:
        """Give the words that start a program of the folder, with the folder's own libraries."""
        libraries = ":".join(str(self.folder / each) for each in _LIBRARIES)
        # Up to bookworm the C library is below /lib, and no link leads there that is unpacked.
        linkers = [self.folder / each / _DYNAMIC_LINKER for each in _LIBRARIES]
        linker = next((each for each in linkers if each.exists()), linkers[0])
        return [str(linker), "--library-path", libraries, str(self.folder / path)]


def _run(words: Sequence[str], folder: Path | None = None) -> str:
    done = subprocess.run(words, cwd=folder, check=False, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL,
                          env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"})
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()]
        raise ToolMissing(f"{words[0]} failed: {last[0] if last else done.returncode}")
    return done.stdout


def codename() -> str:
    """Name the machine's release of Debian, such as ``bookworm``."""
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        lines = []
    about = dict(line.partition("=")[::2] for line in lines)
    name = about.get("VERSION_CODENAME", "").strip('"')
    if about.get("ID", "").strip('"') != "debian" or not name or shutil.which("apt-get") is None:
        raise ToolMissing("programs of guests come from Debian's packages, and this is no Debian")
    return name


def _mirror() -> str:
    """Give the address that the machine itself has its release from."""
    name = codename()
    for line in _run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)",
                      "Created-By: Packages"]).splitlines():
        address, release, component = (*line.split(), "", "")[:3]
        if release == name and component == "main":
            return address
    raise ToolMissing(f"apt knows no mirror of {name}; see /etc/apt/sources.list")


def _apt(folder: Path, suite: str, tell: Tell) -> Callable[..., str]:
    """Give apt-get or apt-cache with a state of its own, in which nothing is installed."""
    for name in ("state/lists/partial", "cache/archives/partial", "etc"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").write_text("")
    (folder / "etc" / "sources.list").write_text(
        f"deb [signed-by={_KEYS}] {_mirror()} {suite} main\n")
    options = [word for key, value in (
        ("Dir::State", folder / "state"), ("Dir::State::status", folder / "status"),
        ("Dir::Cache", folder / "cache"), ("Dir::Etc::sourcelist", folder / "etc/sources.list"),
        ("Dir::Etc::sourceparts", "-"), ("Acquire::Languages", "none"),
        # A mirror may be a dated snapshot.
        ("Acquire::Check-Valid-Until", "false"), ("APT::Sandbox::User", "root"),
    ) for word in ("-o", f"{key}={value}")]

    def apt(program: str, *words: str) -> str:
        return _run([program, *options, *words], folder / "cache" / "archives")

    tell(f"looking what {suite} has")
    apt("apt-get", "update", "-qq")
    return apt


def unpacked(name: str, suite: str, packages: Sequence[str], *, closure: bool = False,
             tell: Tell = lambda line: None) -> Unpacked:
    """Give packages of a suite, unpacked; downloaded the first time only.

    Parameters
    ----------
    name
        Of the folder, below ``build/guest``.
    suite
        The release they come from, such as ``bookworm``.
    packages
        Their names. One of the form ``name!`` stands for the first package that ``name`` depends
        on, as a kernel's name changes with its version.
    closure
        Take all that they depend on as well, the C library included: programs of another release
        run with libraries of that release.
    tell
        Called with a line for people about what is being done.

    `ToolMissing` says what is in the way: another system, no network, no such package.
    """
    with built_once("guest", name, suite, *packages, closure) as kept:
        root = kept.folder / "root"
        if kept.done:
            return Unpacked(root)
        apt = _apt(kept.folder / "apt", suite, tell)
        names = [_first_dependency(apt("apt-cache", "depends", each[:-1])) if each.endswith("!")
                 else each for each in packages]
        tell(f"downloading {', '.join(names)}")
        if closure:
            apt("apt-get", "-y", "-qq", "--no-install-recommends", "--download-only", "install",
                *names)
        else:
            apt("apt-get", "-qq", "download", *names)
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        archives = sorted((kept.folder / "apt" / "cache" / "archives").glob("*.deb"))
        for number, archive in enumerate(archives):
            tell(f"unpacking {archive.name.partition('_')[0]} ({number + 1} of {len(archives)})")
            _run(["dpkg-deb", "-x", str(archive), str(root)])
        shutil.rmtree(kept.folder / "apt")
    return Unpacked(root)


def _first_dependency(text: str) -> str:
    for line in text.splitlines():
        word, _colon, name = line.strip().partition(": ")
        if word == "Depends":
            return name
    raise ToolMissing("a package that should lead to another depends on none")


def kernel_version(root: Path) -> str:
    """Give the version of the kernel that was unpacked in a folder."""
    versions = sorted(path.name for path in (root / "lib" / "modules").iterdir())
    if len(versions) != 1:
        raise ToolMissing(f"{root} holds {len(versions)} kernels, must be one")
    return versions[0]


def newer(program: str, flag: str, at_least: tuple[int, int]) -> str | None:
    """Give the path of an installed program of at least this version; None if there is none."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        words = _run([path, flag]).split()
    except ToolMissing:
        return None
    for word in words:
        numbers = word.split(".")
        if len(numbers) >= 2 and numbers[0].isdecimal() and numbers[1].isdecimal():
            return path if (int(numbers[0]), int(numbers[1])) >= at_least else None
    return None
