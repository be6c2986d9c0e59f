import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import mmengine.runner.checkpoint
import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from mmconvnext.errors import (
    CheckpointError,
    DownloadError,
    MissingCheckpointError,
    SourceError,
    UnsafeCheckpointError,
)
from mmconvnext.weights import sources
from mmconvnext.weights.sources import fetch, fetch_first
from tests.weights.server import COMMIT, checkpoint, content_of, sha256

CONTENT = checkpoint({"w": torch.arange(100)})
DOWN = "http://127.0.0.1:1/x.pth"


def failure(source: str, kind: type[Exception] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        fetch(source)
    return str(caught.value)


def load(source: str) -> dict:
    return CheckpointLoader.load_checkpoint(source, map_location="cpu", logger="silent")


@pytest.fixture
def url(server, cache) -> str:
    server.files["/x.pth"] = CONTENT
    return server.url("/x.pth")


@pytest.fixture
def local(tmp_path) -> str:
    path = tmp_path / "local.pth"
    path.write_bytes(CONTENT)
    return str(path)


def test_a_path_with_a_hash(local, monkeypatch):
    monkeypatch.setenv("HOME", str(Path(local).parent))
    for path in (local, "~/local.pth"):
        assert fetch(path) == fetch(path, sha256=sha256(CONTENT)) == Path(local)
    with pytest.raises(DownloadError, match=f"{sha256(CONTENT)}, not {'0' * 64}"):
        fetch(local, sha256="0" * 64)
    with pytest.raises(SourceError, match="is no sha256"):
        fetch(local, sha256="123")


def test_a_path_may_have_a_number_sign(local):
    other = Path(local).rename(Path(local).with_name("run#sha256=1.pth"))
    assert fetch(str(other)) == other


def test_paths_where_there_is_nothing_to_read(tmp_path):
    for function in (fetch, fetch_first):
        with pytest.raises(MissingCheckpointError, match=r"there is no checkpoint .*nothing\.pth"):
            function(str(tmp_path / "nothing.pth"))
    assert "is a folder" in failure(str(tmp_path))


def test_an_unknown_scheme():
    message = failure("ftp://host/x.pth", SourceError)
    assert message.startswith("ftp://host/x.pth: unknown scheme ftp://")
    assert "http://, https://, timm://, hf://, torchvision://" in message


def test_the_second_stands_in_where_the_first_host_is_down(url, logged):
    assert fetch_first([DOWN, url]) == (url, fetch(url))
    lines = [line for line in logged if "no weights from" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"no weights from {DOWN}: cannot download {DOWN}: ")
    assert "Connection refused" in lines[0]
    assert lines[0].endswith(f"; trying {url}")


def test_the_first_is_taken_where_it_can_be_had(url, local, server):
    assert fetch_first([local, url]) == (local, Path(local))
    assert fetch_first(local) == (local, Path(local))
    assert server.requests == []


@pytest.mark.parametrize("first", ["/nowhere/x.pth", "/missing.pth", "/x.pth#sha256=" + "0" * 64])
def test_what_else_makes_it_go_on(url, local, server, first):
    first = first if first.startswith("/nowhere") else server.url(first)
    assert fetch_first([first, local])[0] == local


def test_a_missing_package_makes_it_go_on(local, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert fetch_first(["torchvision://convnext_tiny", local])[0] == local
    assert "pip install " in failure("torchvision://convnext_tiny")


@pytest.mark.parametrize("mistake", ["hf://name", "htp://host/x.pth", "http://host/"])
def test_a_mistake_is_not_papered_over(local, mistake):
    with pytest.raises(SourceError):
        fetch_first([mistake, local])


def test_when_none_can_be_had_each_is_named_with_its_reason(server, cache, tmp_path):
    wanted = [DOWN, server.url("/y.pth"), str(tmp_path / "z.pth")]
    with pytest.raises(CheckpointError) as caught:
        fetch_first(wanted)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("none of the 3 sources of weights can be had; ")
    assert [line.split(": ")[0] for line in lines] == [f"- {source}" for source in wanted]
    for line, reason in zip(lines, ["refused", "404 Client Error", "there is no ch"], strict=True):
        assert reason in line


def test_one_hash_cannot_be_that_of_several_files_or_of_none(local, url):
    assert fetch_first([local], sha256=sha256(CONTENT))[0] == local
    for sources_, says in (
        ([local, url], "add #sha256=… to each URL"),
        ([], "no source of weights is given"),
    ):
        with pytest.raises(SourceError, match=says):
            fetch_first(sources_, sha256=sha256(CONTENT))


@pytest.fixture
def hub(server, tmp_path) -> Callable[..., None]:
    """Point the hub's library at the server, by the environment; more variables may be set."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with pytest.MonkeyPatch.context() as patch:

        def configure(**environment: str) -> None:
            for name, value in environment.items():
                patch.setenv(name, value)
            importlib.reload(constants)

        patch.delenv("HF_TOKEN", raising=False)
        configure(
            HF_ENDPOINT=server.url(""),
            HF_HOME=str(tmp_path / "hf"),
            HF_HUB_CACHE=str(tmp_path / "hf" / "hub"),
            HF_HUB_OFFLINE="0",
            HF_HUB_DISABLE_PROGRESS_BARS="1",
        )
        yield configure
    importlib.reload(constants)


def put(server, file: str, content: bytes = CONTENT, repo: str = "o/n", at: str = "main") -> None:
    server.files[f"/{repo}/resolve/{at}/{file}"] = content


@pytest.mark.parametrize(
    "files",
    [
        ["model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors"],
        ["pytorch_model.bin", "open_clip_model.safetensors"],
        ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"],
        ["open_clip_pytorch_model.bin"],
    ],
)
def test_the_first_file_that_the_repository_has(server, hub, files):
    for file in files:
        put(server, file, file.encode())
    path = fetch("hf://o/n")
    assert path.name == files[0]
    assert path.read_bytes() == files[0].encode()


@pytest.mark.parametrize(
    ("source", "at", "file"),
    [("@v1:a/b.pth", "v1", "a/b.pth"), ("@refs/pr/1", "refs%2Fpr%2F1", "model.safetensors")],
)
def test_a_revision_and_a_file(server, hub, source, at, file):
    put(server, file, at=at)
    path = fetch(f"hf://o/n{source}")
    assert path.as_posix().endswith(f"{COMMIT}/{file}")
    assert path.read_bytes() == CONTENT


def test_a_hash_of_a_file_on_the_hub(server, hub):
    put(server, "model.safetensors")
    assert fetch(f"hf://o/n#sha256={sha256(CONTENT)}").read_bytes() == CONTENT
    assert "Remove it to get it anew" in failure("hf://o/n#sha256=" + "0" * 64)


@pytest.mark.parametrize(
    "source",
    ["hf://n", "hf://", "hf://o/n/x", "hf://o/n@", "hf://o/n:", "hf://o/n@a@b", "hf://o/-n-"],
)
def test_what_is_no_name_of_the_hub(hub, server, source):
    assert "is no name of the hub" in failure(source, SourceError)
    assert server.requests == []


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("down", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:1"}])
@pytest.mark.usefixtures("naps")
def test_offline_from_a_filled_cache(server, hub, file, down):
    put(server, file)
    path = fetch("hf://o/n")
    server.requests.clear()
    hub(**down)
    assert fetch("hf://o/n") == path
    assert server.requests == []


def test_offline_without_a_cache(server, hub, tmp_path):
    hub(HF_HUB_OFFLINE="1")
    message = failure("hf://o/n")
    assert "HF_HUB_OFFLINE" in message
    assert str(tmp_path / "hf" / "hub") in message
    assert "`hf download o/n`" in message


@pytest.fixture
def naps(monkeypatch) -> list[float]:
    """The hub's library waits half a minute for a host that is down: here in no time."""
    from huggingface_hub.utils import _http

    naps = []
    monkeypatch.setattr(_http.time, "sleep", naps.append)
    return naps


def test_a_hub_that_is_down(server, hub, local, naps):
    hub(HF_ENDPOINT="http://127.0.0.1:1")
    message = failure("hf://o/n")
    assert 0 < sum(naps) < 30, "not waited for each of the files that the repository may have"
    assert "of o/n from http://127.0.0.1:1, and the cache" in message
    assert "refused" in message
    assert "set HF_ENDPOINT to a mirror" in message
    assert fetch_first(["hf://o/n", local])[0] == local


@pytest.mark.parametrize(
    ("status", "word", "advice"),
    [
        (403, "GatedRepo", "asks to accept a licence, do so on {}/o/n, then `hf auth login`"),
        (401, "RepoNotFound", "Repository Not Found"),
        (404, "RevisionNotFound", "Revision Not Found"),
    ],
)
def test_what_the_hub_refuses(server, hub, status, word, advice):
    server.errors["/o/n/"] = (status, word)
    message = failure("hf://o/n@v9")
    assert message.startswith(
        f"cannot get model.safetensors of o/n at revision v9 from {server.url('')}: "
    )
    assert advice.format(server.url("")) in message


def test_a_repository_without_weights(server, hub):
    message = failure("hf://o/n@v1")
    assert "o/n at revision v1 on the hub has no model.safetensors or pytorch_model.bin" in message
    assert "hf://o/n@v1:FILE" in message
    assert "has no x.bin;" in failure("hf://o/n:x.bin")


@pytest.mark.parametrize("installed", [True, False])
def test_a_model_of_timm(server, hub, monkeypatch, installed):
    if installed:
        pytest.importorskip("timm")
    else:
        monkeypatch.setitem(sys.modules, "timm", None)
    put(server, "pytorch_model.bin", repo="timm/convnext_tiny.fb_in22k")
    path = fetch("timm://convnext_tiny.fb_in22k")
    assert path.name == "pytorch_model.bin"
    put(server, "model.safetensors", repo="timm/convnext_tiny.fb_in22k")
    assert fetch("timm://convnext_tiny.fb_in22k").name == "model.safetensors"


def test_a_model_without_a_tag(server, hub, logged):
    timm = pytest.importorskip("timm")
    tag = timm.models.get_pretrained_cfg("convnext_tiny").tag
    put(server, "model.safetensors", repo=f"timm/convnext_tiny.{tag}")
    fetch("timm://convnext_tiny")
    said = f"timm://convnext_tiny: no tag given, taking timm's default, convnext_tiny.{tag}"
    assert said in logged


@pytest.mark.parametrize(
    ("name", "alike", "other"),
    [
        ("convnext_tiny.fb_in23k", "convnext_tiny.fb_in22k_ft_in1k, ", "convnextv2_tiny"),
        ("convnext_tinny", "convnext_tiny", None),
        ("convnextv2_small", "convnext_small", None),
    ],
)
def test_a_model_that_timm_does_not_have(server, hub, name, alike, other):
    """Of a model that it has the tags are the choice, and no other model."""
    timm = pytest.importorskip("timm")
    message = failure(f"timm://{name}")
    assert message.startswith(f"timm {timm.__version__} has no pretrained '{name}'; did you mean ")
    assert alike in message
    assert other is None or other not in message
    assert server.requests == []


def test_a_model_of_timm_that_is_not_on_the_hub(url, monkeypatch):
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm, "is_model_pretrained", lambda name: True)
    cfg = timm.models.PretrainedCfg(url=url)
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: cfg)
    assert fetch("timm://a.b").read_bytes() == CONTENT


