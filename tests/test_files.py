"""Files that are read within a bound."""

from __future__ import annotations

import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from mdlbench.disk.files import read_regular


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
