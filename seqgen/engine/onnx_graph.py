"""One step of a trained model as an ONNX graph: (ids, state) -> (logits, state). Needs the extra `export`.

The graph is built from the weights, node by node, and so needs no tracing. Every model has the same two inputs and two
outputs: `ids` (B,) int64, the next token of every row, and `state`, one float32 tensor that begins as zeros; `logits`
(B, V) are those of the token after. Of a recurrent model the state is every layer's h (and c), side by side; of a
Transformer the keys and values of the tokens read, a position more after each step; of a hidden Markov model the
distribution of the hidden state.
Shapes: B rows, V vocabulary, H hidden, D features, K features of a head, N heads, L layers, S positions read before.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from seqgen.core.errors import MissingExtraError, RunError
from seqgen.models import gpt, hmm, lm, seqgan
from seqgen.models.gpt import rotation
from seqgen.nn.minimal import Minimal
from seqgen.nn.rnn import Rnn

_OPSET, _IR = 18, 8
"""Of ONNX 1.13, from 2022: old enough for every runtime in use, new enough for layer normalisation as one node."""

StateShape = tuple[int | str, ...]
"""Sizes of the state before the first token; "batch" is the number of rows."""


def _installed(name: str) -> Any:
    """Return one of the extra's two packages; MissingExtraError has the install line."""
    try:
        if name == "onnx":
            import onnx

            return onnx
        import onnxruntime
    except ImportError:
        raise MissingExtraError(
            f"the export to ONNX needs the package {name}; run: pip install 'neural-seqgen[export]'"
        ) from None
    return onnxruntime


@dataclass(frozen=True)
class StepGraph:
    """A serialised graph and where its state begins."""

    content: bytes
    state: StateShape
    context: int
    """Tokens that it reads at most; 0: any number."""


def step_graph(model: object, name: str) -> StepGraph:
    """Return one step of a model as a graph; RunError for a model without such a form, `name` in its words."""
    _installed("onnx")
    if isinstance(model, lm.Model):
        return _recurrent(model)
    if isinstance(model, seqgan.Model):
        return _recurrent(model.policy)
    if isinstance(model, gpt.Model):
        return _transformer(model)
    if isinstance(model, hmm.Model):
        return _hidden_markov(model)
    raise RunError(
        f"a run of {name} has no form as an ONNX graph; runs of lm, gpt, seqgan and hmm have one, and "
        "--format safetensors takes every run"
    )


