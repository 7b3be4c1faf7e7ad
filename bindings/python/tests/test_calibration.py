"""Calibration against NumPy in float64 and, where they are installed, ONNX Runtime's and SciPy's own functions."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import numpy as np
import pytest
from conftest import as_float32, exact_weights, four_kinds, in_type

import int4q
from int4q import Axis, Distribution, HistogramForm, Observe, Observer

EVERYTHING = Observe.MOMENTS | Observe.HISTOGRAM
AXES = {
    "tensor": (Axis.TENSOR, 0, 0),
    "channel": (Axis.CHANNEL, 77, 0),
    "token": (Axis.TOKEN, 12, 0),
    "group": (Axis.GROUP, 77, 16),
}


def make(name: str, observed: Observe = EVERYTHING, **options: Any) -> Observer:
    axis, extent, group_size = AXES[name]
    return Observer(observed, axis, extent, group_size=group_size, **options)


def slots_of(name: str, batches: list[np.ndarray]) -> list[np.ndarray]:
    """The finite elements of each slot as float64."""
    whole = [as_float32(batch).astype(np.float64) for batch in batches]
    if name == "tensor":
        parts = [[batch.reshape(-1) for batch in whole]]
    elif name == "channel":
        parts = [[batch[:, j] for batch in whole] for j in range(77)]
    elif name == "token":
        parts = [[batch[i] for batch in whole] for i in range(12)]
    else:
        parts = [[batch[:, j : j + 16].reshape(-1) for batch in whole] for j in range(0, 77, 16)]
    joined = [np.concatenate(part) for part in parts]
    return [values[np.isfinite(values)] for values in joined]


def make_batches(generator: np.random.Generator, count: int = 5) -> list[np.ndarray]:
    """Batches whose ranges grow and shrink, with zeros of both signs."""
    batches = []
    for index in range(count):
        batch = generator.standard_normal((12, 77)) * 2.0 ** generator.integers(-6, 6)
        batch[generator.random(batch.shape) < 0.1] = 0.0
        batch[generator.random(batch.shape) < 0.1] = -0.0
        batch[:, 5] *= 2.0 ** (10 * index - 20)
        batches.append(batch.astype(np.float32))
    return batches


def magnitude_histogram(values: np.ndarray, bins: int) -> tuple[np.ndarray, float]:
    """The header's definition: signed counts and the width."""
    largest = np.abs(values).max(initial=0.0)
    exponent = max(-100, math.frexp(largest)[1] if largest > 0 else -100)
    width = 2.0**exponent / bins
    places = np.floor(np.abs(values) / width).astype(int)
    counts = np.zeros(2 * bins, np.int64)
    np.add.at(counts, np.where(values < 0, bins - 1 - places, bins + places), 1)
    return counts, width


# ---- Observers -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:overflow")  # float16 has no room for the largest, which become infinite
@pytest.mark.parametrize("name", list(AXES))
@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
def test_observer(name: str, element_type: int4q.Type, generator: np.random.Generator) -> None:
    batches = [in_type(batch, element_type) for batch in make_batches(generator)]
    observer = make(name, bins=64)
    for batch in batches:
        observer.push(batch, element_type=element_type)
    expected = slots_of(name, batches)
    statistics = observer.statistics()
    assert observer.batches == 5
    assert len(statistics) == observer.slots == len(expected)
    for slot, values in enumerate(expected):
        row = statistics[slot]
        assert row["count"] == values.size
        assert (row["low"], row["high"]) == (values.min(), values.max())
        assert not np.signbit(row["low"]) or row["low"] < 0
        for field, terms in (("sum", values), ("sum_magnitudes", np.abs(values)), ("sum_squares", values**2)):
            assert row[field] == pytest.approx(math.fsum(terms), rel=1e-13, abs=1e-13 * np.abs(terms).sum())
        counts, width = magnitude_histogram(values, 64)
        histogram = observer.histogram(slot)
        assert histogram.width == width == row["bin_width"]
        np.testing.assert_array_equal(histogram.counts, counts)
        magnitudes = observer.histogram(slot, HistogramForm.MAGNITUDES)
        np.testing.assert_array_equal(magnitudes.counts, np.histogram(np.abs(values), magnitudes.edges)[0])
        assert (magnitudes.lowest, magnitudes.low, magnitudes.high) == (0, values.min(), values.max())


