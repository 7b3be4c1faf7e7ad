"""Models that are quantized layer by layer: a small network in NumPy, and in PyTorch where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import int4q
from int4q import GramMatrix, Layer, QuantizedTensor, Recorder, Scheme

Weights = dict[str, np.ndarray]
SIZES = {"query": (48, 64), "key": (48, 64), "out": (64, 48), "up": (96, 64), "down": (64, 96)}


@pytest.fixture
def weights(generator: np.random.Generator) -> Weights:
    return {name: (generator.standard_normal(size) / np.sqrt(size[1])).astype(np.float32) for name, size in SIZES.items()}


@pytest.fixture
def batches(generator: np.random.Generator) -> list[np.ndarray]:
    """Of different lengths, with channels that go together."""
    mixed = generator.standard_normal((64, 64)).astype(np.float32)
    return [generator.standard_normal((length, 64), np.float32) @ mixed for length in (150, 1, 77)]


def forward(linear: Callable[..., np.ndarray], x: np.ndarray) -> np.ndarray:
    """Two layers with one input, a product of both, and a residual block."""
    x = x + linear("out", np.tanh(linear("query", x)) * linear("key", x))
    return x + linear("down", np.maximum(linear("up", x), 0))


def run(weights: Weights, x: np.ndarray) -> np.ndarray:
    return forward(lambda name, values: values @ weights[name].T, x)


def by_hand(weights: Weights, batches: list[np.ndarray], quantize: Callable[[np.ndarray, GramMatrix], QuantizedTensor]) -> Weights:
    """What quantize_model says that it does, written out for `forward`."""
    held: Weights = {}

    def take(name: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
        gram = GramMatrix(inputs[0].shape[1])
        for x in inputs:
            gram.push(x)
        held[name] = quantize(weights[name], gram).dequantize()
        return [x @ held[name].T for x in inputs]

    queries, keys = take("query", batches), take("key", batches)
    outs = take("out", [np.tanh(q) * k for q, k in zip(queries, keys)])
    middle = [x + y for x, y in zip(batches, outs)]
    ups = take("up", middle)
    take("down", [np.maximum(up, 0) for up in ups])
    return held


def gram_of(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64).T @ x.astype(np.float64)


SCHEME = Scheme.symmetric(16)


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_inputs_come_through_quantized_layers(weights: Weights, batches: list[np.ndarray], at_once: int) -> None:
    order = int4q.GptqOrder.WITHIN_GROUPS
    expected = by_hand(weights, batches, lambda values, gram: int4q.gptq(values, gram, SCHEME, order=order)[0])
    done: list[str] = []
    found = int4q.quantize_model(
        forward, batches, weights, SCHEME, at_once=at_once, progress=lambda layer: done.append(layer.name)
    )
    assert done == list(found) == ["query", "key", "out", "up", "down"]
    for name, layer in found.items():
        np.testing.assert_array_equal(layer.dequantize(), expected[name])
        assert layer.rows == 228 and layer.input_scales is None and layer.bias is None


def test_losses_are_those_of_the_inputs_that_a_layer_has_got(weights: Weights, batches: list[np.ndarray]) -> None:
    found = int4q.quantize_model(forward, batches, weights, SCHEME, "gptq+descent")
    inputs: dict[str, list[np.ndarray]] = {name: [] for name in weights}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        inputs[name].append(x)
        return x @ found[name].dequantize().T

    for batch in batches:
        forward(linear, batch)
    for name, layer in found.items():
        x = np.concatenate(inputs[name]).astype(np.float64)
        for tensor, loss in ((layer.tensor, layer.loss), (int4q.quantize(weights[name], SCHEME), layer.nearest_loss)):
            error = x @ (weights[name] - tensor.dequantize().astype(np.float64)).T
            np.testing.assert_allclose(loss, (error**2).sum() / len(x), rtol=1e-4)
        assert layer.loss < 0.9 * layer.nearest_loss


@pytest.mark.parametrize("method", ["nearest", "clip", "awq", "gptq", "awq+gptq", "gptq+descent", "clip+gptq+descent", "descent"])
def test_methods_leave_outputs_closer(weights: Weights, batches: list[np.ndarray], method: str) -> None:
    """Closer, layer by layer, than rounding to nearest; and the result multiplies as it says."""
    batches = [x * np.where(np.arange(64) % 9 == 0, np.float32(20), np.float32(1)) for x in batches]
    found = int4q.quantize_model(forward, batches, weights, SCHEME, method)
    shares = [layer.loss / layer.nearest_loss for layer in found.values()]
    assert np.mean(shares) == pytest.approx(1) if method == "nearest" else np.mean(shares) < 0.97
    first = found["query"]
    assert (first.input_scales is not None) == method.startswith("awq")
    x = batches[0].astype(np.float64)
    scaled = x if first.input_scales is None else x / first.input_scales
    product = scaled @ first.tensor.dequantize().astype(np.float64).T
    np.testing.assert_allclose(product, x @ first.dequantize().astype(np.float64).T, rtol=1e-4, atol=1e-3)
    x = np.concatenate(batches).astype(np.float64)
    loss = ((x @ (weights["query"] - first.dequantize()).astype(np.float64).T) ** 2).sum() / len(x)
    np.testing.assert_allclose(first.loss, loss, rtol=1e-3)


def test_hqq_needs_no_inputs(weights: Weights, batches: list[np.ndarray]) -> None:
    found = int4q.quantize_model(forward, batches, weights, Scheme.offset(64), "hqq", measure=False)
    np.testing.assert_array_equal(found["up"].dequantize(), int4q.hqq(weights["up"]).dequantize())
    assert np.isnan(found["up"].loss) and np.isnan(found["up"].nearest_loss)


def test_own_methods_share_gram_matrices(weights: Weights, batches: list[np.ndarray]) -> None:
    seen: dict[str, Layer] = {}

    def method(layer: Layer) -> QuantizedTensor:
        seen[layer.name] = layer
        return int4q.quantize(layer.weights, layer.scheme)

    int4q.quantize_model(forward, batches, weights, SCHEME, method)
    assert seen["query"].gram is seen["key"].gram and seen["key"].gram is not seen["up"].gram
    for x, batch in zip(seen["query"].inputs.batches, batches):
        np.testing.assert_array_equal(x, batch)


def test_an_input_written_to_is_another_input(weights: Weights, batches: list[np.ndarray]) -> None:
    """The same array with other values."""
    grams: dict[str, GramMatrix] = {}

    def method(layer: Layer) -> QuantizedTensor:
        grams[layer.name] = layer.gram
        return int4q.quantize(layer.weights, layer.scheme)

    def writing(linear: Callable[..., np.ndarray], x: np.ndarray) -> None:
        x = x.copy()
        linear("query", x)
        x *= 2
        linear("key", x)

    int4q.quantize_model(writing, batches, weights, SCHEME, method)
    np.testing.assert_allclose(grams["key"].matrix(), 4 * grams["query"].matrix())


def test_rows_masked_do_not_count(weights: Weights, batches: list[np.ndarray], generator: np.random.Generator) -> None:
    rows = generator.random(150) < 0.5
    full = batches[0].copy()
    full[~rows] = 1000
    masked = int4q.quantize_model(lambda linear, x: linear("up", x, rows=rows), [full], weights, SCHEME)
    alone = int4q.quantize_model(lambda linear, x: linear("up", x), [batches[0][rows]], weights, SCHEME)
    np.testing.assert_array_equal(masked["up"].dequantize(), alone["up"].dequantize())
    assert masked["up"].rows == rows.sum() and list(masked) == ["up"]


def test_rows_have_weights(weights: Weights, batches: list[np.ndarray], generator: np.random.Generator) -> None:
    """Rows that count two or three times are as good as so many copies, in all that is made of them."""
    times = generator.integers(0, 4, 150)
    x, weighted = batches[0], times.astype(np.float32)
    copies = np.repeat(x, times, axis=0)

    def seen(x: np.ndarray, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

        def method(layer: Layer) -> QuantizedTensor:
            found.append((layer.gram.matrix(), layer.cross.matrix(), layer.means))
            return int4q.quantize(layer.weights, layer.scheme)

        def model(linear: Callable[..., np.ndarray], x: np.ndarray) -> np.ndarray:
            return linear("up", linear("out", linear("query", x, rows=rows), rows=rows), rows=rows)

        int4q.quantize_model(model, [x], weights, SCHEME, method, exact_inputs=True)
        return found[-1]

    for one, other in zip(seen(x, weighted), seen(copies, None)):
        assert other.any()
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * np.abs(other).max())
    recorder = Recorder()
    recorder("up", x, weighted)
    np.testing.assert_allclose(recorder.grams["up"].matrix(), gram_of(copies), rtol=0, atol=1e-4 * gram_of(copies).max())


def test_shrunk_gram_matrices(weights: Weights, batches: list[np.ndarray]) -> None:
    found = int4q.quantize_model(forward, batches, weights, SCHEME, "shrink:0.25+gptq")

    def method(layer: Layer) -> QuantizedTensor:
        sums = layer.gram.matrix()
        gram = GramMatrix.from_matrix(0.75 * sums + 0.25 * np.diag(np.diagonal(sums)), layer.gram.rows)
        return int4q.gptq(layer.weights, gram, layer.scheme, order=int4q.GptqOrder.WITHIN_GROUPS)[0]

    expected = int4q.quantize_model(forward, batches, weights, SCHEME, method)
    for name, layer in found.items():
        np.testing.assert_array_equal(layer.dequantize(), expected[name].dequantize())
        assert layer.loss == expected[name].loss  # of the inputs as they are


def test_q4_k_keeps_its_scales(generator: np.random.Generator) -> None:
    weights, x = generator.standard_normal((8, 256), np.float32), generator.standard_normal((600, 256), np.float32)
    gram = GramMatrix(256)
    gram.push(x @ generator.standard_normal((256, 256), np.float32))
    layer = Layer("wide", weights, SCHEME, lambda: gram)
    importance = np.diagonal(gram.matrix()) / gram.rows
    expected = int4q.quantize_blocks(weights, "q4_k", importance=importance).to_tensor()
    plain, better = (int4q.quantize_layer(layer, method) for method in ("q4_k", "q4_k+descent"))
    np.testing.assert_array_equal(plain.dequantize(), expected.dequantize())
    np.testing.assert_array_equal(better.tensor.scales, expected.scales)
    assert better.loss < plain.loss


@pytest.mark.parametrize("method", ["gptq:3", "descent:many", "descent:", "wish", "gptq+shrunk"])
def test_names_that_mean_nothing(method: str) -> None:
    with pytest.raises(ValueError, match=f"method is {method!r}".replace("+", r"\+")):
        int4q.layer_method(method)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_bias_keeps_outputs_means(weights: Weights, batches: list[np.ndarray], method: str) -> None:
    batches = [x + 3 for x in batches]
    found = int4q.quantize_model(forward, batches, weights, SCHEME, method, correct_bias=True)
    x = np.concatenate(batches).astype(np.float64)
    exact = x @ weights["query"].astype(np.float64).T
    product = x @ found["query"].dequantize().astype(np.float64).T + found["query"].bias
    np.testing.assert_allclose(product.mean(axis=0), exact.mean(axis=0), atol=2e-4)


def test_exact_inputs_are_the_float_model_s(weights: Weights, batches: list[np.ndarray]) -> None:
    exact: dict[str, Any] = {}

    def method(layer: Layer) -> QuantizedTensor:
        exact[layer.name] = layer.inputs.exact
        assert len(layer.inputs.batches) == len(batches) and layer.gram.rows == 228
        return int4q.quantize(layer.weights, layer.scheme)

    int4q.quantize_model(forward, batches, weights, SCHEME, method, exact_inputs=True)
    expected: dict[str, list[np.ndarray]] = {name: [] for name in weights}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        expected[name].append(x)
        return x @ weights[name].T

    for batch in batches:
        forward(linear, batch)
    for name, inputs in expected.items():
        assert all(np.array_equal(a, b) for a, b in zip(exact[name], inputs, strict=True))


@pytest.mark.parametrize("method", ["gptaq", "shift+gptq", "shift+gptq+descent"])
def test_methods_of_two_models(weights: Weights, batches: list[np.ndarray], method: str) -> None:
    """What they are made for: the outputs of the last layer beside the float model's."""
    exact = [run(weights, x) for x in batches]

    def error(method: str) -> float:
        found = int4q.quantize_model(forward, batches, weights, SCHEME, method, exact_inputs=True)
        values = {name: layer.dequantize() for name, layer in found.items()}
        return float(sum(np.square(run(values, x) - y).sum() for x, y in zip(batches, exact)))

    assert error(method) < 0.98 * error("gptq")
    with pytest.raises(ValueError, match="exact_inputs is False"):
        int4q.quantize_model(forward, batches, weights, SCHEME, method)


