"""Where checkpoints come from: a path, a URL, or a name that timm, torchvision or the hub knows.

Files of the hub are in its own library's cache; ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and
``HF_HUB_OFFLINE`` work as everywhere else.
"""

import difflib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.logging import print_log

from mmconvnext.compat.checkpoint_io import check_file, load_from_local
from mmconvnext.errors import CheckpointError, SourceError
from mmconvnext.weights.download import check_sha256, download, wanted_sha256

SCHEME = re.compile(r"([A-Za-z][\w+.-]+)://")
# the digits of its sha256 that torchvision puts in the name of a file
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([^@:]+))?(?::([^:]+))?")  # repository, revision, file
# Looked for in this order in a repository of the hub, each only where those before are not.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
HUB_FILES += ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def fetch(source: str, sha256: str | None = None, folder: str | None = None) -> Path:
    """Bring one source to a local file: a path's own, for everything else one in a cache.

    Args:
        source: a path, an http or https URL, ``timm://model.tag``,
            ``hf://org/name[@revision][:file]`` or ``torchvision://model[.weights]``. Anything but a
            path may end in ``#sha256=`` and the hash.
        sha256: 64 hexadecimal digits that the file must have.
        folder: where to put the file of a URL; None for torch's cache, where those of most hosts
            lie in a subfolder named after the URL.

    Raises:
        SourceError: the source cannot be meant like that: an unknown scheme, a malformed name.
        CheckpointError: it cannot be had; a DownloadError, where it is another file than asked for.
    """
    found = SCHEME.match(source)
    if not found:
        path = Path(source).expanduser()
        check_file(path)
        check_sha256(path, wanted_sha256(source, sha256))
        return path
    bare, _, fragment = source.partition("#")
    # also sha1 and misspellings: not silently unchecked
    added = fragment.removeprefix("sha256=") if fragment.lower().startswith("sha") else None
    sha256 = wanted_sha256(bare, sha256, added)
    scheme, name = found[1].lower(), bare[found.end() :]
    if scheme in ("http", "https"):
        return download(bare, folder, sha256)
    if scheme not in NAMED:
        raise SourceError(
            f"{source}: unknown scheme {scheme}://; a source is a path or starts with "
            f"{', '.join(f'{known}://' for known in ('http', 'https', *NAMED))}"
        )
    path = NAMED[scheme](name)
    check_sha256(path, sha256)
    return path


def fetch_first(sources: str | Sequence[str], sha256: str | None = None) -> tuple[str, Path]:
    """Bring the first source that can be had, see :func:`fetch`, to a local file; give both.

    A mistake in the name of one is an error at once, whatever the others are.
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
    for source in sources:
        if reasons:
            _log(f"no weights from {reasons[-1]}; trying {source}", logging.WARNING)
        try:
            return source, fetch(source)
        except SourceError:
            raise
        except CheckpointError as error:
            reasons.append(f"{source}: {error}")
    raise CheckpointError(
        f"none of the {len(sources)} sources of weights can be had; fix one of them, or name the "
        "path of a file that you have:\n- " + "\n- ".join(reasons)
    )


def install(checkpoint: ModuleType) -> None:
    """Let ``mmengine.runner.checkpoint`` read all sources, for everybody, without running code.

    Its loaders of ``open-mmlab://`` and ``mmcls://`` names look up a URL and hand it to
    ``load_from_http``, which unpickles whatever comes: they get the one of here.
    """
    schemes = tuple(f"{scheme}://" for scheme in ("http", "https", *NAMED))
    checkpoint.CheckpointLoader.register_scheme(schemes, load_from_source, force=True)
    checkpoint.load_from_http = checkpoint.load_url = load_from_source


def load_from_source(
    filename: str, map_location: Any = None, model_dir: str | None = None, progress: bool = True
) -> Any:
    """Read a source, as for :func:`fetch`, for mmengine; a terminal always shows a bar."""
    return load_from_local(str(fetch(filename, folder=model_dir)), map_location)


def _fetch_torchvision(name: str) -> Path:
    """Find torchvision's weights; ``name`` as in torchvision, or the model's with its weights'."""
    # not above: the import of that module calls install() here, which must be there by then
    from mmengine.runner import checkpoint

    try:
        urls = checkpoint.get_torchvision_models()
    except ImportError as error:
        raise CheckpointError(
            f"torchvision://{name} needs a package: pip install torchvision"
        ) from error
    plain = name.replace("_Weights", "").lower()
    url = urls.get(plain) or urls.get(f"{plain}.default")
    if not url:
        names = [key for key, value in urls.items() if value]
        raise CheckpointError(f"torchvision has no weights {name!r}; {_closest(plain, names)}")
    digits = HASH_IN_NAME.search(url)
    return download(url, digits=digits[1] if digits else "")


