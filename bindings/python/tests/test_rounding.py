"""Learned rounding and Gram matrices of weighted rows, against float64 re-derivations of their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import rounding_reference as method
from conftest import all_schemes, as_float32, available_isas, in_type
from test_reconstruction import activations, gram_of, weights_of
from test_reconstruction_methods import exact_losses, stored

import int4q
from int4q import GramMatrix, Scheme


def start_of(tensor: int4q.QuantizedTensor, weights: np.ndarray) -> method.Start:
    return method.Start.of(tensor.scheme, weights, *stored(tensor))


def linear_schemes(group_size: int, scale_type: int4q.Type = int4q.Type.F16) -> dict[str, Scheme]:
    schemes = {name: s for name, s in all_schemes(group_size, scale_type).items() if name != "codebook"}
    for name, kind in (("symmetric-8", Scheme.symmetric), ("asymmetric-8", Scheme.asymmetric), ("offset-8", Scheme.offset)):
        schemes[name] = kind(group_size, scale_type=scale_type, bits=8)
    return schemes


# ---- Gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "offset"])
def test_the_closed_gradients_are_those_of_autograd(kind: str, generator: np.random.Generator) -> None:
    """The reference's, with which the library's trajectories are compared below, beside PyTorch's."""
    torch = pytest.importorskip("torch")
    n, k, size = 5, 24, 16
    weights = weights_of(generator, n, k)
    scheme = getattr(Scheme, kind)(size, scale_type=int4q.Type.F32)
    start = start_of(int4q.quantize(weights, scheme), weights)
    gram = gram_of(activations(generator, 60, k)).matrix()
    v = generator.uniform(-0.5, 0.5, (n, k))
    upper, lower = generator.uniform(0.5, 1, (2, n, 2))
    found = method.autoround_slopes(start, gram, v, upper, lower)

    def tensor(array: np.ndarray, learned: bool = False) -> Any:
        return torch.tensor(array, dtype=torch.float64, requires_grad=learned)

    class StraightThrough(torch.autograd.Function):
        """Other values with the same slope; exact ones, so that what is at a bound is not beyond it."""

        @staticmethod
        def forward(_: Any, x: Any, values: Any) -> Any:
            return values.clone()

        @staticmethod
        def backward(_: Any, slope: Any) -> tuple[Any, None]:
            return slope, None

    def bounded(x: Any) -> Any:
        """Whose slope is 1 at the bounds as well."""
        return torch.where(x < 0, 0 * x.detach(), torch.where(x > 15, 0 * x.detach() + 15, x))

    def straight_through(x: Any, values: Any = None) -> Any:
        return StraightThrough.apply(x, torch.round(x.detach()) if values is None else tensor(values))

    g, w, s = start.columns, tensor(start.weights), tensor(start.scales)
    learned = [tensor(a, True) for a in (v, upper, lower)]
    scales, zeros, offsets, place = method.ranges(start, upper, lower)
    place = tensor(place)
    if kind == "symmetric":
        scale, zero, offset = straight_through(learned[1] * s, scales), tensor(zeros), tensor(offsets)
    else:
        scale = straight_through(s * (learned[1] * (15 - place) + learned[2] * place) / 15, scales)
        zero, offset = tensor(zeros), tensor(offsets)
        if kind == "asymmetric":
            zero = bounded(straight_through(learned[2] * place * s / scale))
        else:
            offset = straight_through(tensor(start.offsets) + (1 - learned[2]) * place * s, offsets)
    steps = (w - offset[:, g]) / scale[:, g]
    codes = bounded(straight_through(steps + learned[0]) + tensor(method.shifts(start)) + zero[:, g])
    values = scale[:, g] * (codes - zero[:, g]) + offset[:, g]
    np.testing.assert_allclose(values.detach().numpy(), found.values, rtol=1e-12, atol=1e-12)
    errors = w - values
    loss = ((errors @ tensor(gram)) * errors).sum()
    loss.backward()
    np.testing.assert_allclose(loss.item(), found.losses.sum(), rtol=1e-12)
    for variable, slopes in zip(learned, (found.v, found.upper, found.lower)):
        expected = np.zeros_like(slopes) if variable.grad is None else variable.grad.numpy()
        np.testing.assert_allclose(slopes, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max() + 1e-300)

    floor, _ = method.adaround_start(start)
    v = generator.uniform(-4, 4, (n, k))
    soft = tensor(v, True)
    share = torch.clamp(1.2 * torch.sigmoid(soft) - 0.1, 0, 1)
    plain = [tensor(a)[:, g] for a in (start.scales, start.zeros, start.offsets)]
    errors = w - (plain[0] * (bounded(tensor(floor) + share) - plain[1]) + plain[2])
    rows = ((errors @ tensor(gram)) * errors).sum(axis=1)
    before = tensor(method.losses(start.weights - method.adaround_values(start, start.codes), gram))
    (k * rows / before).sum().add(3.0 * (1 - (2 * share - 1).abs() ** 5.5).sum()).backward()
    np.testing.assert_allclose(method.adaround_gradient(start, gram, floor, v, 3.0, 5.5), soft.grad.numpy(), rtol=1e-9, atol=1e-9)


