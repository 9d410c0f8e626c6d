"""Models on the Hugging Face Hub and in its cache on this machine; huggingface_hub is needed only here."""

from pathlib import Path

from ussfast.errors import CheckpointError, UssfastError


def download(repo: str, revision: str | None, files: tuple[str, ...]) -> Path:
    """The directory with these files of a Hub model, from the cache where it has them.

    HF_HUB_OFFLINE, HF_HOME, HF_TOKEN and the other settings of huggingface_hub hold.

    Raises:
        CheckpointError: huggingface_hub is not installed, or there is no such model or revision for us.
        UssfastError: the Hub cannot be reached and the cache does not have the model.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise CheckpointError(
            f"no directory {repo!r}; to get it from the Hugging Face Hub: pip install 'ussfast[hub]'"
        ) from None
    what = f"{repo!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=list(files)))
    except errors.GatedRepoError:
        raise CheckpointError(
            f"the Hugging Face model {what} needs its owner's permission: accept its terms at "
            f"https://huggingface.co/{repo} and log in with 'hf auth login'"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"no directory {repo!r}, and the Hugging Face Hub has no such model, or a private one "
            "(log in with 'hf auth login')"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"the Hugging Face model {repo!r} has no revision {revision!r}") from None
    except errors.HFValidationError:
        raise CheckpointError(f"no directory {repo!r}, and it cannot be a name on the Hugging Face Hub") from None
    except errors.LocalEntryNotFoundError:
        why = (
            "HF_HUB_OFFLINE is set"
            if huggingface_hub.constants.HF_HUB_OFFLINE
            else "the Hugging Face Hub cannot be reached"
        )
        raise UssfastError(f"no directory {repo!r}; {why}, and its cache does not have {what}") from None
    except Exception as error:
        # Timeouts, a full disk, trouble at the Hub: its client raises what its many layers raise.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UssfastError(f"the Hugging Face model {what} could not be downloaded: {reason}") from None


def cached(files: tuple[str, ...]) -> list[tuple[str, Path]]:
    """(name, directory) of each model in the Hub's cache that has these files, without using the network."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import CacheNotFound
    except ImportError:
        return []
    try:
        repos = huggingface_hub.scan_cache_dir().repos
    except (CacheNotFound, OSError, ValueError):
        return []
    found = []
    for repo in repos:
        for revision in repo.revisions if repo.repo_type == "model" else ():
            if {file.file_name for file in revision.files} >= set(files):
                # A directory's name would be another model's if the default branch has moved on.
                at = "" if "main" in revision.refs else f"@{revision.commit_hash}"
                found.append((repo.repo_id + at, Path(revision.snapshot_path)))
    return sorted(found)