def session(content: bytes) -> Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
    """Return a function (ids, state) -> [logits, state] that onnxruntime computes on one CPU thread."""
    runtime = _installed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    opened = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def step(ids: np.ndarray[Any, Any], state: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        found: list[np.ndarray[Any, Any]] = opened.run(None, {"ids": ids, "state": state})
        return found

    return step


class _Graph:
    """Nodes and weights in the order in which they are added. Calling it adds a node and names what comes out."""

    def __init__(self) -> None:
        self._onnx = _installed("onnx")
        self._nodes: list[Any] = []
        self._weights: dict[str, Any] = {}

    def weight(self, name: str, value: Tensor | Any) -> str:
        """Add a tensor, float32 or int64, under a name; the same name again is the same tensor."""
        if name not in self._weights:
            array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
            kind = np.int64 if array.dtype.kind == "i" else np.float32
            self._weights[name] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(array, kind), name)
        return name

    def number(self, value: float) -> str:
        """Add a float32 number."""
        return self.weight(f"number {value!r}", np.float32(value))

    def numbers(self, *values: int) -> str:
        """Add a list of int64, such as a shape."""
        return self.weight(f"numbers {values}", np.array(values, np.int64))

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one result."""
        return self.several(op, *inputs, count=1, **attributes)[0]

    def several(self, op: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        """Add a node of `count` results."""
        names = [f"{op} {len(self._nodes)}" + (f".{i}" if count > 1 else "") for i in range(count)]
        self._nodes.append(self._onnx.helper.make_node(op, list(inputs), names, **attributes))
        return names

    def split(self, x: str, count: int, axis: int = 1) -> list[str]:
        """Cut a tensor into equal parts."""
        return [x] if count == 1 else self.several("Split", x, count=count, axis=axis, num_outputs=count)

    def linear(self, x: str, name: str, weight_oi: Tensor, bias: Tensor | None = None) -> str:
        """Add x (B, I) @ weight.T + bias."""
        given = [] if bias is None else [self.weight(f"{name}.bias", bias)]
        return self("Gemm", x, self.weight(name, weight_oi), *given, transB=1)

    def finished(self, logits: str, state: str, shape: StateShape, context: int, after: StateShape) -> StepGraph:
        """Return the graph with its inputs and outputs named."""
        helper, kinds = self._onnx.helper, self._onnx.TensorProto
        self._nodes.append(helper.make_node("Identity", [logits], ["logits"]))
        self._nodes.append(helper.make_node("Identity", [state], ["next_state"]))
        graph = helper.make_graph(
            self._nodes,
            "step",
            [
                helper.make_tensor_value_info("ids", kinds.INT64, ["batch"]),
                helper.make_tensor_value_info("state", kinds.FLOAT, ["read" if n == 0 else n for n in shape]),
            ],
            [
                helper.make_tensor_value_info("logits", kinds.FLOAT, ["batch", "vocabulary"]),
                helper.make_tensor_value_info("next_state", kinds.FLOAT, list(after)),
            ],
            list(self._weights.values()),
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
        self._onnx.checker.check_model(made)
        return StepGraph(made.SerializeToString(), shape, context)


# ------------------------------------------------------------------------------------------------------- recurrent


def _recurrent(model: lm.Model) -> StepGraph:
    add = _Graph()
    rnn = model.rnn
    each = 2 if rnn.cell == "lstm" else 1
    widths = [width for width in rnn.widths for _ in range(each)]
    before = ["state"]
    if len(widths) > 1:
        before = add.several("Split", "state", add.numbers(*widths), count=len(widths), axis=1)
    x = add("Gather", add.weight("embedding", model.embedding.weight), "ids")
    after: list[str] = []
    for number, layer in enumerate(rnn.layers):
        given = before[number * each : (number + 1) * each]
        after += _cell(add, rnn, layer, f"layer {number}", x, given)
        x = after[-each]
    if model.projection is not None:
        x = add.linear(x, "projection", model.projection.weight)
    weight, bias = model.head()
    logits = add.linear(x, "embedding" if model.output_weight is None else "output", weight, bias)
    state = after[0] if len(after) == 1 else add("Concat", *after, axis=1)
    shape: StateShape = ("batch", sum(widths))
    return add.finished(logits, state, shape, 0, shape)


def _cell(add: _Graph, rnn: Rnn, layer: Any, name: str, x: str, before: list[str]) -> list[str]:
    """Add one position of a layer; returns its state after, h first."""
    if isinstance(layer, Minimal):
        return [_minimal(add, layer, name, x, before[0])]
    h = before[0]
    from_x = add.linear(x, f"{name} input", layer.weight_ih_l0, layer.bias_ih_l0)
    from_h = add.linear(h, f"{name} state", layer.weight_hh_l0, layer.bias_hh_l0)
    if rnn.cell == "lstm":
        i, f, g, o = add.split(add("Add", from_x, from_h), 4)
        kept = add("Mul", add("Sigmoid", f), before[1])
        c = add("Add", kept, add("Mul", add("Sigmoid", i), add("Tanh", g)))
        return [add("Mul", add("Sigmoid", o), add("Tanh", c)), c]
    (r_x, u_x, n_x), (r_h, u_h, n_h) = add.split(from_x, 3), add.split(from_h, 3)
    r, u = add("Sigmoid", add("Add", r_x, r_h)), add("Sigmoid", add("Add", u_x, u_h))
    n = add("Tanh", add("Add", n_x, add("Mul", r, n_h)))
    return [add("Add", n, add("Mul", u, add("Sub", h, n)))]


def _minimal(add: _Graph, layer: Minimal, name: str, x: str, h: str) -> str:
    """Add one position of minGRU or minLSTM: h = (1 - z) h + z g(candidate)."""
    products = add.linear(x, name, layer.weight, layer.bias)
    *gates, candidate = add.split(products, 2 if layer.cell == "mingru" else 3)
    new = add("Sigmoid", gates[-1])
    if layer.cell == "minlstm":
        total = add("Add", add("Sigmoid", gates[0]), new)
        new = add("Div", new, add("Max", total, add.number(float(np.finfo(np.float32).tiny))))
    positive = add(
        "Where",
        add("GreaterOrEqual", candidate, add.number(0.0)),
        add("Add", candidate, add.number(0.5)),
        add("Sigmoid", candidate),
    )
    kept = add("Mul", add("Sub", add.number(1.0), new), h)
    return add("Add", kept, add("Mul", new, positive))


# ------------------------------------------------------------------------------------------------------ Transformer


def _transformer(model: gpt.Model) -> StepGraph:
    """Build a Transformer with a cache: the state is (2 L, B, N, S, K), the keys and then the values of each layer."""
    add, config = _Graph(), model.config
    size = config.hidden // config.heads
    at = add("Slice", add("Shape", "state"), add.numbers(3), add.numbers(4))  # S, the position of this token
    past = add.split("state", 2 * config.layers, axis=0)
    x = add("Gather", add.weight("embedding", model.embedding.weight), "ids")
    if model.positions is not None:
        x = add("Add", x, add("Gather", add.weight("positions", model.positions.weight), at))
    turn: list[str] = []
    if model.positions is None:
        tables = zip(("cosine", "sine"), rotation(model.context, size, model.embedding.weight.device), strict=True)
        turn = [add("Gather", add.weight(name, table), at) for name, table in tables]

    def norm(x: str, layer: Any, name: str) -> str:
        gain = add.weight(name, layer.weight)
        if config.norm == "layer":
            bias = [] if layer.bias is None else [add.weight(f"{name}.bias", layer.bias)]
            return add("LayerNormalization", x, gain, *bias, axis=-1, epsilon=1e-5)
        square = add("ReduceMean", add("Mul", x, x), add.numbers(-1), keepdims=1)
        return add("Mul", add("Div", x, add("Sqrt", add("Add", square, add.number(1e-5)))), gain)

    def turned(x: str) -> str:
        a, b = add.split(x, 2, axis=4)
        cosine, sine = turn
        first = add("Sub", add("Mul", a, cosine), add("Mul", b, sine))
        return add("Concat", first, add("Add", add("Mul", b, cosine), add("Mul", a, sine)), axis=4)

    caches: list[str] = []
    for n, block in enumerate(model.blocks):
        layers: Any = block
        product = add.linear(norm(x, layers.norm_1, f"norm {n}.1"), f"qkv {n}", layers.qkv.weight, layers.qkv.bias)
        heads = [add("Reshape", part, add.numbers(1, -1, config.heads, 1, size)) for part in add.split(product, 3)]
        q, k, v = [turned(x) for x in heads[:2]] + heads[2:] if turn else heads
        keys, values = (add("Concat", past[2 * n + i], fresh, axis=3) for i, fresh in enumerate((k, v)))
        caches += [keys, values]
        scores = add("MatMul", q, add("Transpose", keys, perm=[0, 1, 2, 4, 3]))
        weights = add("Softmax", add("Mul", scores, add.number(1 / math.sqrt(size))), axis=-1)
        mixed = add("Reshape", add("MatMul", weights, values), add.numbers(-1, config.hidden))
        x = add("Add", x, add.linear(mixed, f"out {n}", layers.out.weight, layers.out.bias))
        up = add.linear(norm(x, layers.norm_2, f"norm {n}.2"), f"up {n}", layers.up.weight, layers.up.bias)
        x = add("Add", x, add.linear(_activated(add, up, config), f"down {n}", layers.down.weight, layers.down.bias))
    weight, _ = model.head()
    features = norm(x, model.norm, "norm")
    logits = add.linear(features, "embedding" if model.output_weight is None else "output", weight)
    shape: StateShape = (2 * config.layers, "batch", config.heads, 0, size)
    after: StateShape = (2 * config.layers, "batch", config.heads, "read and one", size)
    return add.finished(logits, add("Concat", *caches, axis=0), shape, model.context, after)


def _activated(add: _Graph, up: str, config: gpt.Config) -> str:
    if config.activation == "swiglu":
        gate, value = add.split(up, 2)
        return add("Mul", add("Mul", gate, add("Sigmoid", gate)), value)
    cube = add("Mul", add.number(0.044715), add("Mul", up, add("Mul", up, up)))
    inner = add("Tanh", add("Mul", add.number(math.sqrt(2 / math.pi)), add("Add", up, cube)))
    return add("Mul", add("Mul", add.number(0.5), up), add("Add", add.number(1.0), inner))


# ----------------------------------------------------------------------------------------------------- hidden Markov


def _hidden_markov(model: hmm.Model) -> StepGraph:
    add = _Graph()
    emission = add.weight("emission", model.emission)
    joint = add("Mul", "state", add("Gather", emission, "ids"))
    total = add("ReduceSum", joint, add.numbers(1), keepdims=1)
    after = add(
        "MatMul", add("Div", joint, add("Max", total, add.number(1e-30))), add.weight("moves", model.transition)
    )
    begins = add("Unsqueeze", add("Equal", "ids", add.numbers(model.config.start)), add.numbers(1))
    after = add("Where", begins, add.weight("initial", model.initial), after)
    logits = add("Log", add("Gemm", after, emission, transB=1))
    shape: StateShape = ("batch", model.config.states)
    return add.finished(logits, after, shape, 0, shape)
