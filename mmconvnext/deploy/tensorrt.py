"""ONNX files for TensorRT: of one size, of documented operators, and engines made of them.

TensorRT has not been run by this package's developers: what is checked here is what its parser's
documentation says. Of a plugin for non-maximum suppression there is no choice: TensorRT's own,
``EfficientNMS_TRT``, is deprecated for the standard operator (NVIDIA/TensorRT, plugin/README.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmconvnext.deploy.resize import Resized
from mmconvnext.errors import CheckpointError, ConfigError

SOURCE = "ONNX-TensorRT, docs/operators.md, for TensorRT 10.15"
OPSETS = range(9, 25)
MOST_OF_TOP_K = 3840  # K is less
BATCHES = (1, 1, 8)  # least, best and most pictures of a batch of an engine
# Of the standard domain, without those that are listed as not supported.
_LISTED = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
BatchNormalization BlackmanWindow Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape
Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace DequantizeLinear Div Dropout Einsum
Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm
GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
GroupNormalization GRU HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If
ImageScaler InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log
LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool Mean
MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad
ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform
RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence
RMSNormalization RNN RoiAlign RotaryEmbedding Round STFT ScaledTanh Scan Scatter
ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh TensorScatter ThresholdedRelu Tile
TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
OPERATORS = frozenset(_LISTED.split())


def fix_size(graph: nn.Module, size: tuple[int, int]) -> None:
    """Let a graph take pictures of one height and width, so that none of its sizes is data."""
    divisor = graph.detector.data_preprocessor.pad_size_divisor or 1
    pictures = torch.zeros(1, *size, 3, dtype=torch.uint8)
    padded = Resized(pictures, graph.resize, divisor).pictures.shape[2:]
    graph.size, graph.resize = size, {**graph.resize, "padded": tuple(padded)}


def check_operators(path: Path) -> None:
    """Raise ConfigError where an ONNX file has what TensorRT's parser is not documented to take."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    constants = {each.name: each for each in model.graph.initializer}
    faults = {
        f"opset {each.version}"
        for each in model.opset_import
        if not each.domain and each.version not in OPSETS
    }
    for node in [*_nodes(model.graph), *(node for each in model.functions for node in each.node)]:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            faults.add(f"{node.domain}::{node.op_type}".removeprefix("::"))
        elif node.op_type == "TopK":
            count = constants.get(node.input[1])
            if count is None:
                faults.add("TopK with a K that is no constant")
            elif (k := int(onnx.numpy_helper.to_array(count).item())) >= MOST_OF_TOP_K:
                faults.add(f"TopK with K={k} (less than {MOST_OF_TOP_K} is taken: nms_pre)")
    if faults:
        raise ConfigError(
            f"{path} has operators that TensorRT is not documented to take: "
            f"{', '.join(sorted(faults))} ({SOURCE})"
        )


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def command(path: Path, size: tuple[int, int], fp16: bool) -> str:
    """What builds an engine of an ONNX file where TensorRT is installed."""
    shapes = (f"pictures:{count}x{size[0]}x{size[1]}x3" for count in BATCHES)
    given = zip(("min", "opt", "max"), shapes, strict=True)
    options = " ".join(f"--{name}Shapes={shape}" for name, shape in given)
    engine = path.with_suffix(".engine")
    return f"trtexec --onnx={path} --saveEngine={engine} {options}{' --fp16' * fp16}"


def build_engine(path: Path, size: tuple[int, int], fp16: bool) -> Path:
    """Build an engine of an ONNX file, by TensorRT 10, on a machine with its GPU.

    Raises:
        ImportError: TensorRT is not installed.
        CheckpointError: there is no GPU, or TensorRT does not take the file.
    """
    import tensorrt

    if not torch.cuda.is_available():
        raise CheckpointError("there is no GPU")
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise CheckpointError(f"TensorRT does not take {path}: {errors}")
    config = builder.create_builder_config()
    if fp16:
        config.set_flag(tensorrt.BuilderFlag.FP16)
    profile = builder.create_optimization_profile()
    profile.set_shape("pictures", *((count, *size, 3) for count in BATCHES))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise CheckpointError(f"TensorRT built no engine of {path}")
    written = path.with_suffix(".engine")
    written.write_bytes(engine)
    return written
