"""A model on the hub, looked at before it is fetched: the names and sizes of its files, and the headers of its weights.

`sketch` makes a folder of it that costs next to nothing: small files are whole, weights have their header and, where
their numbers would be, a hole of the right size. Whatever reads a model without its numbers then reads the one on the
hub as if it were here.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olivine.errors import ModelError, OlivineError
from olivine.models.companions import COMPANIONS

SECONDS = 20  # that an answer may take
SMALL_BYTES = 2**20  # a file up to this size is read whole
LARGEST_HEADER_BYTES = 100 * 2**20  # safetensors' own bound
N_AT_ONCE = 8


class Unreachable(OlivineError):  # noqa: N818 - as in olivine.errors
    """The hub gives no answer; the message says why."""


@dataclass(frozen=True)
class _File:
    name: str
    n_bytes: int


def patterns(*, trusted: bool) -> list[str]:
    """What is fetched of a model: config, tokenizer, template and safetensors; its code where that is trusted."""
    return [*COMPANIONS, "*.safetensors", "*.safetensors.index.json", "*.jinja", *(["*.py"] if trusted else [])]


def sketch(name: str, revision: str | None, folder: Path, *, trusted: bool) -> int:
    """Fill `folder` with the sketch of a model on the hub, and give the bytes that fetching it would move.

    Raises ModelError when the hub has no such model or does not give it to this user, Unreachable when there is no
    answer.
    """
    with _in_sentences(name, revision):
        commit, files = _listed(name, revision, trusted=trusted)
        with ThreadPoolExecutor(N_AT_ONCE) as pool:
            for _ in pool.map(lambda file: _draw(name, commit, file, folder), files):
                pass
    return sum(file.n_bytes for file in files)


def reach() -> tuple[str, str]:
    """Where the hub is, and the user that its token tells, or nothing; Unreachable when there is no answer."""
    from huggingface_hub import errors, get_token
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.utils import (  # type: ignore[attr-defined] # lazily exported
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    place = _endpoint() or ENDPOINT
    asked = f"{place}/api/whoami-v2" if get_token() else f"{place}/api/models?limit=1"
    with _in_sentences(place, None):
        response = get_session().get(asked, headers=build_hf_headers(), timeout=SECONDS)
        try:
            hf_raise_for_status(response)
        except errors.HfHubHTTPError:
            if response.status_code in (401, 403):
                raise Unreachable("it does not know the token (HF_TOKEN, or 'hf auth login')") from None
            raise
        return place, str(response.json()["name"]) if get_token() else ""


@contextlib.contextmanager
def _in_sentences(name: str, revision: str | None) -> Iterator[None]:
    """The hub's refusals as sentences of ours."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise ModelError(f"the model '{name}' is gated: accept its terms on the hub and set HF_TOKEN") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        at = f" at revision '{revision}'" if revision else ""
        raise ModelError(f"the hub has no model '{name}'{at}; a private one needs HF_TOKEN") from None
    except errors.HFValidationError as error:
        raise ModelError(f"'{name}' is no name of the hub: {error}") from None
    except errors.OfflineModeIsEnabled:
        raise Unreachable("the network is off") from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise Unreachable(_reason(error)) from None
    except (ValueError, KeyError, TypeError) as error:  # an answer that is none of the hub's
        raise Unreachable(f"what came is not understood ({_reason(error)})") from None
    except Exception as error:
        if is_of_transport(error):
            raise Unreachable(_reason(error)) from None
        raise


def is_of_transport(error: Exception) -> bool:
    """Whether the HTTP client raised it; which package that is depends on the release of huggingface_hub."""
    return type(error).__module__.partition(".")[0].startswith("http")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _listed(name: str, revision: str | None, *, trusted: bool) -> tuple[str, list[_File]]:
    """The commit, and the files that would be fetched."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined] # lazily exported

    repository: Any = HfApi(endpoint=_endpoint()).model_info(
        name, revision=revision, files_metadata=True, timeout=SECONDS
    )
    files = [_File(one.rfilename, one.size or 0) for one in repository.siblings or ()]
    needed = list(filter_repo_objects(files, allow_patterns=patterns(trusted=trusted), key=lambda file: file.name))
    return str(repository.sha), [file for file in needed if not Path(file.name).is_absolute() and ".." not in file.name]


def _endpoint() -> str | None:
    """A mirror of the hub, where the environment names one."""
    return os.environ.get("HF_ENDPOINT") or None


def _draw(name: str, commit: str, file: _File, folder: Path) -> None:
    draw(folder / file.name, file.n_bytes, lambda n_bytes: _read(name, commit, file, n_bytes))


def draw(path: Path, n_bytes: int, read: Callable[[int], bytes]) -> None:
    """A file that lies elsewhere: of weights the header, else itself when it is small, and a hole for the rest.

    n_bytes: of all of it. read: gives its first bytes, as many as it is asked for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    start = b""
    if path.suffix == ".safetensors":
        start = header(n_bytes, read)
    elif n_bytes <= SMALL_BYTES:
        start = read(n_bytes)
    with path.open("wb") as drawn:
        drawn.write(start)
        drawn.truncate(n_bytes)


def header(n_all: int, read: Callable[[int], bytes]) -> bytes:
    """The beginning of a safetensors file up to its numbers; only its length where that is nonsense."""
    start = read(min(2**17, n_all))
    n_bytes = 8 + int.from_bytes(start[:8], "little")
    if n_bytes > min(LARGEST_HEADER_BYTES, n_all):
        return start[:8]
    return start[:n_bytes] if n_bytes <= len(start) else read(n_bytes)


def _read(name: str, commit: str, file: _File, n_bytes: int) -> bytes:
    """The first bytes of a file; no more is read where a server sends all of it."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined] # lazily exported
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    if not n_bytes:
        return b""
    headers = build_hf_headers() | {"Range": f"bytes=0-{n_bytes - 1}"}
    url, content = hf_hub_url(name, file.name, revision=commit, endpoint=_endpoint()), b""
    with get_session().stream("GET", url, headers=headers, timeout=SECONDS, follow_redirects=True) as response:
        hf_raise_for_status(response)
        for part in response.iter_bytes():
            content += part
            if len(content) >= n_bytes:
                break
    if len(content) < n_bytes:
        raise Unreachable(f"'{file.name}' ended after {len(content)} bytes")
    return content[:n_bytes]