@pytest.mark.parametrize("name", list(AXES))
def test_order_and_split_do_not_matter(name: str, generator: np.random.Generator) -> None:
    batches = make_batches(generator, 7)
    batches[3][2, 3] = np.nan
    batches[6][1, :] = np.inf
    whole = make(name)
    for batch in batches:
        whole.push(batch)
    merged = make(name)
    for part in ([5, 0], [], [6], [2, 4, 1], [3]):
        observer = make(name)
        for index in part:
            observer.push(batches[index])
        merged.merge(Observer.from_bytes(observer.to_bytes()))
    assert merged.not_finite == whole.not_finite == 78
    assert merged.batches == whole.batches == 7
    a, b = whole.statistics(), merged.statistics()
    for field in ("count", "low", "high", "bin_width"):
        np.testing.assert_array_equal(a[field], b[field])
    for field in ("sum", "sum_magnitudes", "sum_squares"):
        scale = a["sum_magnitudes"] if field == "sum" else np.abs(a[field])
        assert np.all(np.abs(a[field] - b[field]) <= 1e-14 * scale)
    for slot, values in enumerate(slots_of(name, batches)):
        np.testing.assert_array_equal(whole.histogram(slot).counts, merged.histogram(slot).counts)
        assert a["count"][slot] == values.size
        counts, _ = magnitude_histogram(values, 2048)
        np.testing.assert_array_equal(whole.histogram(slot).counts, counts)


def test_rows_with_gaps_and_long_rows(generator: np.random.Generator) -> None:
    room = generator.standard_normal((7, 6000)).astype(np.float32)
    room[:, 5000:] = 1e30
    observer, part = Observer(bins=256), Observer(bins=256)
    observer.push(room[:, :5000])
    for row in range(7):
        for begin, end in ((0, 1), (1, 2050), (2050, 5000)):
            part.push(room[row : row + 1, begin:end])
    assert observer.statistics()["count"][0] == 35000
    np.testing.assert_array_equal(observer.histogram().counts, part.histogram().counts)
    assert observer.statistics()["sum"][0] == pytest.approx(room[:, :5000].astype(np.float64).sum(), abs=1e-9)


@pytest.mark.parametrize("name", list(AXES))
def test_moving_average(name: str, generator: np.random.Generator) -> None:
    observer = make(name, Observe.AVERAGE, momentum=0.25)
    batches = make_batches(generator)
    batches[2][4] = np.nan
    lows, highs = None, None
    for batch in batches:
        observer.push(batch)
        values = [slot for slot in slots_of(name, [batch])]
        low = np.array([slot.min() if slot.size else np.nan for slot in values])
        high = np.array([slot.max() if slot.size else np.nan for slot in values])
        if lows is None:
            lows, highs = low, high
        else:
            lows = np.where(np.isnan(low), lows, lows + 0.25 * (low - lows))
            highs = np.where(np.isnan(high), highs, highs + 0.25 * (high - highs))
    statistics = observer.statistics()
    np.testing.assert_array_equal(statistics["average_low"], lows.astype(np.float32))
    np.testing.assert_array_equal(statistics["average_high"], highs.astype(np.float32))
    with pytest.raises(int4q.UnsupportedError, match="AVERAGE"):
        observer.merge(make(name, Observe.AVERAGE, momentum=0.25))


def test_save_and_load(tmp_path: pathlib.Path, generator: np.random.Generator) -> None:
    observer = make("group")
    for batch in make_batches(generator):
        observer.push(batch)
    observer.save(tmp_path / "observer")
    loaded = Observer.load(tmp_path / "observer")
    assert loaded.to_bytes() == observer.to_bytes()
    loaded.push(np.ones((1, 77), np.float32))
    assert loaded.statistics()["count"].sum() == observer.statistics()["count"].sum() + 77
    data = observer.to_bytes()
    with pytest.raises(int4q.BufferTooSmallError):
        Observer.from_bytes(data[:-64])
    with pytest.raises(int4q.CorruptError):
        Observer.from_bytes(b"\0" * len(data))
    damaged = bytearray(data)
    damaged[8] = 9
    with pytest.raises(int4q.BlobVersionError):
        Observer.from_bytes(damaged)


