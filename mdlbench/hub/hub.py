"""Files of model-hub repositories, from the cache or downloaded.

Cached files are used without asking the hub; the digest in a record tells which file that was. The
cache also keeps that a repository lacks a file, for times when the hub cannot be reached.
`HF_HUB_CACHE`, `HF_HUB_OFFLINE` and `HF_TOKEN` mean what they mean to huggingface_hub.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from mdlbench.errors import HubError, nearest_paths
from mdlbench.hub.items import hub_cache, repo_cache

HUB_PACKAGES = ("huggingface_hub", "httpx", "httpx2", "requests", "hf_xet")
"""Modules whose exceptions are about the hub."""
ANSWER_SECONDS = 5.0
"""How long the hub may take to say whether it has a file."""
NEAREST = 3
"""How many file names a message suggests."""
SECRET = re.compile(r"hf_\w+|(?<=//)[^/\s@]+@|(?<=\?)\S+")
"""Tokens, the user part of addresses, and the signed part of download links."""


WHAT_TO_DO = (
    "Run `mdlbench fetch SUITE` on a machine with network and copy its cache here, "
    "or set HF_HUB_CACHE to a cache that has it"
)
OFFLINE = "HF_HUB_OFFLINE is set"


class HubUnreachableError(HubError):
    """The hub does not answer, stops answering, or must not be asked.

    Attributes:
        reason: what was seen, in one line.
    """

    def __init__(self, repo: str, file: str | None, reason: str, nearest: str = "") -> None:
        super().__init__(
            f"{_named(repo, file)} is not in the cache {hub_cache()} and the hub cannot be reached "
            f"({reason}). {WHAT_TO_DO}.{nearest}"
        )
        self.reason = reason


class NoSuchFileError(HubError):
    """A repository of the hub has no file of that name; `names` are those that it has."""

    def __init__(self, repo: str, file: str, names: list[str]) -> None:
        super().__init__(f"{repo}: no file {file!r}.{_nearest(file, names)}")


def hub_file(
    repo: str, file: str, *, revision: str | None = None, repo_type: str = "model"
) -> Path:
    """Local path of one file of a hub repository, from the cache or downloaded.

    Args:
        repo: "owner/name".
        file: its path in the repository.
        revision: a branch, tag or commit; the cached or current `main` by default.
        repo_type: "model", "dataset" or "space".

    Raises:
        NoSuchFileError: the repository has no such file.
        HubError: it is neither cached nor available; the message says why and what to do.
    """
    import huggingface_hub

    with hub_errors(repo, file):
        cached = huggingface_hub.try_to_load_from_cache(
            repo, file, revision=revision, repo_type=repo_type
        )
    if isinstance(cached, str):
        return Path(cached)
    try:
        with hub_errors(repo, file):
            _ask_for(repo, file, revision, repo_type)
    except HubUnreachableError as error:
        if cached is None:
            raise
        names = cached_files(repo, revision=revision, repo_type=repo_type)
        raise NoSuchFileError(repo, file, names) from error
    try:
        with hub_errors(repo, file):
            return Path(
                huggingface_hub.hf_hub_download(repo, file, revision=revision, repo_type=repo_type)
            )
    except HubUnreachableError as error:
        raise HubError(
            f"{repo}: downloading {file!r} was interrupted: {error.reason}. "
            "Run it again: files that are complete are kept in the cache"
        ) from error


def hub_files(repo: str, *, revision: str | None = None, repo_type: str = "model") -> list[str]:
    """Sorted names of a repository's files; only the cached ones if the hub is not reached.

    Raises:
        HubError: nothing of it is cached and the hub gives no names.
    """
    import huggingface_hub

    with hub_errors(repo):
        cached = cached_files(repo, revision=revision, repo_type=repo_type)
    if is_offline():
        if cached:
            return cached
        raise HubUnreachableError(repo, None, OFFLINE)
    try:
        with hub_errors(repo):
            _require_answer(repo)
            found = huggingface_hub.HfApi().repo_info(
                repo, revision=revision, repo_type=repo_type, timeout=ANSWER_SECONDS
            )
    except HubUnreachableError:
        if cached:
            return cached
        raise
    return sorted(sibling.rfilename for sibling in getattr(found, "siblings", None) or [])


def cached_files(repo: str, *, revision: str | None = None, repo_type: str = "model") -> list[str]:
    """Sorted names of the files in the cached snapshot."""
    snapshot = repo_cache(repo, repo_type) / "snapshots" / _commit(repo, revision, repo_type)
    files = (path for path in snapshot.rglob("*") if path.is_file())
    return sorted(path.relative_to(snapshot).as_posix() for path in files)


def is_offline() -> bool:
    """Whether the hub must not be asked."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def unreachable() -> str | None:
    """Why the hub does not answer, in one line; None if it does. It is asked once a process."""
    from huggingface_hub import constants

    return _silence(constants.ENDPOINT)


@cache
def _silence(endpoint: str) -> str | None:
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=ANSWER_SECONDS)
    except Exception as error:
        return _said(error)
    return None


@contextmanager
def from_cache_if_unreachable(repo: str) -> Iterator[None]:
    """Have the hub's libraries, which ask again for half a minute, only look into their caches.

    Where the hub answers, they do as they like.

    Raises:
        HubUnreachableError: the cache does not have it, and the hub does not answer.
    """
    from huggingface_hub import constants

    reason = None if is_offline() else unreachable()
    if reason is None:
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except Exception as error:
        if _is_offline_error(error):
            raise HubUnreachableError(repo, None, reason) from error
        raise
    finally:
        constants.HF_HUB_OFFLINE = False


