"""Weight files from the Hugging Face hub, as local paths; `huggingface_hub` does the work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PREFIX = "hub:"
"""What a hub id begins with, where a path could stand as well."""

_DEFAULT_FILENAME = "model.safetensors"

_FORM = "write it as hub:org/name, hub:org/name/file.safetensors or either with @revision after it"

# Letters, digits, ".", "_" and "-", the first of them no ".", which also keeps ".." out.
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class HubId(NamedTuple):
    """A file on the hub, as users write it: "hub:org/name/file@revision".

    Attributes:
        repo_id: the repository, "org/name".
        filename: the file in it, which may be in a folder; None for model.safetensors.
        revision: a branch, a tag or a commit; None for the main branch.
    """

    repo_id: str
    filename: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        file = f"/{self.filename}" if self.filename else ""
        return f"{PREFIX}{self.repo_id}{file}" + (f"@{self.revision}" if self.revision else "")


def parse_hub_id(text: str) -> HubId:
    """Takes a hub id apart.

    >>> parse_hub_id("hub:org/name")
    HubId(repo_id='org/name', filename=None, revision=None)
    >>> parse_hub_id("hub:org/name/weights/vit.safetensors@v1.0")
    HubId(repo_id='org/name', filename='weights/vit.safetensors', revision='v1.0')

    Raises:
        ValueError: `text` is no hub id; the message says what is wrong and how to write one.
    """
    if not text.startswith(PREFIX):
        raise ValueError(f"{text!r} is no hub id, since it does not begin with {PREFIX}: {_FORM}")
    location, at, revision = text.removeprefix(PREFIX).partition("@")
    organisation, _, rest = location.partition("/")
    name, slash, filename = rest.partition("/")
    hub_id = HubId(f"{organisation}/{name}", filename if slash else None, revision if at else None)
    problem = _problem(hub_id)
    if problem:
        raise ValueError(f"{text!r} is no hub id, since {problem}: {_FORM}")
    return hub_id


def from_hub(
    repo_id: str,
    filename: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    *,
    cache_dir: str | Path | None = None,
) -> Path:
    """The local path of a file on the hub, downloaded into the hub's cache unless it is there.

    `huggingface_hub` shows its progress on stderr unless HF_HUB_DISABLE_PROGRESS_BARS is set, and
    takes the place of the cache, an access token and HF_HUB_OFFLINE from the environment, too.

    Args:
        repo_id: the repository, "org/name".
        filename: the file in it; model.safetensors unless given.
        revision: a branch, a tag or a commit; the main branch unless given.
        local_files_only: whether to take the file from the cache only, with no network at all.
        cache_dir: the cache, if not the one that the environment says.

    Raises:
        ConnectionError: the download failed on the way.
        FileNotFoundError: no such repository, revision or file, or it is not in the cache and
            the hub is not to be, or cannot be, asked. The message names the file.
        ImportError: `huggingface_hub` is not installed.
        ValueError: an argument is malformed.
    """
    hub_id = HubId(repo_id, filename, revision)
    problem = _problem(hub_id)
    if problem:
        raise ValueError(f"{str(hub_id)!r} cannot be on the hub, since {problem}: {_FORM}")
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise ImportError(
            f"to get {hub_id} from the hub, pip install 'excitation-jax[hub]'"
        ) from error
    filename = filename or _DEFAULT_FILENAME
    try:
        return Path(
            hf_hub_download(
                repo_id,
                filename,
                revision=revision,
                local_files_only=local_files_only,
                cache_dir=cache_dir,
            )
        )
    except errors.HFValidationError as error:
        raise ValueError(f"{str(hub_id)!r} cannot be on the hub ({error}): {_FORM}") from error
    except errors.LocalEntryNotFoundError as error:
        missing = f"{hub_id}: {filename} is not in the hub's cache on this machine"
        if local_files_only:
            message = f"{missing}: get it once without local_files_only"
        else:
            message = (
                f"{missing}, and the hub cannot be asked: check the network and HF_HUB_OFFLINE"
            )
        raise FileNotFoundError(message) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(
            f"{hub_id}: the repository has no file {filename}: name one that it has"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{hub_id}: the repository has no revision {revision}: check its branches and tags"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{hub_id}: there is no such repository, or it asks for an access token: check the "
            f"name, or log in with hf auth login"
        ) from error
    # What a broken download raises is a matter of the HTTP client beneath, and no one's interface.
    except Exception as error:
        raise ConnectionError(f"{hub_id} cannot be downloaded ({error}): try again") from error


def _problem(hub_id: HubId) -> str:
    """What is wrong with the parts of a hub id; empty if nothing is."""
    repository = hub_id.repo_id.split("/")
    if len(repository) != 2 or not all(_PART.fullmatch(part) for part in repository):
        return f"{hub_id.repo_id!r} is not an organisation, a slash and a name"
    for what, value in (("file", hub_id.filename), ("revision", hub_id.revision)):
        if value is not None and not _is_path(value):
            return f"{value!r} cannot be the name of a {what}"
    return ""


def _is_path(value: str) -> bool:
    """Whether it leads from a directory to something below it."""
    parts = value.split("/")
    return value.isprintable() and "\\" not in value and not {"", ".", ".."} & set(parts)
