"""What `import mmconvnext` brings, in fresh processes: little at once, all of it when needed."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmconvnext import REGISTERED_WITH

HEAVY = {"torch", "numpy", "mmengine", "mmcv", "mmdet", "mmpretrain"}
OPTIONAL = {"torchvision", "timm", "transformers", "hotcoco"}
PEERS = Path(sys.prefix) / "peers"

PACKAGES = (
    "\nimport json, sys; print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules})))"
)

# Runs snippets, each in a process of its own that has nothing of OpenMMLab but, to save time,
# torch and other libraries that nothing waits for; prints those that fail, with the tracebacks.
FORKS = """
import json, os, sys, traceback
import cv2, matplotlib.pyplot, pycocotools.mask, rich.progress, scipy.stats, shapely.geometry
import sklearn.gaussian_process, sklearn.mixture
import sympy, terminaltables, torch.distributed.optim, torch.fx.experimental.symbolic_shapes, yapf

assert not {"mmengine", "mmcv", "mmdet"} & set(sys.modules)
for code in json.load(sys.stdin):
    child = os.fork()
    if child:
        if os.waitpid(child, 0)[1]:
            print(json.dumps([code, "killed"]))
        continue
    try:
        exec(code, {"__name__": "__main__"})
    except BaseException:
        print(json.dumps([code, traceback.format_exc()]))
    sys.stdout.flush()
    os._exit(0)
"""
# Everything is where a user looks for it.
CHECK = """
import mmdet.registry, mmengine.registry
import mmengine.runner.checkpoint as io

assert mmdet.registry.MODELS.get("ConvNeXt").__module__ == "mmconvnext.models.convnext"
assert mmdet.registry.MODELS.get("mmdet.ConvNeXt") is mmdet.registry.MODELS.get("ConvNeXt")
assert mmdet.registry.MODELS.get("InstanceTTAModel").__module__ == "mmconvnext.models.tta"
metric = mmdet.registry.METRICS.get("FastCocoMetric")
assert metric.__module__ == "mmconvnext.evaluation.coco_metric"
for registries in (mmdet.registry, mmengine.registry):
    found = registries.OPTIM_WRAPPER_CONSTRUCTORS.get("LayerDecayOptimWrapperConstructor")
    assert found.__module__ == "mmconvnext.optim.layer_decay"
for name in ("FastLoadAnnotations", "FastPackDetInputs"):
    assert mmdet.registry.TRANSFORMS.get(name).__module__ == "mmconvnext.data.transforms"
schemes = io.CheckpointLoader._schemes
assert schemes[""].__module__ == "mmconvnext.compat.checkpoint_io"
for scheme in ("http://", "https://", "timm://", "hf://", "torchvision://"):
    assert schemes[scheme].__module__ == "mmconvnext.weights.sources"
assert io.load_from_http.__module__ == io.load_url.__module__ == "mmconvnext.weights.sources"
import mmcv.ops
import mmconvnext
assert mmconvnext.ConvNeXt is mmdet.registry.MODELS.get("ConvNeXt") is mmconvnext.models.ConvNeXt
assert mmconvnext.weights.load_pretrained and mmconvnext.optim and mmconvnext.evaluation
assert not hasattr(mmconvnext, "NoSuchName")
from mmconvnext import *
assert ConvNeXt and FastCocoMetric and InstanceTTAModel and LayerDecayOptimWrapperConstructor
"""
# mmdet.models can be imported before mmconvnext where mmcv is compiled, or, as here, is said to be.
COMPILED = """
import importlib.util, sys, types