def test_shifts_make_up_for_residuals(weights: Weights, batches: list[np.ndarray]) -> None:
    """Errors of a block stay in its residual; the next block's last layer can take them back."""

    def told(linear: Callable[..., np.ndarray], x: np.ndarray) -> np.ndarray:
        x = x + linear("out", np.tanh(linear("query", x)) * linear("key", x), residual=x)
        return x + linear("down", np.maximum(linear("up", x), 0), residual=x)

    exact = [run(weights, x) for x in batches]

    def error(model: Callable[..., np.ndarray]) -> float:
        found = int4q.quantize_model(model, batches, weights, SCHEME, "residual_shift:1+gptq", exact_inputs=True)
        values = {name: layer.dequantize() for name, layer in found.items()}
        return float(sum(np.square(run(values, x) - y).sum() for x, y in zip(batches, exact)))

    assert error(told) < 0.95 * error(forward)


@pytest.mark.parametrize("method", ["autoround", "gptq+adaround"])
def test_learned_rounding_by_name(weights: Weights, batches: list[np.ndarray], method: str) -> None:
    found = int4q.quantize_model(forward, batches, weights, SCHEME, method)
    assert all(layer.loss < layer.nearest_loss for layer in found.values())


def test_schemes_by_name(weights: Weights, batches: list[np.ndarray]) -> None:
    schemes = {"up": Scheme.asymmetric(32), "down": Scheme.symmetric(bits=8)}
    found = int4q.quantize_model(forward, batches, weights, schemes.get, "nearest")
    assert {name: layer.tensor.scheme for name, layer in found.items()} == schemes
    np.testing.assert_array_equal(found["up"].dequantize(), int4q.quantize(weights["up"], schemes["up"]).dequantize())


