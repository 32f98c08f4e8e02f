"""Hub ids are taken apart, and files come from the hub's cache, with no network in any test."""

import subprocess
import sys
from pathlib import Path

import pytest
import weight_bytes as wb

from excitation_jax.models.weight_files import HubId, from_hub, parse_hub_id, read

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache as the hub's library lays it out, with org/name in it."""
    repository = tmp_path / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    (snapshot / "more").mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(wb.safetensors_file(wb.arrays()))
    (snapshot / "more" / "weights.npz").write_bytes(wb.npz(wb.arrays()))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hub:org/name", HubId("org/name")),
        ("hub:org/name@v1", HubId("org/name", None, "v1")),
        ("hub:o-r_g/n.ame/file.safetensors", HubId("o-r_g/n.ame", "file.safetensors")),
        ("hub:org/name/a/b c.npz@refs/pr/1", HubId("org/name", "a/b c.npz", "refs/pr/1")),
    ],
)
def test_a_hub_id(text: str, expected: HubId) -> None:
    assert parse_hub_id(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("org/name", "it does not begin with hub:"),
        ("hub:name", "'name/' is not an organisation, a slash and a name"),
        ("hub:", "'/' is not an organisation"),
        ("hub:/name", "'/name' is not an organisation"),
        ("hub:../name", "'../name' is not an organisation"),
        ("hub:or g/name", "'or g/name' is not an organisation"),
        ("hub:org/name/", "'' cannot be the name of a file"),
        ("hub:org/name/../../x", "'../../x' cannot be the name of a file"),
        ("hub:org/name//etc/x", "'/etc/x' cannot be the name of a file"),
        ("hub:org/name@", "'' cannot be the name of a revision"),
        ("hub:org/name@../main", "'../main' cannot be the name of a revision"),
        ("hub:org/name/a\\b", "cannot be the name of a file"),
    ],
)
def test_no_hub_id(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_hub_id(text)
    assert str(error.value).startswith(f"{text!r} is no hub id, since ")
    assert reason in str(error.value) and "write it as hub:org/name" in str(error.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("hub:org/name", "safetensors"),
        (f"hub:org/name@{COMMIT}", "safetensors"),
        ("hub:org/name/more/weights.npz@main", "npz"),
    ],
)
def test_a_file_in_the_cache(cache: Path, text: str, kind: str) -> None:
    path = from_hub(*parse_hub_id(text), local_files_only=True, cache_dir=cache)
    assert path.is_relative_to(cache)
    found = read(path)
    assert found.kind == kind and set(found.arrays) == set(wb.arrays())


@pytest.mark.parametrize("text", ["hub:org/other", "hub:org/name@v2", "hub:org/name/absent.npz"])
def test_what_is_not_in_the_cache(cache: Path, text: str) -> None:
    with pytest.raises(FileNotFoundError) as error:
        from_hub(*parse_hub_id(text), local_files_only=True, cache_dir=cache)
    assert str(error.value).startswith(f"{text}: ")
    assert "is not in the hub's cache on this machine: get it once without" in str(error.value)


@pytest.mark.parametrize(
    "arguments", [("name",), ("org/name", "../x"), ("org/name", None, "/"), ("a--b/name",)]
)
def test_arguments_that_cannot_be_on_the_hub(cache: Path, arguments: tuple) -> None:
    with pytest.raises(ValueError, match=r"cannot be on the hub.*: write it as hub:org/name"):
        from_hub(*arguments, local_files_only=True, cache_dir=cache)


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The switch of HF_HUB_OFFLINE; without it, the library would try for half a minute.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"^hub:org/name: model.safetensors is not in") as e:
        from_hub("org/name", cache_dir=tmp_path)
    assert "the hub cannot be asked: check the network and HF_HUB_OFFLINE" in str(e.value)


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (404, "EntryNotFound", "the repository has no file f.npz: name one that it has"),
        (404, "RevisionNotFound", "the repository has no revision v1: check its branches"),
        (404, "RepoNotFound", "there is no such repository, or it asks for an access token"),
        (403, "GatedRepo", "there is no such repository, or it asks for an access token"),
    ],
)
def test_what_the_hub_answers(tmp_path: Path, status: int, code: str, reason: str) -> None:
    """A server on this machine answers as the hub does, in a process that takes it for the hub."""
    program = f"""
import http.server, os, threading
class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response({status})
        self.send_header("X-Error-Code", {code!r})
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_GET = do_HEAD
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{{server.server_port}}"
os.environ["HF_HOME"] = {str(tmp_path)!r}
from excitation_jax.models.weight_files import from_hub
try: from_hub("org/name", "f.npz", "v1")
except FileNotFoundError as error: print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.startswith("hub:org/name/f.npz@v1: "), run.stderr
    assert reason in run.stdout


def test_without_the_extra_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        ImportError, match=r"get hub:org/name .* pip install 'excitation-jax\[hub\]'"
    ):
        from_hub("org/name")