class Anything(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None

if importlib.util.find_spec("mmcv._ext") is None:
    sys.modules["mmcv._ext"] = Anything("mmcv._ext")
    sys.modules["mmcv._ext"].__spec__ = importlib.util.spec_from_loader("mmcv._ext", None)
"""

ORDERS = [
    f"{order}\n{CHECK}"
    for order in (
        "import mmconvnext",
        "import mmdet; import mmconvnext",
        "import mmdet.registry; import mmconvnext",
        "import mmengine.runner; import mmconvnext",
        "import mmengine.optim; import mmconvnext",
        "import mmconvnext, mmcv.ops",
        "import mmconvnext, mmdet.apis",
        "import mmconvnext, mmengine.model",
        "import mmconvnext, mmengine.runner",
        "import mmconvnext, mmdet.datasets",
        "import mmconvnext, mmdet.evaluation",
        "import mmconvnext, mmdet.models; import importlib; importlib.reload(mmconvnext)",
        "import mmconvnext; from mmdet.utils import register_all_modules; register_all_modules()",
        # registries that have looked for it in vain before
        COMPILED + "import mmdet.apis\nfrom mmdet.registry import MODELS\n"
        "assert MODELS.get('ConvNeXt') is None\nimport mmconvnext",
        "from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as constructors\n"
        "assert constructors.get('LayerDecayOptimWrapperConstructor') is None\n"
        "import mmconvnext",
    )
]
WAYS = [
    "import mmconvnext; cfg = dict(type='ConvNeXt', arch='atto'); scoped = 'mmdet.ConvNeXt'\n"
    f"{way}\nassert type(built) is mmconvnext.ConvNeXt"
    for way in (
        "from mmdet.registry import MODELS; built = MODELS.build(cfg)",
        "from mmdet.registry import MODELS; built = MODELS.build({**cfg, 'type': scoped})",
        "from mmengine.registry import MODELS, init_default_scope; init_default_scope('mmdet'); "
        "built = MODELS.build(cfg)",
        "from mmengine.registry import MODELS; built = MODELS.build({**cfg, 'type': scoped})",
        "from mmengine.registry import MODELS; built = MODELS.build({**cfg, '_scope_': 'mmdet'})",
        "built = mmconvnext.ConvNeXt(arch='atto')",
        "from mmconvnext import ConvNeXt; from mmengine.registry import MODELS; "
        "built = MODELS.build({**cfg, 'type': ConvNeXt})",
    )
]
MODULES = [
    *(name for names in REGISTERED_WITH.values() for name in names),
    *("compat.checkpoint_io", "weights.sources", "weights.load", "models.block", "engine.runner"),
]
FIRST = [
    f"import mmconvnext.{name}\n"
    "from mmdet.registry import MODELS; assert MODELS.get('InstanceTTAModel')"
    for name in MODULES
]


@pytest.fixture(scope="module")
def failures(run_python) -> Callable[[list[str]], list[str]]:
    """Of snippets of code, which ran in a fresh process each, those that failed, and why."""
    printed = run_python(FORKS, stdin=json.dumps([*ORDERS, *WAYS, *FIRST]))
    found = [json.loads(line) for line in printed.splitlines()]
    return lambda snippets: [f"{code}\n{why}" for code, why in found if code in snippets]


def packages(output: str) -> set[str]:
    return set(json.loads(output.splitlines()[-1]))


def test_the_import_itself_takes_the_standard_library_alone(run_python):
    found = packages(run_python("import mmconvnext" + PACKAGES))
    assert "mmconvnext" in found
    assert not found & (HEAVY | OPTIONAL)


def test_everything_is_there_whoever_comes_first(failures):
    assert failures(ORDERS) == []


def test_a_backbone_is_built_directly_after_the_import(failures):
    assert failures(WAYS) == []


def test_a_module_may_be_the_first_to_be_imported(failures):
    """What the hooks import also imports what the hooks wait for."""
    assert failures(FIRST) == []


def test_a_config_that_imports_it_is_all_that_a_script_needs(run_python, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("""
custom_imports = dict(imports=["mmconvnext"], allow_failed_imports=False)
model = dict(type="mmdet.ConvNeXt", arch="atto")
optim_wrapper = dict(
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=0.5),
    optimizer=dict(type="AdamW", lr=1.0),
)
""")
    code = """
import sys
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
cfg = Config.fromfile(sys.argv[1])
model = MODELS.build(cfg.model)
wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
assert len({group["lr"] for group in wrapper.param_groups}) == model.num_layers + 2
"""
    found = packages(run_python(code + PACKAGES, config))
    assert {"torch", "mmdet"} <= found
    assert not found & {*OPTIONAL, "mmpretrain"}


@pytest.mark.slow
def test_mmpretrains_backbone_of_the_same_name_is_another(run_python):
    if not (PEERS / "mmpretrain").is_dir():
        pytest.skip("mmpretrain is not installed beside the environment")
    code = """
import mmconvnext
from mmdet.registry import MODELS
theirs = MODELS.get("mmpretrain.ConvNeXt")
assert theirs.__module__ == "mmpretrain.models.backbones.convnext", theirs
assert MODELS.get("ConvNeXt") is mmconvnext.ConvNeXt is not theirs
from mmpretrain.registry import MODELS as models_of_mmpretrain
assert models_of_mmpretrain.get("ConvNeXt") is theirs
assert models_of_mmpretrain.get("mmdet.ConvNeXt") is mmconvnext.ConvNeXt
"""
    run_python(code, python_path=PEERS / "mmpretrain")