def test_a_layer_used_twice_is_quantized_once(weights: Weights, batches: list[np.ndarray]) -> None:
    found = int4q.quantize_model(lambda linear, x: linear("query", x) + linear("query", 2 * x), batches, weights, SCHEME)
    assert found["query"].rows == 228


def test_failures_come_out_and_end_all_passes(weights: Weights, batches: list[np.ndarray]) -> None:
    import threading

    before = threading.active_count()

    def failing(linear: Callable[..., np.ndarray], x: np.ndarray) -> None:
        linear("query", x)
        if len(x) == 1:
            raise RuntimeError("the model's own")

    with pytest.raises(RuntimeError, match="the model's own"):
        int4q.quantize_model(failing, batches, weights, SCHEME)
    with pytest.raises(ValueError, match="different orders"):
        int4q.quantize_model(lambda linear, x: linear("up" if len(x) == 1 else "query", x), batches, weights, SCHEME)
    with pytest.raises(ValueError, match="different orders"):
        int4q.quantize_model(lambda linear, x: linear("up", x) if len(x) == 1 else None, batches, weights, SCHEME)
    with pytest.raises(ValueError, match="'down' has weights of shape"):
        int4q.quantize_model(lambda linear, x: linear("down", x), batches, weights, SCHEME)
    with pytest.raises(KeyError, match="nothing"):
        int4q.quantize_model(lambda linear, x: linear("nothing", x), batches, weights, SCHEME)
    with pytest.raises(int4q.NotFiniteError):
        int4q.quantize_model(forward, [batches[0] * np.float32(np.nan)], weights, SCHEME)
    with pytest.raises(ValueError, match="batches is empty"):
        int4q.quantize_model(forward, [], weights, SCHEME)
    with pytest.raises(ValueError, match="'gptqq' is none of nearest"):
        int4q.quantize_model(forward, batches, weights, SCHEME, "gptqq+descent")
    assert threading.active_count() == before


