"""Files from the Hugging Face hub: asked for a few times, and told in words if they don't come."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from pathlib import Path

from bot.vision.model_files import CLIP_CONFIG, CLIP_WEIGHTS
from bot.vision.refusal import first_line

WAITS = (1.0, 2.0)
"""Seconds between attempts: who has no network wants to know it soon."""
ANSWER_SECONDS = 5.0
OF_THE_DISK = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EROFS)


class PullError(Exception):
    """The model could not be fetched; says what happened and what to do."""


def fetch(repository: str, file: str, folder: Path) -> Path:
    """One file of a repository, in ``folder``; the hub's library shows a progress bar.

    Raises:
        PullError: the hub can't be reached, or has no such file for us.
        OSError: the file can't be written.
    """
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    print(f"fetching {file} from {repository} ...", file=sys.stderr)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    _say_each_retry_once()
    try:
        _wait_for_an_answer(_address(repository, file))
        return Path(hf_hub_download(repository, file, local_dir=folder))
    except LocalEntryNotFoundError as error:  # an EntryNotFoundError, but it means: no network
        raise PullError(_unreachable(error.__cause__ or error, repository)) from error
    except (EntryNotFoundError, RepositoryNotFoundError, GatedRepoError) as error:
        raise PullError(
            f"the hub has no {file} in {repository} that may be read; nothing was kept. Check the "
            "name, or log in there first (`hf auth login`)"
        ) from error
    except Exception as error:  # the hub's HTTP library changes with its versions
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            raise
        raise PullError(_unreachable(error, repository)) from error


def _wait_for_an_answer(address: str) -> None:
    """Returns once the hub says anything at all; the library itself would ask for half a minute.

    Raises whatever the library raised at the last attempt.
    """
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for wait in (*WAITS, None):
        try:
            get_hf_file_metadata(address, timeout=ANSWER_SECONDS)
            return
        except (HfHubHTTPError, OfflineModeIsEnabled):
            return  # the download will be told the same
        except Exception as error:
            if wait is None:
                raise
            why = first_line(error, 160)
            print(f"the hub does not answer ({why}); asking again in {wait:g} s", file=sys.stderr)
            time.sleep(wait)


def _say_each_retry_once() -> None:
    """The library's own lines, when the line breaks midway: not in Danzar's log as well."""
    library = logging.getLogger("huggingface_hub")
    library.propagate = False
    for handler in library.handlers:
        handler.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    # Each "Retrying in 2s" has this before it; why it failed is told at the end.
    return " thrown while requesting " not in record.getMessage()


def _unreachable(error: BaseException, repository: str) -> str:
    return (
        f"the Hugging Face hub can't be reached ({first_line(error, 160)}); nothing was kept, and "
        "the models that are here serve as before. Check the network (HTTPS_PROXY, HF_ENDPOINT) "
        "and try again, or fetch these files on another machine:\n"
        f"  {_address(repository, CLIP_CONFIG)}\n"
        f"  {_address(repository, CLIP_WEIGHTS)}\n"
        "Put both into one folder here and name it in clip.model_path."
    )


def _address(repository: str, file: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository, file)
