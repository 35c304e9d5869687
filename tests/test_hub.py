"""The hub is a server in this process that answers as the real one does, or fails as it may."""

import errno
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from mdlbench.errors import HubError
from mdlbench.hub import hub
from mdlbench.hub.hub import HubUnreachableError, NoSuchFileError, hub_file, hub_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DISCARD = 9
"""A port at which nothing listens."""
TOKEN = "hf_" + "secret" * 5


@dataclass
class FakeHub:
    """Repositories by name, each a dict of files, and what the server refuses.

    Attributes:
        refusals: by repository, a status and the error code that the hub sends with it.
        cut: send only half of every file.
        requests: what was asked.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    cut: bool = False
    requests: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        if repo in self.refusals:
            status, code = self.refusals[repo]
            return status, {"X-Error-Code": code} if code else {}, b""
        if repo not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        revision = parts[5] if api and len(parts) > 5 else "main" if api else parts[3]
        if revision not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if api:
            names = ", ".join(f'{{"rfilename": "{name}"}}' for name in self.files[repo])
            body = f'{{"id": "{repo}", "sha": "{COMMIT}", "siblings": [{names}]}}'
            return 200, {"Content-Type": "application/json"}, body.encode()
        name = "/".join(parts[4:])
        if name not in self.files[repo]:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        return 200, {"ETag": f'"{name}-tag"', "X-Repo-Commit": COMMIT}, self.files[repo][name]


def handler(fake: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.reply(b"")

        def do_GET(self) -> None:
            self.reply(None)

        def reply(self, sent: bytes | None) -> None:
            fake.requests.append(f"{self.command} {self.path}")
            status, headers, body = fake.answer(self.path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            half = body[: len(body) // 2] if fake.cut and "/resolve/" in self.path else body
            self.wfile.write(half if sent is None else sent)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def set_endpoint(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    endpoint = f"http://127.0.0.1:{port}"
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    found = FakeHub({"ann/sae": {"a/cfg.json": b"{}", "a/sae_weights.safetensors": b"w" * 100_000}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    set_endpoint(monkeypatch, server.server_port)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()
    yield found
    server.shutdown()
    server.server_close()
    close_session()


@pytest.fixture
def unreachable(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    set_endpoint(monkeypatch, DISCARD)


def test_a_file_is_downloaded_once(fake: FakeHub, tmp_path: Path) -> None:
    path = hub_file("ann/sae", "a/cfg.json")
    assert path == tmp_path / "cache/models--ann--sae/snapshots" / COMMIT / "a/cfg.json"
    assert path.read_bytes() == b"{}"
    fake.requests.clear()
    assert hub_file("ann/sae", "a/cfg.json") == path
    assert hub_file("ann/sae", "a/cfg.json", revision=COMMIT) == path
    assert fake.requests == []


def test_the_files_of_a_repository(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ["a/cfg.json", "a/sae_weights.safetensors"]
    assert hub_files("ann/sae") == hub_files("ann/sae", revision=COMMIT) == everything
    hub_file("ann/sae", "a/cfg.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_files("ann/sae") == hub_files("ann/sae", revision=COMMIT) == ["a/cfg.json"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    set_endpoint(monkeypatch, DISCARD)
    assert hub_files("ann/sae") == ["a/cfg.json"]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would be waited between attempts: none is waited out."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def test_an_unreachable_hub_is_said_at_once(
    unreachable: None, waits: list[float], tmp_path: Path
) -> None:
    for ask in (lambda: hub_file("ann/sae", "a/cfg.json"), lambda: hub_files("ann/sae")):
        with pytest.raises(HubUnreachableError, match="the hub cannot be reached") as caught:
            ask()
        message = str(caught.value)
        assert str(tmp_path / "cache") in message
        assert "mdlbench fetch SUITE" in message
        assert "HF_HUB_CACHE" in message
    assert sum(waits) < 10


def fail_without_waiting(error: Exception) -> None:
    with hub.from_cache_if_unreachable("ann/sae"):
        assert hub.is_offline()
        raise error


def test_an_unreachable_hub_is_asked_once(
    unreachable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    set_endpoint(monkeypatch, DISCARD + 1)
    for name in ("a", "b", "c"):
        with pytest.raises(HubUnreachableError, match=r"\(ConnectionError: no route\)"):
            hub_file("ann/sae", name)
    offline = huggingface_hub.errors.OfflineModeIsEnabled("offline")
    with pytest.raises(HubUnreachableError, match="no route"):
        fail_without_waiting(offline)
    with pytest.raises(ValueError, match="something else"):
        fail_without_waiting(ValueError("something else"))
    assert not hub.is_offline()
    assert asked == [f"http://127.0.0.1:{DISCARD + 1}"]


def test_a_hub_that_answers_is_not_kept_from_its_libraries(fake: FakeHub) -> None:
    with hub.from_cache_if_unreachable("ann/sae"):
        assert not hub.is_offline()


def test_offline_nothing_is_asked(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_file("ann/sae", "a/cfg.json")
    fake.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_file("ann/sae", "a/cfg.json").is_file()
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set.*nearest that it has: a/cfg\.json"):
        hub_file("ann/sae", "b/cfg.json")
    with pytest.raises(HubError, match=r"ann/other is not in the cache .*HF_HUB_OFFLINE"):
        hub_files("ann/other")
    assert fake.requests == []


def test_what_the_hub_lacks_is_known_without_it(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_file("ann/sae", "a/cfg.json")
    with pytest.raises(NoSuchFileError):
        hub_file("ann/sae", "config.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NoSuchFileError, match=r"ann/sae: no file 'config\.json'"):
        hub_file("ann/sae", "config.json")
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE is set"):
        hub_file("ann/sae", "b/config.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with monkeypatch.context() as patch:
        set_endpoint(patch, DISCARD)
        with pytest.raises(NoSuchFileError):
            hub_file("ann/sae", "config.json")
    fake.files["ann/sae"]["config.json"] = b"[]"
    assert hub_file("ann/sae", "config.json").read_bytes() == b"[]"


def test_unknown_names(fake: FakeHub) -> None:
    with pytest.raises(HubError, match=r"ann/sea: no such repository"):
        hub_file("ann/sea", "a/cfg.json")
    with pytest.raises(HubError, match=r"ann/sea: no such repository"):
        hub_files("ann/sea")
    with pytest.raises(HubError, match=r"no such repository"):
        hub_file("not a name", "a/cfg.json")
    with pytest.raises(HubError, match=r"no file 'a/config\.json'.*nearest.*: a/cfg\.json"):
        hub_file("ann/sae", "a/config.json")
    with pytest.raises(HubError, match=r"ann/sae: no such revision"):
        hub_file("ann/sae", "a/cfg.json", revision="v9")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", "access is restricted. Ask for it"),
        (401, "", r"refuses access \(401\)\. Log in"),
        (403, "", r"refuses access \(403\)"),
        (503, "", "cannot be reached .*503"),
    ],
)
def test_refusals(fake: FakeHub, waits: list[float], status: int, code: str, message: str) -> None:
    fake.refusals["ann/sae"] = (status, code)
    with pytest.raises(HubError, match=message) as caught:
        hub_file("ann/sae", "a/cfg.json")
    assert TOKEN not in str(caught.value)
    assert sum(waits) < 10


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "", r"ann/sae: the hub refuses access \(403\)"),
        (403, "GatedRepo", "access is restricted"),
        (404, "RepoNotFound", "ann/sae: no such repository"),
    ],
)
def test_what_keeps_the_library_from_asking_is_explained(
    fake: FakeHub, status: int, code: str, message: str
) -> None:
    fake.refusals["ann/sae"] = (status, code)
    with pytest.raises(HubError, match=message), hub.hub_errors("ann/sae"):
        huggingface_hub.hf_hub_download("ann/sae", "a/cfg.json")


def test_offline_is_said_only_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    error = huggingface_hub.errors.LocalEntryNotFoundError("An error happened\nsomewhere")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    found = hub.explained(error, "ann/sae", "a/cfg.json")
    assert isinstance(found, HubUnreachableError)
    assert found.reason == "LocalEntryNotFoundError: An error happened"
    assert "HF_HUB_OFFLINE" not in str(found)
    error.__cause__ = TimeoutError("too slow")
    found = hub.explained(error, "ann/sae", "a/cfg.json")
    assert isinstance(found, HubUnreachableError)
    assert found.reason == "TimeoutError: too slow"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "(HF_HUB_OFFLINE is set)" in str(hub.explained(error, "ann/sae", "a/cfg.json"))


def test_an_interrupted_download_can_be_run_again(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    fake.cut = True
    with pytest.raises(HubError, match=r"'a/sae_weights.*' was interrupted.*Run it again"):
        hub_file("ann/sae", "a/sae_weights.safetensors")
    fake.cut = False
    assert hub_file("ann/sae", "a/sae_weights.safetensors").stat().st_size == 100_000


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no room left in the cache"),
        (RuntimeError("IO error: No space left on device (os error 28)"), "no room left"),
        (PermissionError(errno.EACCES, "Permission denied"), "the cache cannot be written"),
        (RuntimeError(f"Bearer {TOKEN}"), "was interrupted: RuntimeError: Bearer …"),
    ],
)
def test_downloads_that_fail_here(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def download(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(HubError, match=message) as caught:
        hub_file("ann/sae", "a/cfg.json")
    assert TOKEN not in str(caught.value)


def test_secrets_are_not_repeated() -> None:
    said = hub._said(OSError(f"https://ann:pw@cdn/x?Signature=abc with {TOKEN}\nmore"))
    assert said == "OSError: https://…cdn/x?… with …"


def test_whose_errors_are_the_hubs() -> None:
    assert hub.is_hub_error(huggingface_hub.errors.LocalEntryNotFoundError("x"))
    assert hub.is_hub_error(ConnectionResetError())
    assert not hub.is_hub_error(KeyError("W_enc"))
