"""Files that are read within a bound, and claimed by one of several."""

from __future__ import annotations

import errno
import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from mdlbench.disk import files
from mdlbench.disk.files import create_atomically, read_regular
from mdlbench.errors import OutputError


def test_a_regular_file_is_read_whole_up_to_the_bound(tmp_path: Path) -> None:
    content = os.urandom((1 << 21) + 17)
    path = tmp_path / "file"
    path.write_bytes(content)
    (tmp_path / "link").symlink_to(path)
    assert read_regular(path, len(content)) == content
    assert read_regular(tmp_path / "link", 1 << 30) == content
    with pytest.raises(OSError, match=r"larger than 2,097,168 bytes"):
        read_regular(path, len(content) - 1)


def test_an_empty_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert read_regular(tmp_path / "empty", 0) == b""


def test_a_file_of_many_bytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than 1,000 bytes"):
        read_regular(path, 1000)


def test_a_file_that_lies_about_its_size_is_read_no_further(tmp_path: Path) -> None:
    content = read_regular(Path("/proc/self/status"), 1 << 20)
    assert content.startswith(b"Name:")
    with pytest.raises(OSError, match="larger than 10 bytes"):
        read_regular(Path("/proc/self/status"), 10)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file, but a FIFO"):
        read_regular(tmp_path / "fifo", 1000)
    with pytest.raises(OSError, match="not a regular file, but a folder"):
        read_regular(tmp_path, 1000)
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(OSError, match="not a regular file, but a device"):
            read_regular(Path(device), 1000)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match="No such device or address"):
            read_regular(tmp_path / "socket", 1000)


@pytest.mark.parametrize("name", ["missing", "nul\0in it", "x" * 5000])
def test_a_path_that_is_no_file_is_an_os_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"No such file|no such file|name too long"):
        read_regular(tmp_path / name, 1000)


def test_a_file_is_in_memory_once_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(1 << 25))
    tracemalloc.start()
    content = read_regular(path, 1 << 25)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert content == bytes(1 << 25)
    assert peak < (1 << 25) + (1 << 21)


@pytest.mark.parametrize("number", sorted(files._NO_LINKS))
def test_a_claim_needs_no_hard_links(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on FAT, on some network folders and in some containers."""

    def no_link(source: object, target: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_link)
    claim = tmp_path / "references.json"
    assert create_atomically(claim, b"first")
    assert not create_atomically(claim, b"second")
    assert claim.read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["references.json"]


def test_a_claim_that_fails_otherwise_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OutputError, match=r"references\.json: cannot be written: no space left"):
        create_atomically(tmp_path / "references.json", b"first")
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_was_made_and_not_confirmed_is_a_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may make a link, lose the answer and be asked again."""
    link = os.link

    def twice(source: str, target: str) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    assert create_atomically(tmp_path / "claim", b"first")
    monkeypatch.undo()
    assert not create_atomically(tmp_path / "claim", b"second")
