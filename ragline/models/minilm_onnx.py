"""How MiniLM's int8 ONNX file is made from the published weights, without PyTorch (design: models).

Imported only when the file is not built yet; running it needs none of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

Weights = Mapping[str, NDArray[np.float32]]

INPUT = "token_ids"
OUTPUT = "embedding"

_LAYERS = 6
_HEADS = 12
_DIMENSIONS = 384
_EPSILON = 1e-12
_OPSET = 18


def int8_model(weights: Weights, target: Path) -> None:
    """Write the quantised model to `target` (23 MB; about 2 s and 560 MB of memory).

    Dynamic quantisation, one scale a channel of each weight: one for the whole matrix costs
    8 % of the cosine to the original, this under 1 %.
    """
    model = float_model(weights)
    # The quantiser otherwise advises on the root logger to clean up a graph that is written clean.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul", "Gather"],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


def float_model(weights: Weights) -> onnx.ModelProto:
    """The fp32 model: `token_ids` (1, tokens) int64 -> `embedding` (1, 384), of length 1.

    One text at a time, so that there is no padding and no attention mask.
    """
    graph = _Graph(weights)
    hidden = _embeddings(graph)
    for layer in range(_LAYERS):
        hidden = _layer(graph, hidden, f"encoder.layer.{layer}.")
    mean = graph.node("ReduceMean", hidden, graph.integers("token_axis", [1]), keepdims=0)
    graph.node("LpNormalization", mean, axis=-1, p=2, output=OUTPUT)
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "all-MiniLM-L6-v2",
            [helper.make_tensor_value_info(INPUT, TensorProto.INT64, [1, "tokens"])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, _DIMENSIONS])],
            list(graph.constants.values()),
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=helper.find_min_ir_version_for([helper.make_opsetid("", _OPSET)]),
    )


class _Graph:
    """Collects nodes and constants; every method returns the name of the tensor that it adds."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def integers(self, name: str, values: list[int]) -> str:
        return self.constant(name, np.array(values, dtype=np.int64))

    def scalar(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, dtype=np.float32))

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def linear(self, value: str, name: str) -> str:
        matrix = self.constant(f"{name}.weight", self.weights[f"{name}.weight"].T)
        return self.node("Add", self.node("MatMul", value, matrix), self.weight(f"{name}.bias"))

    def layer_norm(self, value: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", value, scale, bias, axis=-1, epsilon=_EPSILON)


def _embeddings(graph: _Graph) -> str:
    """Word, position and token type embeddings, summed and normalised: (1, tokens, 384)."""
    words = graph.node("Gather", graph.weight("embeddings.word_embeddings.weight"), INPUT)
    # Every text is the first of its pair, so the one token type is added to the positions here.
    positions = graph.constant(
        "positions",
        graph.weights["embeddings.position_embeddings.weight"]
        + graph.weights["embeddings.token_type_embeddings.weight"][0],
    )
    start, length = graph.integers("start", [0]), graph.node("Shape", INPUT, start=1, end=2)
    used = graph.node("Slice", positions, start, length)
    return graph.layer_norm(graph.node("Add", words, used), "embeddings.LayerNorm")


def _layer(graph: _Graph, hidden: str, prefix: str) -> str:
    """One encoder layer: attention and feed-forward, each added to its input and normalised."""
    attended = graph.linear(_attention(graph, hidden, f"{prefix}attention.self."), f"{prefix}attention.output.dense")
    hidden = graph.layer_norm(graph.node("Add", attended, hidden), f"{prefix}attention.output.LayerNorm")
    inner = _gelu(graph, graph.linear(hidden, f"{prefix}intermediate.dense"))
    outer = graph.linear(inner, f"{prefix}output.dense")
    return graph.layer_norm(graph.node("Add", outer, hidden), f"{prefix}output.LayerNorm")


def _attention(graph: _Graph, hidden: str, prefix: str) -> str:
    """Multi-head self-attention over the whole text, before its output projection."""
    split = graph.integers("split_heads", [0, 0, _HEADS, _DIMENSIONS // _HEADS])

    def heads(name: str, order: list[int]) -> str:
        projected = graph.linear(hidden, f"{prefix}{name}")
        return graph.node("Transpose", graph.node("Reshape", projected, split), perm=order)

    query, key, value = heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]), heads("value", [0, 2, 1, 3])
    scale = graph.scalar("attention_scale", (_DIMENSIONS // _HEADS) ** -0.5)
    scores = graph.node("Mul", graph.node("MatMul", query, key), scale)
    context = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)
    joined = graph.node("Transpose", context, perm=[0, 2, 1, 3])
    return graph.node("Reshape", joined, graph.integers("join_heads", [0, 0, _DIMENSIONS]))


def _gelu(graph: _Graph, value: str) -> str:
    """Exact GELU in the very order of operations that onnxruntime recognises and fuses."""
    erf = graph.node("Erf", graph.node("Div", value, graph.scalar("sqrt_2", 2**0.5)))
    gated = graph.node("Mul", value, graph.node("Add", erf, graph.scalar("one", 1.0)))
    return graph.node("Mul", gated, graph.scalar("half", 0.5))
