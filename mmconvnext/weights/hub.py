"""Files from the Hugging Face hub, through its own library: its cache, mirrors and tokens.

``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` work as everywhere else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from mmconvnext.errors import CheckpointError, SourceError

# Looked for in this order in a repository, each only where those before are not.
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
FILES = (*TIMM_FILES, "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@:]+))?(?::(?P<file>[^:]+))?")
SHOWN_MODELS = 2


@dataclass(frozen=True)
class HubName:
    """What ``org/name@revision:file`` says; None for what it leaves open."""

    repo: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, name: str) -> HubName:
        """Take a name apart.

        Args:
            name: ``org/name``, ``org/name@revision``, ``org/name:file`` or all three.

        Raises:
            SourceError: it is none of these.
        """
        found = NAME.fullmatch(name)
        if not found:
            raise SourceError(
                f"'hf://{name}' is no name of the hub: write hf://org/name, and where needed the "
                "revision and the file, as in hf://org/name@revision:model.safetensors"
            )
        return cls(**found.groupdict())

    def __str__(self) -> str:
        return self.repo + (f" at revision {self.revision}" if self.revision else "")


def fetch_hf(name: str) -> Path:
    """Find a checkpoint of the hub in its cache, after downloading it if it is not there.

    Args:
        name: ``org/name[@revision][:file]``, what follows ``hf://``.

    Returns:
        The file in the hub's cache.

    Raises:
        SourceError: the name is malformed.
        CheckpointError: the file cannot be had.
    """
    wanted = HubName.parse(name)
    return _from_hub(wanted, (wanted.file,) if wanted.file else FILES)


def fetch_timm(name: str) -> Path:
    """Find the weights of one of timm's models, by timm's registry where timm is installed.

    Args:
        name: a model with its tag, ``convnext_tiny.fb_in22k``; without one, timm's default.

    Returns:
        The file in the hub's cache.

    Raises:
        CheckpointError: there is no such model, or its file cannot be had.
    """
    try:
        import timm
    except ImportError:
        print_log(
            f"timm is not installed: taking timm://{name} to be hf://timm/{name}", logger="current"
        )
        return _from_hub(HubName.parse(f"timm/{name}"), TIMM_FILES)
    cfg = _timm_cfg(timm, name)
    if not cfg.hf_hub_id:
        raise CheckpointError(
            f"timm {timm.__version__} has no weights on the hub for {name}; name its URL: {cfg.url}"
        )
    if "." not in name:
        print_log(
            f"timm://{name}: no tag given, taking timm's default, {name}.{cfg.tag}",
            logger="current",
        )
    files = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else TIMM_FILES
    return _from_hub(HubName.parse(cfg.hf_hub_id), files)


def _timm_cfg(timm: Any, name: str) -> Any:
    """Look a model up; timm's entry of an untrained model is none."""
    try:
        cfg = timm.models.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:  # an unknown model, or an unknown tag of it
        cfg = None
    if cfg and (cfg.hf_hub_id or cfg.url):
        return cfg
    raise CheckpointError(
        f"timm {timm.__version__} has no pretrained {name!r}; "
        f"{closest(name, timm.list_pretrained())}"
    )


def closest(name: str, known: Sequence[str]) -> str:
    """Say which names are like one that is not known.

    Args:
        name: what was asked for, ``model.tag``.
        known: what there is; of a model that is among it, all tags are the choice.

    Returns:
        A phrase for an error message.
    """
    model = name.partition(".")[0]
    models = {k.partition(".")[0] for k in known}
    near = {model} & models or difflib.get_close_matches(model, sorted(models), n=SHOWN_MODELS)
    alike = [k for k in known if k.partition(".")[0] in near]
    if not alike:
        return f"nothing among its {len(known)} names is like it"
    return f"did you mean {', '.join(alike)}?"


def _from_hub(wanted: HubName, files: Sequence[str]) -> Path:
    """Return the first of ``files`` that the repository has."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    unreachable: Exception | None = None
    for file in files:
        try:
            # the rest only from the cache once the hub is out of reach: each try takes its time
            path = huggingface_hub.hf_hub_download(
                wanted.repo,
                file,
                revision=wanted.revision,
                local_files_only=unreachable is not None,
            )
        except errors.LocalEntryNotFoundError as error:
            unreachable = unreachable or error
        except errors.EntryNotFoundError:
            continue
        except errors.HFValidationError as error:
            raise SourceError(f"{wanted} is no name of the hub: {error}") from error
        except Exception as error:  # the hub's library has changed its client's errors twice
            message = " ".join(str(error).split())
            if isinstance(error, errors.RepositoryNotFoundError):  # or one with a gate
                message += (
                    f" If it is private or asks to accept a licence, do so on {constants.ENDPOINT}/"
                    f"{wanted.repo}, then `hf auth login` (or set HF_TOKEN)"
                )
            raise CheckpointError(
                f"cannot get {file} of {wanted} from {constants.ENDPOINT}: {message}"
            ) from error
        else:
            return Path(path)
    if unreachable is not None:
        raise CheckpointError(
            f"cannot get {' or '.join(files)} of {wanted} from {constants.ENDPOINT}, and the cache "
            f"{constants.HF_HUB_CACHE} has none: {unreachable.__cause__ or unreachable}. Fix the "
            f"connection, set HF_ENDPOINT to a mirror, fill the cache with `hf download "
            f"{wanted.repo}` where there is a network, or name the path of a file that you have"
        ) from unreachable
    raise CheckpointError(
        f"{wanted} on the hub has no {' or '.join(files)}; look at its list of files and name one: "
        f"hf://{wanted.repo}{f'@{wanted.revision}' if wanted.revision else ''}:FILE"
    )