def _fetch_modelzoo(name: str) -> Path:
    new = f"torchvision://{name}"
    _log(f"modelzoo://{name}: the scheme has been renamed; write {new}", logging.WARNING)
    return _fetch_torchvision(name)


def _fetch_timm(name: str) -> Path:
    """Find the weights of a model of timm's registry, by default of timm's default tag."""
    try:
        import timm
    except ImportError:
        _log(f"timm is not installed: taking timm://{name} to be hf://timm/{name}")
        return _fetch_hub(f"timm/{name}")
    if not timm.is_model_pretrained(name):
        near = _closest(name, timm.list_pretrained())
        raise CheckpointError(f"timm {timm.__version__} has no pretrained {name!r}; {near}")
    cfg = timm.models.get_pretrained_cfg(name)
    if "." not in name:
        _log(f"timm://{name}: no tag given, taking timm's default, {name}.{cfg.tag}")
    if not cfg.hf_hub_id:
        return fetch(cfg.url)
    return _fetch_hub(cfg.hf_hub_id + f":{cfg.hf_hub_filename}" * bool(cfg.hf_hub_filename))


def _closest(name: str, there: Sequence[str]) -> str:
    """Say which names, ``model.tag``, are like one that is not there: of its model all tags."""
    model = name.partition(".")[0]
    models = {k.partition(".")[0] for k in there}
    near = {model} & models or difflib.get_close_matches(model, sorted(models), n=2)
    alike = ", ".join(k for k in there if k.partition(".")[0] in near)
    return f"did you mean {alike}?" if alike else f"nothing among its {len(there)} names is like it"


def _fetch_hub(name: str) -> Path:
    """Find a checkpoint of the hub; the first of ``HUB_FILES``, where the name has no file."""
    from huggingface_hub import constants, errors, hf_hub_download

    found = HUB_NAME.fullmatch(name)
    if not found:
        raise SourceError(
            f"'hf://{name}' is no name of the hub: write hf://org/name, and where needed the "
            "revision and the file, as in hf://org/name@revision:model.safetensors"
        )
    repo, revision, file = found.groups()
    files = [file] if file else HUB_FILES
    shown = f"{repo} at revision {revision}" if revision else repo
    hub = constants.ENDPOINT
    down: Exception | None = None
    for file in files:
        try:
            # only from the cache once the hub is out of reach: each try takes its time
            return Path(hf_hub_download(repo, file, revision=revision, local_files_only=bool(down)))
        except errors.LocalEntryNotFoundError as error:
            down = down or error
        except errors.EntryNotFoundError:
            continue
        except errors.HFValidationError as error:
            raise SourceError(f"{shown} is no name of the hub: {error}") from error
        except Exception as error:  # the hub's library has changed its client's errors twice
            message = " ".join(str(error).split())
            if isinstance(error, errors.RepositoryNotFoundError):  # or one with a gate
                message += (
                    f" If it is private or asks to accept a licence, do so on {hub}/{repo}, then "
                    "`hf auth login` (or set HF_TOKEN)"
                )
            raise CheckpointError(f"cannot get {file} of {shown} from {hub}: {message}") from error
    if down:
        raise CheckpointError(
            f"cannot get {' or '.join(files)} of {shown} from {hub}, and the cache "
            f"{constants.HF_HUB_CACHE} has none: {down.__cause__ or down}. Fix the connection, set "
            f"HF_ENDPOINT to a mirror, fill the cache with `hf download {repo}` where there is a "
            "network, or name the path of a file that you have"
        ) from down
    raise CheckpointError(
        f"{shown} on the hub has no {' or '.join(files)}; look at its list of files and name one: "
        f"hf://{repo}{f'@{revision}' if revision else ''}:FILE"
    )


def _log(line: str, level: int = logging.INFO) -> None:
    print_log(line, logger="current", level=level)


NAMED = {
    "timm": _fetch_timm,
    "hf": _fetch_hub,
    "torchvision": _fetch_torchvision,
    "modelzoo": _fetch_modelzoo,
}
