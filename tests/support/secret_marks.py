"""A look for secrets wherever somebody else may read: commands, environments, files of Ray, pages and logs."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from tests.support.server_process import ServerProcess, words

_SESSION = re.compile(r"(/\S*?/session_[\w-]+)")
"""Folder of a Ray, as the commands of its processes name it"""


def find_marks(marks: Mapping[str, str], server: ServerProcess) -> Iterator[str]:
    """Where each of the secrets is to be seen while the server runs; what its user gave to the command is left out."""
    command = psutil.Process(server.process.pid)
    children = command.children(recursive=True)
    folders = set[Path]()
    for process in (command, *children):
        told = " ".join(words(process))
        folders |= {Path(found) for found in _SESSION.findall(told)}
        yield from _compare(marks, told, f"the command of {process.name()}")
    for process in children:
        with suppress(psutil.Error):
            yield from _compare(marks, str(process.environ()), f"the environment of {' '.join(words(process))[:60]}")
    assert folders, "Ray has no folder"
    for path in (path for folder in folders for path in folder.rglob("*")):
        if path.is_file():
            yield from _compare(marks, path.read_bytes().decode(errors="replace"), str(path))


def _compare(marks: Mapping[str, str], text: str, where: str) -> Iterator[str]:
    yield from (f"{name} in {where}" for name, mark in marks.items() if mark in text)