@pytest.fixture
def vision(server, cache, monkeypatch) -> None:
    """Weights of torchvision's form, with a right and a wrong hash in their names."""
    right, wrong = f"/right-{sha256(CONTENT)[:8]}.pth", "/wrong-00000000.pth"
    server.files |= {right: CONTENT, wrong: CONTENT}
    known = {
        "tiny.default": server.url(right),
        "tiny.imagenet1k_v1": server.url(right),
        "tiny.wrong": server.url(wrong),
        "tiny.none": None,
    }
    monkeypatch.setattr(mmengine.runner.checkpoint, "get_torchvision_models", lambda: known)


@pytest.mark.usefixtures("vision")
@pytest.mark.parametrize("name", ["tiny", "tiny.imagenet1k_v1", "Tiny_Weights.IMAGENET1K_V1"])
@pytest.mark.parametrize("scheme", ["torchvision", "modelzoo"])
def test_weights_of_torchvision(scheme, name):
    assert fetch(f"{scheme}://{name}").read_bytes() == CONTENT


@pytest.mark.usefixtures("vision")
def test_the_hash_in_torchvisions_names_is_checked(cache):
    wrong = failure("torchvision://tiny.wrong")
    assert f"sha256 {sha256(CONTENT)}, not 00000000 as asked for" in wrong
    assert content_of(cache) == []


