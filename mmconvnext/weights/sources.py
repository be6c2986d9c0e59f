"""Where checkpoints come from: a path, a URL, or a name that timm, torchvision or the hub knows."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from mmengine.logging import print_log

from mmconvnext.compat.checkpoint_io import check_file, load_from_local
from mmconvnext.errors import CheckpointError, SourceError
from mmconvnext.weights.download import (
    check_sha256,
    download,
    obtain,
    place_of,
    split_sha256,
    valid_sha256,
)
from mmconvnext.weights.hub import closest, fetch_hf, fetch_timm

SCHEME = re.compile(r"([A-Za-z][\w+.-]+)://")
# the digits of its sha256 that torchvision puts in the name of a file
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})$")


def fetch(source: str, sha256: str | None = None) -> Path:
    """Bring one source to a local file.

    Args:
        source: a path, an http or https URL, ``timm://model.tag``,
            ``hf://org/name[@revision][:file]`` or ``torchvision://model[.weights]``. Anything but a
            path may end in ``#sha256=`` and the hash.
        sha256: 64 hexadecimal digits that the file must have.

    Returns:
        The file: itself for a path, in a cache for everything else.

    Raises:
        SourceError: the source cannot be meant like that: an unknown scheme, a malformed name.
        MissingCheckpointError: there is no file at the path.
        DownloadError: it did not arrive, or has another hash.
        CheckpointError: it cannot be had for another reason.
    """
    found = SCHEME.match(source)
    if not found:
        path = Path(source).expanduser()
        check_file(path)
        sha256 = valid_sha256(source, sha256) if sha256 is not None else None
    else:
        bare, sha256 = split_sha256(source, sha256)
        scheme, name = found[1].lower(), bare[found.end() :]
        if scheme in ("http", "https"):
            return download(bare, sha256=sha256)
        if scheme not in NAMED:
            raise SourceError(
                f"{source}: unknown scheme {scheme}://; a source is a path or starts with "
                f"{', '.join(f'{known}://' for known in ('http', 'https', *NAMED))}"
            )
        path = NAMED[scheme](name)
    check_sha256(path, sha256 or "")
    return path


def fetch_first(sources: str | Sequence[str], sha256: str | None = None) -> tuple[str, Path]:
    """Bring the first source that can be had to a local file; the others stand in for it.

    Args:
        sources: one source, or several in the order of preference, each as for :func:`fetch`.
        sha256: the hash of the file, for a single source only.

    Returns:
        The source that was taken, and its file.

    Raises:
        SourceError: a source is a mistake in itself, there is none, or the hash is for several.
        CheckpointError: none of them can be had; it names each with its reason. For a single
            source, the error of :func:`fetch`.
    """
    sources = [sources] if isinstance(sources, str) else list(sources)
    if not sources:
        raise SourceError("no source of weights is given: name at least one path, URL or name")
    if len(sources) == 1:
        return sources[0], fetch(sources[0], sha256)
    if sha256 is not None:
        raise SourceError(
            f"one sha256 for {len(sources)} sources, whose files differ: remove it and add "
            "#sha256=… to each URL"
        )
    reasons = []
    for index, source in enumerate(sources):
        try:
            return source, fetch(source)
        except SourceError:
            raise
        except CheckpointError as error:
            reasons.append(f"{source}: {error}")
        if index + 1 < len(sources):
            print_log(
                f"no weights from {reasons[-1]}; trying {sources[index + 1]}",
                logger="current",
                level=logging.WARNING,
            )
    raise CheckpointError(
        f"none of the {len(sources)} sources of weights can be had; fix one of them, or name the "
        "path of a file that you have:\n" + "\n".join(f"- {reason}" for reason in reasons)
    )


def install(checkpoint: ModuleType) -> None:
    """Let mmengine read all sources, for ``load_from`` and everybody else, without running code.

    Its loaders of ``open-mmlab://`` and ``mmcls://`` names look up a URL and hand it to
    ``load_from_http``, which unpickles whatever comes: they get the one of here.

    Args:
        checkpoint: ``mmengine.runner.checkpoint``.
    """
    loaders = checkpoint.CheckpointLoader
    loaders.register_scheme(("http://", "https://"), load_from_http, force=True)
    schemes = tuple(f"{scheme}://" for scheme in NAMED)
    loaders.register_scheme(schemes, load_from_source, force=True)
    checkpoint.load_from_http = load_from_http
    checkpoint.load_url = load_from_http


def load_from_http(
    filename: str,
    map_location: Any = None,
    model_dir: str | None = None,
    progress: bool = True,
) -> Any:
    """Read a URL for mmengine.

    Args:
        filename: the URL; ``#sha256=`` and the hash may be added to it.
        map_location: the device to read to, as for ``torch.load``.
        model_dir: where to put the file; None for torch's cache.
        progress: as in mmengine; there is a bar wherever there is a terminal.

    Returns:
        What the file contains.
    """
    folder = None if model_dir is None else Path(model_dir)
    return load_from_local(str(download(filename, folder)), map_location)


def load_from_source(filename: str, map_location: Any = None) -> Any:
    """Read a named source for mmengine.

    Args:
        filename: a source with a scheme, as for :func:`fetch`.
        map_location: the device to read to, as for ``torch.load``.

    Returns:
        What the file contains.
    """
    return load_from_local(str(fetch(filename)), map_location)


def get_torchvision_models() -> dict[str, str]:
    """Look up torchvision's URLs by the names of its weights, as mmengine knows them."""
    # not above: the import of that module calls install() here, which must be there by then
    from mmengine.runner import checkpoint

    return checkpoint.get_torchvision_models()


def _fetch_torchvision(name: str) -> Path:
    """Find torchvision's weights; ``name`` as in torchvision, or the model's with its weights'."""
    try:
        known = get_torchvision_models()
    except ImportError as error:
        raise CheckpointError(
            f"torchvision://{name} needs a package: pip install torchvision"
        ) from error
    plain = name.replace("_Weights", "").lower()
    url = known.get(plain) or known.get(f"{plain}.default")
    if not url:
        names = [key for key, value in known.items() if value]
        raise CheckpointError(f"torchvision has no weights {name!r}; {closest(plain, names)}")
    digits = HASH_IN_NAME.search(PurePosixPath(urlsplit(url).path).stem)
    return obtain(url, place_of(url), digits[1] if digits else "")


def _fetch_modelzoo(name: str) -> Path:
    print_log(
        f"modelzoo://{name}: the scheme has been renamed; write torchvision://{name}",
        logger="current",
        level=logging.WARNING,
    )
    return _fetch_torchvision(name)


NAMED = {
    "timm": fetch_timm,
    "hf": fetch_hf,
    "torchvision": _fetch_torchvision,
    "modelzoo": _fetch_modelzoo,
}
