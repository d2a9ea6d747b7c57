"""Upload what a run delivered to a repository of the Hugging Face hub."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from olivine.errors import OlivineError, RequestError
from olivine.models.hub import is_of_transport
from olivine.workflow.folders import DELIVERED

# what is made for others to read, and what is about the run: it quotes rows and names paths of this machine
FOR_OTHERS = ("README.md", "run.py", "metrics.json", *(f"{name}/**" for name in DELIVERED))
OF_THE_RUN = ("report.html", "workflow.json")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def push(
    output_dir: Path, repository: str, *, private: bool = False, branch: str | None = None, with_run: bool = False
) -> str:
    """Upload model, card, script and numbers; gives the address of the commit.

    private: of a repository that is made now. with_run: the report and the config as well. Raises RequestError before
    anything is sent, OlivineError where the hub refuses or gives no answer.
    """
    check_delivery(output_dir, repository)
    return _in_sentences(repository, lambda: _upload(output_dir, repository, private, branch, with_run))


def check_delivery(output_dir: Path, repository: str) -> None:
    """Raise RequestError unless a model lies there, the name is one of the hub, and the network may be used."""
    if not _NAME.fullmatch(repository):
        raise RequestError(f"'{repository}' is no name of a repository; write it as USER/NAME")
    if not (output_dir / "model").is_dir():
        hint = (
            "; name the output_dir of a run, which holds it" if output_dir.is_dir() else ", as there is no such folder"
        )
        raise RequestError(f"'{output_dir}' holds no 'model' to push{hint}")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise RequestError("HF_HUB_OFFLINE keeps the network off; unset it to push")


def _upload(output_dir: Path, repository: str, private: bool, branch: str | None, with_run: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    if branch is not None:
        api.create_branch(repository, branch=branch, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repository,
        folder_path=output_dir,
        allow_patterns=[*FOR_OTHERS, *(OF_THE_RUN if with_run else ())],
        ignore_patterns=["**/.*"],
        commit_message="Upload a model made by olivine",
        revision=branch,
    )
    return str(commit.commit_url)


def _in_sentences(repository: str, upload: Callable[[], str]) -> str:
    """The hub's refusals as sentences of ours."""
    from huggingface_hub import errors

    try:
        return upload()
    except (errors.LocalTokenNotFoundError, errors.RepositoryNotFoundError) as error:
        raise OlivineError(_no_right(repository)) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise OlivineError(_no_right(repository)) from error
        why = error.server_message or str(error).splitlines()[0]
        raise OlivineError(f"the hub refuses the upload to '{repository}' ({status}): {why}") from error
    except (errors.HFValidationError, OSError) as error:
        raise _failed(repository, error) from error
    except Exception as error:
        if is_of_transport(error):
            raise _failed(repository, error) from error
        raise


def _failed(repository: str, error: Exception) -> OlivineError:
    why = " ".join(str(error).split()) or type(error).__name__
    advice = "; 'olivine doctor --hub' says whether the hub answers" if is_of_transport(error) else ""
    return OlivineError(f"the upload to '{repository}' failed: {why}{advice}")


def _no_right(repository: str) -> str:
    return f"the hub does not let this user write to '{repository}': set HF_TOKEN to a token that may"