@pytest.mark.usefixtures("vision")
@pytest.mark.parametrize("name", ["tiny.imagenet1k_v2", "tiny.none", "tinny"])
def test_weights_that_torchvision_does_not_have(name):
    message = failure(f"torchvision://{name}")
    assert message.startswith(f"torchvision has no weights '{name}'; did you mean tiny.default, ")


def test_torchvisions_own_names_are_where_torch_keeps_them(cache):
    pytest.importorskip("torchvision")
    cache.mkdir(parents=True)
    (cache / "convnext_tiny-983f1562.pth").write_bytes(b"another file")
    message = failure("torchvision://ConvNeXt_Tiny_Weights.IMAGENET1K_V1", DownloadError)
    assert "convnext_tiny-983f1562.pth has the sha256 " in message
    assert ", not 983f1562 as asked for" in message


@pytest.fixture
def catalogue(url, server, monkeypatch) -> str:
    """A URL under a name in the catalogues of mmengine."""
    for function in ("get_external_models", "get_mmcls_models"):
        monkeypatch.setattr(mmengine.runner.checkpoint, function, lambda: {"x": url})
    return url


@pytest.mark.usefixtures("vision", "hub")
def test_mmengine_loads_all_sources(url, server):
    put(server, "pytorch_model.bin")
    put(server, "pytorch_model.bin", repo="timm/convnext_tiny.fb_in22k")
    with_hash = f"{url}#sha256={sha256(CONTENT)}"
    named = ["hf://o/n", "timm://convnext_tiny.fb_in22k", "torchvision://tiny", "modelzoo://tiny"]
    for source in (url, with_hash, *named):
        assert torch.equal(load(source)["w"], torch.arange(100))