def _is_offline_error(error: BaseException | None) -> bool:
    """Whether it, or its cause, says that the hub's library has not asked."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return any(
        isinstance(one, OfflineModeIsEnabled) or "OfflineModeIsEnabled" in str(one)
        for one in _with_causes(error)
    )


def _require_answer(repo: str, file: str | None = None) -> None:
    if reason := unreachable():
        raise HubUnreachableError(repo, file, reason)


@contextmanager
def hub_errors(repo: str, file: str | None = None) -> Iterator[None]:
    """Turn what the hub's library raises into a `HubError` that names the repository."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        raise explained(error, repo, file) from error


def is_hub_error(error: Exception) -> bool:
    """Whether a loader's exception is about the hub or the disk, and not about content."""
    from huggingface_hub.errors import StrictDataclassError

    package = type(error).__module__.partition(".")[0]
    is_theirs = package in HUB_PACKAGES and not isinstance(error, StrictDataclassError)
    return is_theirs or isinstance(error, ConnectionError) or _is_disk_full(error)


def _ask_for(repo: str, file: str, revision: str | None, repo_type: str) -> None:
    """Raise at once if the file is not available; the library's own download tries for minutes."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    if is_offline():
        names = cached_files(repo, revision=revision, repo_type=repo_type)
        raise HubUnreachableError(repo, file, OFFLINE, _nearest(file, names))
    _require_answer(repo, file)
    try:
        get_hf_file_metadata(
            hf_hub_url(repo, file, revision=revision, repo_type=repo_type), timeout=ANSWER_SECONDS
        )
    except EntryNotFoundError as error:
        _note_absence(repo, file, revision, repo_type)
        names = hub_files(repo, revision=revision, repo_type=repo_type)
        raise NoSuchFileError(repo, file, names) from error


def _note_absence(repo: str, file: str, revision: str | None, repo_type: str) -> None:
    """Have the library note in its cache that the cached commit has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    if cached_files(repo, revision=revision, repo_type=repo_type):
        commit = _commit(repo, revision, repo_type)
        with suppress(EntryNotFoundError):
            hf_hub_download(repo, file, revision=commit, repo_type=repo_type)


def explained(error: Exception, repo: str, file: str | None = None) -> HubError:
    """What an exception of the hub's library means, and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return HubError(
            f"{repo}: access is restricted. Ask for it on the repository's page, then log in: "
            "`hf auth login`, or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return HubError(
            f"{repo}: no such repository on the hub; if it is private, log in: `hf auth login`, "
            "or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{repo}: no such revision")
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return _uncached(error, repo, file)
    if isinstance(error, errors.EntryNotFoundError):
        return HubError(f"{_named(repo, file)}: the hub has no such file: {_said(error)}")
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(error.response.status_code, error, repo, file)
    return _failed(error, repo, file)


def _uncached(error: Exception, repo: str, file: str | None) -> HubError:
    """No file in the cache; the cause says what kept the library from asking the hub."""
    if is_offline():
        return HubUnreachableError(repo, file, OFFLINE)
    if isinstance(error.__cause__, Exception):
        return explained(error.__cause__, repo, file)
    return HubUnreachableError(repo, file, _said(error))


def _refused(status: int, error: Exception, repo: str, file: str | None) -> HubError:
    if status in (401, 403):
        return HubError(
            f"{repo}: the hub refuses access ({status}). Log in with a token that may read it: "
            "`hf auth login`, or set HF_TOKEN"
        )
    if status == 404:
        return HubError(f"{_named(repo, file)}: the hub has no such file: {_said(error)}")
    return HubUnreachableError(repo, file, _said(error))


def _failed(error: Exception, repo: str, file: str | None) -> HubError:
    if _is_disk_full(error):
        return HubError(
            f"{_named(repo, file)}: no room left in the cache {hub_cache()}. "
            "Free some, or set HF_HUB_CACHE to a folder with room"
        )
    if isinstance(error, PermissionError):
        return HubError(
            f"{_named(repo, file)}: the cache cannot be written: {_said(error)}. "
            "Set HF_HUB_CACHE to a folder that can be written"
        )
    return HubUnreachableError(repo, file, _said(error))


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether the error or its cause says so; the library's fast downloader only uses words."""
    return any(
        getattr(one, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        or "no space left on device" in str(one).lower()
        for one in _with_causes(error)
    )


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _nearest(file: str, names: list[str]) -> str:
    nearest = nearest_paths(file, names, NEAREST)
    return f" The nearest that it has: {', '.join(nearest)}" if nearest else ""


def _commit(repo: str, revision: str | None, repo_type: str) -> str:
    """The cached commit of a revision; the revision itself if the cache does not tell."""
    reference = repo_cache(repo, repo_type) / "refs" / (revision or "main")
    return reference.read_text().strip() if reference.is_file() else revision or "main"


def _named(repo: str, file: str | None) -> str:
    return f"{repo}: {file!r}" if file else repo


def _said(error: BaseException) -> str:
    """Its kind and first line, without secrets."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = SECRET.sub("…", lines[0]) if lines else ""
    return f"{type(error).__name__}: {first}".rstrip(": ")