def test_recorder(batches: list[np.ndarray], generator: np.random.Generator) -> None:
    recorder = Recorder()
    for x in batches:
        assert recorder(("query", "key"), x) is x
    mask = np.arange(150) % 3 == 0
    recorder("up", batches[0].reshape(3, 50, 64), mask.reshape(3, 50))
    every = np.concatenate(batches)
    assert recorder.grams["query"] is recorder.grams["key"] and recorder.grams["key"].rows == 228
    np.testing.assert_allclose(recorder.grams["key"].matrix(), gram_of(every), rtol=1e-4, atol=1e-2)
    assert recorder.grams["up"].rows == 50
    with pytest.raises(ValueError, match="apart"):
        recorder(("query", "up"), batches[0])


# ---- PyTorch -------------------------------------------------------------------------------------------------------


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)


def torch_model(torch: Any, weights: Weights) -> Any:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, (n, k) in SIZES.items():
                layer = torch.nn.Linear(k, n, bias=name == "up")
                layer.weight.data = torch.from_numpy(weights[name].copy())
                setattr(self, name, layer)
            self.up.bias.data[:] = 0.25

        def forward(self, x: Any) -> Any:
            x = x + self.out(torch.tanh(self.query(x)) * self.key(x))
            return x + self.down(torch.relu(self.up(x)))

    return Model()