def test_every_changed_count_is_noticed(generator: np.random.Generator) -> None:
    """Counts, extremes and histograms agree with one another, so that no single change of them passes."""
    observer = Observer(Observe.HISTOGRAM, bins=16)
    observer.push(generator.standard_normal((3, 50)).astype(np.float32))
    data = observer.to_bytes()
    noticed = 0
    for place in range(128, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        try:
            Observer.from_bytes(damaged)
        except int4q.CorruptError:
            noticed += 1
    # Padding is not looked at, nor the low bits of the extremes.
    assert noticed >= 8 * 32 + 8


def test_empty_and_bad_observers() -> None:
    observer = Observer()
    assert observer.statistics()[0].tolist() == (0,) * 5 + (0,) * 4
    assert observer.histogram().counts.sum() == 0
    Observer.from_bytes(observer.to_bytes())
    with pytest.raises(int4q.InvalidArgumentError, match="all zero"):
        observer.histogram().percentile(99)
    for options in ({"bins": 100}, {"bins": 8}, {"group_size": 3}, {"extent": 4}, {"axis": Axis.CHANNEL}):
        with pytest.raises(int4q.InvalidArgumentError):
            Observer(Observe.HISTOGRAM, **options)
    with pytest.raises(int4q.MismatchError, match="columns"):
        Observer(Observe.MOMENTS, Axis.CHANNEL, 5).push(np.zeros((2, 6), np.float32))
    with pytest.raises(int4q.MismatchError, match="another description"):
        Observer(bins=64).merge(Observer(bins=128))
    with pytest.raises(int4q.MismatchError, match="HISTOGRAM"):
        Observer(Observe.MOMENTS).histogram()


# ---- Ranges, against ONNX Runtime's calibrators --------------------------------------------------------------------


def calibrators() -> Any:
    pytest.importorskip("onnxruntime")
    return pytest.importorskip("onnxruntime.quantization.calibrate")


def samples(generator: np.random.Generator) -> dict[str, np.ndarray]:
    shape = (40, 500)
    normal = generator.standard_normal(shape)
    sparse = np.where(generator.random(shape) < 0.02, generator.standard_normal(shape), 0)
    return {
        "normal": normal,
        "laplace": generator.laplace(size=shape),
        "student": generator.standard_t(3, shape),
        "relu": np.maximum(normal, 0),
        "offset": normal * 0.3 + 1,
        "sparse": sparse,
        "uniform": generator.uniform(-1, 1, shape),
        "outlier": np.concatenate([normal[:-1], normal[-1:] * 20]),
        "constant": np.full(shape, -0.7),
        "one": np.array([[0.3]]),
    }


def collector(method: str, symmetric: bool, bins: int, quantized: int, percentile: float, entry: Any) -> Any:
    collector = calibrators().HistogramCollector(method, symmetric, bins, quantized, percentile, "same")
    collector.histogram_dict = {"x": entry}
    return collector


@pytest.mark.parametrize("bins", [64, 512, 2048])
def test_percentiles_equal_onnx_runtime(bins: int, generator: np.random.Generator) -> None:
    for values in samples(generator).values():
        values = values.astype(np.float32)
        observer = Observer(bins=bins)
        observer.push(values)
        for form in HistogramForm:
            histogram = observer.histogram(0, form)
            edges = histogram.edges.astype(np.float32)
            entry = (histogram.counts, edges, np.float32(histogram.low), np.float32(histogram.high))
            for percentile in (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 100.0):
                theirs = collector(
                    "percentile", form == HistogramForm.MAGNITUDES, bins, 128, percentile, entry
                ).compute_percentile()["x"]
                mine = histogram.percentile(percentile, form)
                assert (mine.low, mine.high) == (theirs[0], theirs[1]), (form, percentile)


@pytest.mark.parametrize("bins", [64, 512])
@pytest.mark.parametrize("quantized", [15, 16, 128])
def test_entropy_equals_onnx_runtime(bins: int, quantized: int, generator: np.random.Generator) -> None:
    for name, values in samples(generator).items():
        observer = Observer(bins=bins)
        observer.push(values.astype(np.float32))
        histogram = observer.histogram()
        edges = histogram.edges.astype(np.float32)
        low, high = np.float32(histogram.low), np.float32(histogram.high)
        entry = (histogram.counts, edges, low, high, max(-low, high))
        theirs = collector("entropy", False, bins, quantized, 100, entry).compute_entropy()["x"]
        mine = histogram.entropy(quantized)
        if (mine.low, mine.high) == (theirs[0], theirs[1]):
            continue
        # Where both agree in float64 to what ONNX Runtime's float32 sums can tell apart.
        divergences = entropy_divergences(histogram.counts, quantized)
        half = int(np.argmin(np.abs(edges[len(edges) // 2 + 1 :][: bins] - theirs[1])))
        assert divergences.min() == pytest.approx(mine.score, rel=1e-9), name
        assert divergences[half - quantized // 2] - divergences.min() < 2e-6, name


def entropy_divergences(counts: np.ndarray, quantized: int) -> np.ndarray:
    """The definition of docs/calibration.md in float64, slice by slice."""
    middle, total = len(counts) // 2, counts.sum()
    result = []
    for half in range(quantized // 2, middle + 1):
        begin, end = middle - half, min(middle + half + 1, len(counts))
        inside = counts[begin:end]
        p = inside.astype(np.float64)
        p[0] += counts[:begin].sum()
        p[-1] += counts[end:].sum()
        length = len(inside) // quantized
        cuts = [length * i for i in range(quantized)] + [len(inside)]
        q = np.zeros(len(inside))
        for i in range(quantized):
            filled = (p[cuts[i] : cuts[i] + length] != 0).sum()
            if filled:
                q[cuts[i] : cuts[i] + length] = inside[cuts[i] : cuts[i + 1]].sum() // filled
        if not q.any():
            result.append(np.inf)
            continue
        for values in (p, q):
            empty = (values == 0).sum()
            values[:] = np.where(values == 0, 1e-4, values - 1e-4 * empty / (len(values) - empty))
        assert p.sum() == pytest.approx(total)
        result.append(float((p / p.sum() * np.log(p / p.sum() / (q / q.sum()))).sum()))
    return np.array(result)


@pytest.mark.parametrize("quantized", [2, 15, 16, 128])
def test_entropy_equals_its_definition(quantized: int, generator: np.random.Generator) -> None:
    for name, values in samples(generator).items():
        observer = Observer(bins=128)
        observer.push(values.astype(np.float32))
        histogram = observer.histogram()
        divergences = entropy_divergences(histogram.counts, quantized)
        mine = histogram.entropy(quantized)
        assert mine.score == pytest.approx(divergences.min(), rel=1e-9, abs=1e-12), name
        chosen = 128 - mine.low_edge - quantized // 2
        assert divergences[chosen] == pytest.approx(divergences.min(), rel=1e-9, abs=1e-12), name


def test_min_max_equals_onnx_runtime(generator: np.random.Generator) -> None:
    """Of batches, and with the moving average of ONNX Runtime's merge_range."""
    calibrate = calibrators()
    batches = make_batches(generator)
    for average in (False, True):
        merger = calibrate.MinMaxCalibrater.__new__(calibrate.MinMaxCalibrater)
        merger.moving_average, merger.averaging_constant = average, 0.01
        theirs: Any = None
        observer = Observer(Observe.AVERAGE if average else Observe.EXTREMES, momentum=0.01)
        for batch in batches:
            theirs = merger.merge_range(theirs, {"x": (batch.min(), batch.max())})
            observer.push(batch)
        mine = observer.statistics()[0]
        if average:
            np.testing.assert_allclose([mine["average_low"], mine["average_high"]], theirs["x"], rtol=1e-6)
        else:
            assert (mine["low"], mine["high"]) == theirs["x"]


# ---- Least error ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [1.0, 2.0, 2.4])
def test_least_error(norm: float, generator: np.random.Generator) -> None:
    for name, values in samples(generator).items():
        observer = Observer(bins=256)
        observer.push(values.astype(np.float32))
        histogram = observer.histogram()
        middles = (histogram.edges[:-1] + histogram.edges[1:]) / 2
        for codes, divisor in (((-8, 7), 8.0), ((-7, 7), 7.0), ((-8, 7), 7.5), ((0, 15), 0.0), ((-128, 127), 0.0)):
            errors = []
            for index in range(80):
                factor = 1 - index / 100
                if divisor:
                    largest = max(-histogram.low, histogram.high)
                    low, high = -largest * factor, largest * factor
                    step, zero = high / divisor, 0.0
                else:
                    low, high = min(histogram.low, 0) * factor, max(histogram.high, 0) * factor
                    step = (high - low) / (codes[1] - codes[0])
                    zero = np.clip(codes[0] - np.rint(low / step), *codes)
                quantized = np.clip(np.rint(middles / step) + zero, *codes)
                error = np.abs(middles - step * (quantized - zero)) ** norm
                errors.append((float(histogram.counts @ error) / values.size, low, high))
            best = min(errors, key=lambda entry: entry[0])
            mine = histogram.least_error(norm, codes, divisor)
            assert mine.score == pytest.approx(best[0], rel=1e-12), name
            near = [e for e in errors if e[0] <= best[0] * (1 + 1e-12)]
            assert any((mine.low, mine.high) == (np.float32(e[1]), np.float32(e[2])) for e in near), name


def test_least_error_of_a_normal_distribution(generator: np.random.Generator) -> None:
    """Close to the analytic optimum: ACIQ's 2.56 sigma."""
    observer = Observer(bins=4096)
    observer.push(generator.standard_normal((1000, 1000)).astype(np.float32))
    found = observer.histogram().least_error(2.0, (-8, 7), 8.0, steps=400, tried=300)
    assert found.high == pytest.approx(int4q.aciq_clip(Distribution.GAUSS)[0], abs=0.25)


# ---- Analytic clipping ---------------------------------------------------------------------------------------------


def expected_error(distribution: Distribution, bits: int, clip: float) -> float:
    """Banner et al., equations 9 and 12."""
    rounding = clip**2 / (3 * 4**bits)
    if distribution == Distribution.LAPLACE:
        return 2 * math.exp(-clip) + rounding
    tail = (1 + clip**2) * math.erfc(clip / math.sqrt(2))
    return tail - math.sqrt(2 / math.pi) * clip * math.exp(-(clip**2) / 2) + rounding


@pytest.mark.parametrize("distribution", list(Distribution), ids=lambda d: d.name)
def test_aciq(distribution: Distribution) -> None:
    for bits in range(1, 17):
        clip, error = int4q.aciq_clip(distribution, bits)
        assert error == pytest.approx(expected_error(distribution, bits, clip), rel=1e-9)
        for step in (1e-3, 1e-2, 0.3):
            assert error < expected_error(distribution, bits, clip + step)
            assert error < expected_error(distribution, bits, clip - step)
        scaled = int4q.aciq_clip(distribution, bits, 0.25)
        assert scaled == pytest.approx((0.25 * clip, 0.0625 * error))
    assert int4q.aciq_clip(distribution, 4, 0.0) == (0, 0)


def test_aciq_constants() -> None:
    laplace, gauss = int4q.aciq_clip(Distribution.LAPLACE), int4q.aciq_clip(Distribution.GAUSS)
    assert [round(value, 2) for value in (laplace[0], gauss[0])] == [5.03, 2.56]
    assert (round(laplace[1], 5), round(gauss[1], 5)) == (0.04602, 0.01049)


def test_aciq_expected_error_is_what_quantizing_gives(generator: np.random.Generator) -> None:
    for distribution, values in (
        (Distribution.LAPLACE, generator.laplace(size=1_000_000)),
        (Distribution.GAUSS, generator.standard_normal(1_000_000)),
    ):
        clip, error = int4q.aciq_clip(distribution)
        step = 2 * clip / 16
        middles = (np.clip(np.floor(np.clip(values, -clip, clip) / step), -8, 7) + 0.5) * step
        assert np.mean((values - middles) ** 2) == pytest.approx(error, rel=0.12)


def test_bits_are_shared_out(generator: np.random.Generator) -> None:
    for count in (1, 2, 7, 300):
        clips = np.exp(generator.standard_normal(count))
        for mean in (0.0, 2.5, 4.0, 8.0):
            bits = int4q.aciq_share_bits(clips, mean)
            total = int(mean * count + 1e-9)
            assert bits.sum() == total
            assert bits.min() >= 0 and bits.max() <= 8
            order = np.argsort(clips, kind="stable")
            assert np.all(np.diff(bits[order]) >= 0)
            # One shift makes all of them, up to channels that are about to get one more.
            wanted = 2 / 3 * np.log2(clips)
            inner = (bits > 0) & (bits < 8)
            if inner.any():
                offsets = bits[inner] - wanted[inner]
                assert np.ptp(offsets) <= 1 + 1e-9
    np.testing.assert_array_equal(int4q.aciq_share_bits([1.0] * 4, 2.5), [3, 3, 2, 2])
    np.testing.assert_array_equal(int4q.aciq_share_bits([0.0, 1.0, 8.0], 3, lowest=1), [1, 3, 5])
    np.testing.assert_array_equal(int4q.aciq_share_bits([0.0, 0.0], 8), [0, 0])
    for bad in ([np.nan], [-1.0], [np.inf]):
        with pytest.raises(int4q.InvalidArgumentError, match="clips"):
            int4q.aciq_share_bits(bad)
    with pytest.raises(int4q.InvalidArgumentError, match="total"):
        int4q.aciq_share_bits([1.0], 0.5, lowest=1)


# ---- Diagnosis -----------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(generator: np.random.Generator) -> np.ndarray:
    return (generator.standard_normal((37, 200)) * 0.05 + 0.01).astype(np.float32)


def test_outliers_by_z_score(weights: np.ndarray) -> None:
    exact = weights.astype(np.float64)
    for z in (0.0, 1.0, 2.5, 6.0):
        fit = int4q.fit_outliers_z(weights, z)
        is_outlier = np.abs(exact - exact.mean()) > z * exact.std()
        assert fit.limit == pytest.approx(z * exact.std(), rel=1e-12)
        _, sparse = int4q.split_outliers(weights, fit)
        if z > 0:
            np.testing.assert_array_equal(sparse.dense() != 0, is_outlier)


@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
def test_largest_elements(element_type: int4q.Type, generator: np.random.Generator) -> None:
    values = generator.integers(-50, 50, (23, 310)) * 0.25  # many of equal magnitude
    typed = in_type(values.astype(np.float32), element_type)
    flat = np.abs(values).reshape(-1)
    order = np.argsort(-flat, kind="stable")
    for count in (1, 2, 16, 1000, 23 * 310, 10_000):
        found = int4q.find_largest(typed, count, element_type=element_type)
        chosen = order[:count]
        np.testing.assert_array_equal(found["row"] * 310 + found["column"], chosen)
        np.testing.assert_array_equal(found["value"], values.reshape(-1)[chosen])
    with pytest.raises(int4q.NotFiniteError, match="row 1, column 2"):
        values[1, 2] = np.nan
        int4q.find_largest(values.astype(np.float32), 3)


@pytest.mark.parametrize("name", list(four_kinds()))
def test_code_report(weights: np.ndarray, name: str) -> None:
    weights[3] = 0
    weights[5, 32:64] = 0.125
    tensor = int4q.quantize(weights, four_kinds()[name])
    codes = tensor.code_matrix()
    report = int4q.diagnose_codes(tensor, 1e-5)
    counts = np.bincount(codes.reshape(-1), minlength=16)
    np.testing.assert_array_equal(report.code_counts, counts)
    groups = [codes[i, j : j + 32] for i in range(37) for j in range(0, 200, 32)]
    assert report.groups == len(groups) == tensor.scales.size
    assert report.groups_of_one_code == sum(np.ptp(group) == 0 for group in groups) >= 8
    assert report.rows_of_one_code == sum(np.ptp(row) == 0 for row in codes) == 1
    assert report.groups_at_floor == (np.abs(as_float32(tensor.scales)) <= np.float32(1e-5)).sum() >= 7
    assert report.most_used_code == counts.argmax()
    assert report.most_used_share == counts.max() / counts.sum()
    assert report.end_share == (counts[0] + counts[15]) / counts.sum()


@pytest.mark.parametrize("name", list(four_kinds()))
@pytest.mark.parametrize("group_size", [32, int4q.PER_ROW])
def test_error_report(weights: np.ndarray, name: str, group_size: int) -> None:
    tensor = int4q.quantize(weights, four_kinds(group_size)[name])
    report = int4q.diagnose_errors(tensor, weights, threads=2)
    error = (weights.astype(np.float64) - tensor.dequantize().astype(np.float64)) ** 2
    square = weights.astype(np.float64) ** 2
    starts = np.arange(0, 200, 32 if group_size == 32 else 200)
    np.testing.assert_allclose(report.group_errors, np.add.reduceat(error, starts, axis=1), rtol=1e-12)
    np.testing.assert_allclose(report.group_squares, np.add.reduceat(square, starts, axis=1), rtol=1e-12)
    np.testing.assert_allclose(report.row_errors, error.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(report.row_squares, square.sum(axis=1), rtol=1e-12)


# ---- Repair --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(four_kinds()))
def test_bias_correction(weights: np.ndarray, name: str) -> None:
    tensor = int4q.quantize(weights, four_kinds(scale_type=int4q.Type.F32)[name])
    before = tensor.dequantize().astype(np.float64)
    exact = weights.astype(np.float64)
    shifts, ratios = int4q.measure_bias(tensor, weights, threads=2)
    np.testing.assert_allclose(ratios, exact.std(axis=1) / before.std(axis=1), rtol=1e-11)
    repaired = ratios[:, None] * (before + shifts[:, None])
    np.testing.assert_allclose(repaired.mean(axis=1), exact.mean(axis=1), atol=1e-14)
    np.testing.assert_allclose(repaired.std(axis=1), exact.std(axis=1), rtol=1e-12)
    int4q.correct_bias(tensor, weights)
    after = exact_weights(tensor)
    np.testing.assert_allclose(after.std(axis=1), exact.std(axis=1), rtol=1e-5)
    if name == "offset":
        np.testing.assert_allclose(after, repaired, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(after.mean(axis=1), exact.mean(axis=1), atol=1e-7)
    else:
        np.testing.assert_allclose(after, ratios[:, None] * before, rtol=1e-5, atol=1e-7)


def test_bias_of_constant_rows() -> None:
    weights = np.zeros((2, 64), np.float32)
    weights[1] = 0.5
    tensor = int4q.quantize(weights, int4q.Scheme.offset(32, scale_type=int4q.Type.F32))
    shifts, ratios = int4q.correct_bias(tensor, weights)
    np.testing.assert_array_equal(ratios, [1, 1])
    np.testing.assert_array_equal(tensor.dequantize(), weights)
    assert np.all(shifts == 0)


def test_output_bias(weights: np.ndarray, generator: np.random.Generator) -> None:
    """The corrected layer's mean output over the samples is the original's."""
    x = (generator.standard_normal((500, 200)) + generator.uniform(-1, 1, 200)).astype(np.float32)
    observer = Observer(Observe.MOMENTS, Axis.CHANNEL, 200)
    observer.push(x)
    statistics = observer.statistics()
    means = statistics["sum"] / statistics["count"]
    tensor = int4q.quantize(weights, int4q.Scheme.symmetric(64))
    bias = int4q.output_bias(tensor, weights, means, threads=2)
    exact, quantized = weights.astype(np.float64), tensor.dequantize().astype(np.float64)
    np.testing.assert_allclose(bias, (exact - quantized) @ means, rtol=1e-10, atol=1e-12)
    difference = (x @ exact.T).mean(axis=0) - ((x @ quantized.T) + bias).mean(axis=0)
    assert np.abs(difference).max() < 1e-6 < np.abs(bias).max()
    with pytest.raises(ValueError, match="x_means"):
        int4q.output_bias(tensor, weights, means[:-1])
    means[3] = np.nan
    with pytest.raises(int4q.NotFiniteError, match="index 3"):
        int4q.output_bias(tensor, weights, means)
