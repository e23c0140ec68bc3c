"""What can go wrong with a hub, each as one line that says what to do: no connection, no such model, closed doors."""

import contextlib
import json
from collections.abc import Iterator

from baichuan2.errors import BaichuanError, CheckpointError

__all__ = ["first_line", "hub_failures", "is_transport_error"]


@contextlib.contextmanager
def hub_failures(repo_id: str, revision: str | None, *, offline: bool) -> Iterator[None]:
    """Turns what the client of Hugging Face raises inside into CheckpointError of one line.

    `offline`: the hub was not to be contacted, so that what is missing is no fault of the network.

    Raises:
        CheckpointError: anything that the client raised; its cause is chained.
    """
    from huggingface_hub import errors

    at = f" (revision {revision})" if revision else ""
    try:
        yield
    except errors.LocalEntryNotFoundError as error:
        reason = "and the hub must not be contacted (offline)" if offline else "and the hub cannot be reached"
        raise CheckpointError(
            f"{repo_id}{at} is no folder here and not in the local cache, {reason}: download it once with a "
            "connection, or give a local folder"
        ) from error
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repo_id} is gated on the hub: accept its terms there, then run  hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"{repo_id} has no revision {revision} on the hub: look at its list of branches"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no model {repo_id} (or it is private: run  hf auth login), and there is no such folder here"
        ) from error
    except BaichuanError:  # said in one line already
        raise
    # an answer of another form than the client reads
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{repo_id}{at}: what answers is no hub ({type(error).__name__}: {first_line(error)}): look at the address "
            "in --mirror or HF_ENDPOINT"
        ) from error
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        raise CheckpointError(f"{repo_id}{at} cannot be fetched from the hub: {first_line(error)}") from error
    except Exception as error:
        # the transport's own errors (httpx, or its successor) are no OSError, and which package raises them changes
        if not is_transport_error(error):
            raise
        raise CheckpointError(
            f"{repo_id}{at} cannot be fetched: the hub cannot be reached ({first_line(error)}): look at the "
            "connection and run the same command again, or name another address with HF_ENDPOINT"
        ) from error


def is_transport_error(error: Exception) -> bool:
    """Whether the HTTP library under the client raised `error`."""
    return any(base.__module__.partition(".")[0] in ("httpx", "httpx2") for base in type(error).__mro__)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