# ---- AutoRound -----------------------------------------------------------------------------------------------------


def check_report(report: int4q.LearningReport, tensor: int4q.QuantizedTensor, before: tuple[np.ndarray, ...],
                 losses: np.ndarray, weights: np.ndarray, gram: GramMatrix, name: str) -> np.ndarray:
    """And that no row is worse; which rows are improved."""
    after = exact_losses(tensor, weights, gram)
    assert (after <= losses * (1 + 1e-6) + 1e-30).all(), name
    np.testing.assert_allclose([report.loss, report.start_loss], [after.sum(), losses.sum()], rtol=1e-6, err_msg=name)
    codes, *others = stored(tensor)
    assert report.changed_codes == (codes != before[0]).sum(), name
    changed = np.zeros(others[0].shape, bool)
    for array, old in zip(others, before[1:]):
        changed |= array != old
    assert report.changed_scales == changed.sum(), name
    improved = (codes != before[0]).any(axis=1) | changed.any(axis=1)
    assert report.improved_rows >= improved.sum(), name
    return improved


@pytest.mark.parametrize("k", [1, 40, 100])
@pytest.mark.parametrize("group_size", [16, 64, int4q.PER_ROW])
def test_autoround(k: int, group_size: int, generator: np.random.Generator) -> None:
    """Whole trajectories in float64. A sign of a slope near 0 may differ, and lead a row elsewhere."""
    x = activations(generator, 2 * k + 9, k)
    x[:, k // 2 + 1 : k // 2 + 2] = 0  # a dead channel
    gram, weights = gram_of(x), weights_of(generator, 19, k)
    weights[4, :16] = 0
    for name, scheme in linear_schemes(group_size).items():
        if k == 1 and name == "mlx":
            continue  # its scales are 1e-7 then, and steps beyond what binary32 tells apart
        for iterations, range_step in ((7, 1 / 7), (60, 1 / 60), (60, 0.0)):
            tensor = int4q.quantize(weights, scheme)
            losses, before = exact_losses(tensor, weights, gram), stored(tensor)
            start = start_of(tensor, weights)
            report = int4q.autoround(tensor, weights, gram, iterations=iterations, range_step=range_step)
            improved = check_report(report, tensor, before, losses, weights, gram, name)
            if name.startswith("symmetric-power"):
                range_step = 0.0
            values, least, at = method.autoround(start, gram.matrix(), iterations=iterations, step=1 / iterations,
                                                 range_step=range_step)
            expected = np.minimum(least / max(gram.rows, 1), losses)
            found = exact_losses(tensor, weights, gram)
            same = np.isclose(found, expected, rtol=1e-5, atol=1e-9 * losses.max())
            assert same.mean() >= (0.8 if iterations == 7 else 0.7), (name, iterations, same.mean())
            assert abs(found.sum() - expected.sum()) <= 0.05 * expected.sum() + 1e-9 * losses.sum(), (name, iterations)
            rows = same & improved & (least / max(gram.rows, 1) < losses * (1 - 1e-6))
            np.testing.assert_allclose(tensor.dequantize()[rows], values[rows], rtol=1e-5, atol=1e-6)
            if range_step == 0:
                assert report.changed_scales == 0
            assert report.best_iteration < iterations and (report.best_iteration > 0 or not improved.any())
            if k == 100 and iterations == 60 and group_size != int4q.PER_ROW:
                assert report.loss < 0.9 * report.start_loss, name


@pytest.mark.parametrize("scale_type", list(int4q.Type), ids=lambda t: t.name)
def test_learning_from_gptq(scale_type: int4q.Type, generator: np.random.Generator) -> None:
    """Codes that are not the nearest ones are where it starts."""
    gram, weights = gram_of(activations(generator, 300, 130)), weights_of(generator, 35, 130)
    for name, scheme in linear_schemes(32, scale_type).items():
        tensor, _ = int4q.gptq(weights, gram, scheme)
        losses, before = exact_losses(tensor, weights, gram), stored(tensor)
        start = start_of(tensor, weights)
        assert (np.abs(method.shifts(start)) > 0).mean() > 0.05
        report = int4q.autoround(tensor, weights, gram, iterations=40)
        check_report(report, tensor, before, losses, weights, gram, name)
        step = 0.0 if name.startswith("symmetric-power") else 1 / 40
        _, least, _ = method.autoround(start, gram.matrix(), iterations=40, step=1 / 40, range_step=step)
        np.testing.assert_allclose(report.loss, np.minimum(least / gram.rows, losses).sum(), rtol=0.02, err_msg=name)
        # Behind it, AdaRound finds more.
        losses, before = exact_losses(tensor, weights, gram), stored(tensor)
        options = {"iterations": 100, "step": 0.1, "regularization": 10.0, "warm_up": 0.2}
        values, _ = method.adaround(start_of(tensor, weights), gram.matrix(), **options)
        more = int4q.adaround(tensor, weights, gram, **options)
        check_report(more, tensor, before, losses, weights, gram, name)
        expected = np.minimum(method.losses(weights - values, gram.matrix()) / gram.rows, losses)
        np.testing.assert_allclose(more.loss, expected.sum(), rtol=0.02, err_msg=name)
        assert more.loss < report.loss and more.changed_scales == 0, name


def test_wider_ranges(generator: np.random.Generator) -> None:
    """Of a tensor whose ranges have been clipped too much."""
    gram, weights = gram_of(activations(generator, 300, 64)), weights_of(generator, 30, 64)
    limit = np.abs(weights).max(axis=1, keepdims=True) / 2
    found = []
    for most_range in (1.0, 1.6):
        tensor = int4q.quantize(np.clip(weights, -limit, limit), Scheme.symmetric(64))
        report = int4q.autoround(tensor, weights, gram, most_range=most_range)
        assert report.loss < report.start_loss
        found.append(report.loss)
    assert found[1] < 0.8 * found[0]


# ---- AdaRound ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 40, 100])
@pytest.mark.parametrize("group_size", [16, 64, int4q.PER_ROW])
def test_adaround(k: int, group_size: int, generator: np.random.Generator) -> None:
    x = activations(generator, 2 * k + 9, k)
    x[:, k // 2 + 1 : k // 2 + 2] = 0
    gram, weights = gram_of(x), weights_of(generator, 19, k)
    weights[4, :16] = 0
    for name, scheme in linear_schemes(group_size).items():
        for options in (
            {"iterations": 8, "step": 0.3},
            {"iterations": 80, "step": 0.1, "first_exponent": 12.0, "last_exponent": 2.5},
        ):
            options["regularization"] = 10.0
            tensor = int4q.quantize(weights, scheme)
            losses, before = exact_losses(tensor, weights, gram), stored(tensor)
            values, _ = method.adaround(start_of(tensor, weights), gram.matrix(), **options)
            report = int4q.adaround(tensor, weights, gram, **options)
            improved = check_report(report, tensor, before, losses, weights, gram, name)
            assert report.changed_scales == 0 and report.best_iteration == 0
            reached = method.losses(weights - values, gram.matrix()) / gram.rows
            expected, found = np.minimum(reached, losses), exact_losses(tensor, weights, gram)
            same = np.isclose(found, expected, rtol=1e-5, atol=1e-9 * losses.max())
            assert same.mean() >= 0.6, (name, options, same.mean())
            assert abs(found.sum() - expected.sum()) <= 0.1 * expected.sum() + 1e-9 * losses.sum(), (name, options)
            rows = improved & (reached < losses * (1 - 1e-6))
            agreement = np.isclose(tensor.dequantize()[rows], values[rows], rtol=1e-5, atol=1e-6)
            assert not rows.any() or agreement.mean() > 0.98, (name, options, agreement.mean())


def test_adaround_finds_what_coordinate_descent_finds(generator: np.random.Generator) -> None:
    gram, weights = gram_of(generator.standard_normal((1000, 200)).astype(np.float32)), weights_of(generator, 64, 200)
    descended, adapted = (int4q.quantize(weights, Scheme.asymmetric(64)) for _ in range(2))
    best = int4q.gram_descend(descended, weights, gram, sweeps=100).loss
    report = int4q.adaround(adapted, weights, gram)
    assert report.loss < 1.03 * best < 0.9 * report.start_loss


# ---- Both ----------------------------------------------------------------------------------------------------------

METHODS = [int4q.autoround, int4q.adaround]


@pytest.mark.parametrize("learn", METHODS)
def test_learning_has_the_same_bits_everywhere(learn: Any, generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 400, 330)), weights_of(generator, 300, 330)

    def run(scheme: Scheme, rows: slice = slice(None), pool: int4q.Pool | None = None) -> list[bytes]:
        tensor = int4q.quantize(weights[rows], scheme)
        learn(tensor, weights[rows], gram, iterations=12, pool=pool)
        return [b"".join(bytes(part[row]) for part in stored(tensor)) for row in range(tensor.shape[0])]

    for name, scheme in {"s": Scheme.symmetric(64), "o": Scheme.offset(128), "a": Scheme.asymmetric(32, bits=8)}.items():
        expected = run(scheme)
        with int4q.Pool(3) as pool:
            assert run(scheme, pool=pool) == expected, name
        # Each row by itself.
        assert run(scheme, slice(7, 30)) == expected[7:30], name
        for isa in available_isas():
            with int4q.set_isa_limit(isa):
                assert run(scheme) == expected, (name, isa)


@pytest.mark.parametrize("learn", METHODS)
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_learning_does_not_depend_on_units(learn: Any, size: float, generator: np.random.Generator) -> None:
    x, weights = activations(generator, 200, 60), weights_of(generator, 20, 60)
    scheme = Scheme.asymmetric(32, scale_type=int4q.Type.F32)
    shares = []
    for factor in (1.0, size):
        power = np.float32(2.0) ** np.round(np.log2(factor))
        tensor = int4q.quantize(weights * power, scheme)
        report = learn(tensor, weights * power, gram_of(x * np.float32(2.0**20 if factor == size else 1)), iterations=50)
        shares.append(report.loss / report.start_loss)
    assert shares[0] < 0.9
    np.testing.assert_allclose(shares[1], shares[0], rtol=1e-3)


@pytest.mark.parametrize("learn", METHODS)
def test_learning_leaves_alone_what_it_cannot_improve(learn: Any, generator: np.random.Generator) -> None:
    weights = weights_of(generator, 20, 60)
    for name, scheme in linear_schemes(32).items():
        exact = int4q.quantize(weights, scheme).dequantize()
        for source, gram in ((weights, GramMatrix(60)), (exact, gram_of(activations(generator, 99, 60)))):
            tensor = int4q.quantize(source, scheme)
            if source is exact:
                again = int4q.quantize(exact, scheme)
                if exact_losses(again, exact, gram).sum() > 0:
                    continue
            before = tensor.codes.tobytes()
            report = learn(tensor, source, gram, iterations=20)
            assert tensor.codes.tobytes() == before and report.improved_rows == report.changed_codes == 0, name
            assert report.loss == report.start_loss == 0


@pytest.mark.parametrize("learn", METHODS)
def test_given_scales_and_powers_of_two_stay(learn: Any, generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 300, 60)), weights_of(generator, 20, 60)
    for rule in (int4q.ScaleRule.POWER_OF_TWO, int4q.ScaleRule.GIVEN):
        scheme = Scheme.symmetric(32, scale_rule=rule)
        tensor = int4q.QuantizedTensor.empty(scheme, 20, 60)
        tensor.scales[:] = 0.25
        if rule == int4q.ScaleRule.POWER_OF_TWO:
            tensor = int4q.quantize(weights, scheme)
        scales = tensor.scales.copy()
        report = learn(tensor, weights, gram, iterations=50)
        assert report.loss < report.start_loss and report.changed_scales == 0
        assert np.array_equal(tensor.scales, scales)