@pytest.mark.usefixtures("catalogue")
def test_mmengines_own_names_still_load():
    assert torch.equal(load("open-mmlab://x")["w"], torch.arange(100))


@pytest.mark.parametrize("scheme", ["", "open-mmlab://", "openmmlab://", "mmcls://", "load_url"])
def test_no_way_into_mmengine_runs_code(server, catalogue, scheme):
    server.files["/x.pth"] = checkpoint({"model": torch.nn.Linear(1, 1)})
    # `load_url` is an older reference to mmengine's loader
    read = mmengine.runner.checkpoint.load_url if scheme == "load_url" else load
    with pytest.raises(UnsafeCheckpointError, match=r"x\.pth contains more .* torch\.nn\.modules"):
        read(f"{scheme}x" if scheme.endswith("//") else catalogue)


def test_mmengines_folder_for_models(url, tmp_path, cache):
    loader = mmengine.runner.checkpoint.load_from_http
    loader(url, map_location="cpu", model_dir=str(tmp_path / "own"))
    assert content_of(tmp_path / "own") == ["x.pth"]
    assert content_of(cache) == []


def test_importing_mmconvnext_has_installed_the_loaders():
    assert mmengine.runner.checkpoint.load_from_http is sources.load_from_source
    for name in ("http", "https", "timm", "hf", "torchvision", "modelzoo"):
        assert CheckpointLoader._schemes[f"{name}://"] is sources.load_from_source