def biased(linear: Callable[..., np.ndarray], x: np.ndarray) -> np.ndarray:
    """`forward` with the PyTorch model's bias."""
    return forward(lambda name, values: linear(name, values) + np.float32(0.25 if name == "up" else 0), x)


def test_torch_as_numpy(torch: Any, weights: Weights, batches: list[np.ndarray]) -> None:
    model = torch_model(torch, weights)
    inputs = [torch.from_numpy(x)[None] for x in batches]
    found = int4q.quantize_torch(model, inputs, SCHEME, "gptq+descent")
    expected = int4q.quantize_model(biased, batches, weights, SCHEME, "gptq+descent")
    assert list(found) == list(expected)
    for name, layer in found.items():
        # Sums in another order change few codes.
        assert np.mean(layer.tensor.code_matrix() == expected[name].tensor.code_matrix()) > 0.98
        assert layer.loss == pytest.approx(expected[name].loss, rel=0.02) and layer.loss < layer.nearest_loss
        np.testing.assert_array_equal(getattr(model, name).weight.detach().numpy(), layer.dequantize())
    with torch.no_grad():
        y = model(inputs[0])[0].numpy()
    product = biased(lambda name, x: x @ found[name].dequantize().T, batches[0])
    np.testing.assert_allclose(y, product, rtol=1e-3, atol=1e-2)


def test_torch_chosen_layers_and_biases(torch: Any, weights: Weights, batches: list[np.ndarray]) -> None:
    model = torch_model(torch, weights)
    inputs = [torch.from_numpy(x + 3) for x in batches]
    found = int4q.quantize_torch(
        model, [{"x": x} for x in inputs], lambda name: SCHEME if name != "down" else None, "gptq",
        layers=lambda name: name != "key", call=lambda chosen, batch: chosen(**batch), correct_bias=True,
    )  # fmt: skip
    assert list(found) == ["query", "out", "up"]
    np.testing.assert_array_equal(model.down.weight.detach().numpy(), weights["down"])
    np.testing.assert_allclose(model.up.bias.detach().numpy(), 0.25 + found["up"].bias, rtol=1e-6)
    assert model.up.weight.requires_grad


def test_torch_exact_inputs(torch: Any, weights: Weights, batches: list[np.ndarray]) -> None:
    model = torch_model(torch, weights)
    differences: dict[str, float] = {}

    def method(layer: Layer) -> QuantizedTensor:
        pairs = zip(layer.inputs.batches, layer.inputs.exact, strict=True)
        differences[layer.name] = max(float(np.abs(a - b).max()) for a, b in pairs)
        return int4q.quantize(layer.weights, layer.scheme)

    int4q.quantize_torch(model, [torch.from_numpy(x) for x in batches], SCHEME, method, exact_inputs=True)
    assert differences["query"] == differences["key"] == 0 < min(differences[name] for name in ("out", "up", "down"))


def test_torch_weights_come_back_after_a_failure(torch: Any, weights: Weights, batches: list[np.ndarray]) -> None:
    model = torch_model(torch, weights)

    def method(layer: Layer) -> QuantizedTensor:
        if layer.name == "up":
            raise RuntimeError("no")
        return int4q.quantize(layer.weights, layer.scheme)

    with pytest.raises(RuntimeError, match="no"):
        int4q.quantize_torch(model, [torch.from_numpy(x) for x in batches], SCHEME, method, correct_bias=True)
    for name, values in weights.items():
        np.testing.assert_array_equal(getattr(model, name).weight.detach().numpy(), values)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_torch_recorder(torch: Any, weights: Weights, batches: list[np.ndarray]) -> None:
    model, recorder = torch_model(torch, weights), Recorder()
    with recorder.attached(model, lambda name: name != "down"):
        for x in batches:
            model(torch.from_numpy(x))
    assert set(recorder.grams) == {"query", "key", "out", "up"}
    assert recorder.grams["query"] is recorder.grams["key"] and recorder.grams["up"].rows == 228
    every = np.concatenate(batches)
    np.testing.assert_allclose(recorder.grams["key"].matrix(), gram_of(every), rtol=1e-4, atol=1e-2)
    x = every + np.tanh(every @ weights["query"].T) * (every @ weights["key"].T) @ weights["out"].T
    np.testing.assert_allclose(recorder.grams["up"].matrix(), gram_of(x), rtol=1e-3, atol=1e-1)