@pytest.mark.parametrize("learn", METHODS)
def test_learning_of_narrow_weights(learn: Any, generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 300, 70)), weights_of(generator, 20, 70)
    for element_type in (int4q.Type.F16, int4q.Type.BF16):
        narrow = in_type(weights, element_type)
        tensor, same = (int4q.quantize(as_float32(narrow), Scheme.asymmetric(32)) for _ in range(2))
        found = learn(tensor, narrow, gram, element_type=element_type, iterations=30)
        assert found == learn(same, as_float32(narrow), gram, iterations=30)
        assert np.array_equal(tensor.codes, same.codes)


@pytest.mark.parametrize("learn", METHODS)
def test_refusals(learn: Any, generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 90, 60)), weights_of(generator, 100, 60)
    tensor = int4q.quantize(weights, Scheme.asymmetric(32))
    with pytest.raises(int4q.MismatchError, match="gram is 61"):
        learn(tensor, weights, GramMatrix(61))
    with pytest.raises(ValueError, match=r"weights has shape \(99, 60\)"):
        learn(tensor, weights[1:], gram)
    with pytest.raises(int4q.InvalidArgumentError, match=r"options\.iterations is 0"):
        learn(tensor, weights, gram, iterations=0, step=1.0)
    with pytest.raises(int4q.InvalidArgumentError, match=r"options\.step is 0"):
        learn(tensor, weights, gram, step=0.0)
    for scheme in (all_schemes(32)["codebook"], Scheme.ternary(32), Scheme.binary(32)):
        with pytest.raises(int4q.UnsupportedError, match=r"scheme\.kind"):
            learn(int4q.quantize(weights, scheme), weights, gram)
    weights[77, 33] = np.nan
    before = tensor.codes.tobytes()
    with pytest.raises(int4q.NotFiniteError, match="row 77, column 33"):
        learn(tensor, weights, gram, iterations=1)
    assert tensor.codes[64:].tobytes() == before[64 * 30 :]
    bad = gram.matrix()
    bad[3, 9] = 1e308
    weights[77, 33] = 0
    # Losses that overflow improve nothing.
    learn(tensor, weights, GramMatrix.from_matrix(bad, 10), iterations=3)


@pytest.mark.parametrize("learn", METHODS)
def test_progress(learn: Any, generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 200, 150)), weights_of(generator, 300, 150)
    tensor = int4q.quantize(weights, Scheme.asymmetric(32))
    calls: list[tuple[int, int]] = []
    learn(tensor, weights, gram, iterations=10, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (50, 50) and len(calls) == 6 and [done for done, _ in calls] == [0, 10, 20, 30, 40, 50]
    for stop in (0, 2, 5):
        again, count = int4q.quantize(weights, Scheme.asymmetric(32)), iter(range(1000))
        with pytest.raises(int4q.CancelledError, match="options.progress"):
            learn(again, weights, gram, iterations=10,
                  progress=lambda done, total, count=count, stop=stop: next(count) == stop)
        untouched = int4q.quantize(weights, Scheme.asymmetric(32))
        assert np.array_equal(again.codes[: 64 * stop], tensor.codes[: 64 * stop])
        assert np.array_equal(again.codes[64 * stop :], untouched.codes[64 * stop :])

    def fail(done: int, total: int) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        learn(tensor, weights, gram, progress=fail)


def test_progress_within_a_task(generator: np.random.Generator) -> None:
    """A run of iterations is no more than about 2^32 products."""
    weights = weights_of(generator, 3, 1500)
    tensor = int4q.quantize(weights)
    calls: list[int] = []
    gram = gram_of(generator.standard_normal((20, 1500)).astype(np.float32))
    int4q.autoround(tensor, weights, gram, iterations=70, progress=lambda done, _: calls.append(done))
    run = 2**32 // (64 * 1504**2)
    assert calls == [*range(0, 70, run), 70]


# ---- Gram matrices of weighted rows --------------------------------------------------------------------------------


@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
def test_weighted_rows(element_type: int4q.Type, generator: np.random.Generator) -> None:
    source = in_type(activations(generator, 700, 77), element_type)
    weights = generator.exponential(size=700).astype(np.float32)
    weights[[3, 600]] = 0
    gram = GramMatrix(77)
    gram.push(source, weights=weights, element_type=element_type)
    x = as_float32(source).astype(np.float64)
    exact = (x * weights[:, None]).T @ x
    bound = (np.abs(x) * weights[:, None]).T @ np.abs(x)
    assert (np.abs(gram.matrix() - exact) <= 2.0**-16 * bound).all()
    assert gram.rows == 700
    # To the bit what rows give that are scaled in binary32.
    scaled = as_float32(source) * np.sqrt(weights)[:, None]
    assert gram.matrix().tobytes() == gram_of(scaled).matrix().tobytes()
    assert gram.channels().tobytes() == gram_of(scaled).channels().tobytes()
    plain = GramMatrix(77)
    plain.push(source, weights=np.ones(700), element_type=element_type)
    assert plain.matrix().tobytes() == gram_of(as_float32(source)).matrix().tobytes()
    with int4q.Pool(3) as pool:
        spread = GramMatrix(77)
        spread.push(source, weights=weights, element_type=element_type, pool=pool)
        assert spread.matrix().tobytes() == gram.matrix().tobytes()


def test_weighted_rows_refuse(generator: np.random.Generator) -> None:
    x = activations(generator, 300, 20)
    gram = gram_of(x)
    before = gram.matrix()
    for value in (-1.0, np.nan, np.inf):
        weights = np.ones(300)
        weights[[222, 290]] = value
        with pytest.raises(int4q.NotFiniteError, match="weights.*222"):
            gram.push(x, weights=weights)
    large = np.ones(300)
    large[299] = 1e38
    x[299, 19] = 1.0
    gram.push(x[:, :], weights=np.minimum(large, 1e30))
    x[299, 19] = 1e3
    with pytest.raises(int4q.NotFiniteError, match="row 299"):
        gram.push(x, weights=large)
    x[7, 7] = np.inf
    with pytest.raises(int4q.NotFiniteError, match="row 7, column 7"):
        gram.push(x, weights=np.zeros(300))
    with pytest.raises(ValueError, match=r"weights has shape \(299,\)"):
        gram.push(x, weights=np.ones(299))
    assert gram.rows == 600 and before.shape == (20, 20)


def test_a_row_s_own_weights_leave_its_optimum_where_it_is(generator: np.random.Generator) -> None:
    """Fisher's information of one output, the same for all samples, scales that row's loss: nothing that is learned changes."""
    x, weights = activations(generator, 200, 40), weights_of(generator, 9, 40)
    results = []
    for factor in (1.0, 0.25):
        gram, tensor = GramMatrix(40), int4q.quantize(weights)
        gram.push(x, weights=np.full(200, factor))
        int4q.autoround(tensor, weights, gram, iterations=30)
        results.append(tensor.codes.tobytes())
    assert results[0] == results[1]
