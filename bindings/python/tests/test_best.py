"""The best of all methods, and the searches of other papers, against float64 re-derivations of what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import reconstruction_reference as methods
import reference
from conftest import as_float32, available_isas, exact_weights, four_kinds, in_type
from test_allocation import blob_bytes, rounded
from test_reconstruction import activations, gram_of, weights_of

import int4q
from int4q import Method


def values_of(tensor: int4q.QuantizedTensor) -> np.ndarray:
    """float64[n][k] from the tensor's codes and scales; what the reference does not know as float32 values."""
    if tensor.scheme.bits != 4 or tensor.scheme.codebook_scope == int4q.CodebookScope.ROW:
        return tensor.dequantize().astype(np.float64)
    return exact_weights(tensor)


def losses_of(tensor: int4q.QuantizedTensor, weights: np.ndarray, gram: int4q.GramMatrix) -> np.ndarray:
    return methods.losses(weights.astype(np.float64) - values_of(tensor), gram.matrix()) / gram.rows


def bits_of(scheme: int4q.Scheme, n: int, k: int) -> float:
    groups, scale_bits = scheme.groups_per_row(k), 32 if scheme.scale_type == int4q.Type.F32 else 16
    extra = {int4q.Kind.ASYMMETRIC: 8, int4q.Kind.OFFSET: scale_bits}.get(scheme.kind, 0)
    codebooks = 512 if scheme.codebook_scope == int4q.CodebookScope.ROW else 0
    return (8 * scheme.code_row_bytes(k) + groups * (scale_bits + extra) + codebooks) / k


def mixed_schemes(rows: int, weights: np.ndarray) -> list[int4q.Scheme]:
    return [
        *four_kinds(32).values(),
        int4q.Scheme.asymmetric(int4q.PER_ROW, scale_type=int4q.Type.F32),
        int4q.Scheme.mlx(64),
        int4q.Scheme.ggml_q4_0(),
        int4q.Scheme.symmetric(128, bits=8),
        int4q.Scheme.binary(32),
        int4q.Scheme.ternary(64),
        int4q.Scheme.gobo(int4q.fit_codebook(weights).values),
        int4q.Scheme.codebook(int4q.fit_row_codebooks(weights).values, 32),
    ]


@pytest.mark.parametrize("n,k", [(1, 1), (3, 37), (40, 96), (21, 300)])
@pytest.mark.parametrize("bits", [0, 2.5, 4.3, 5.0])
def test_best_keeps_its_promises(n: int, k: int, bits: float, generator: np.random.Generator) -> None:
    weights, gram = weights_of(generator, n, k), gram_of(activations(generator, 2 * k + 9, k))
    schemes = mixed_schemes(n, weights)
    allowed = [scheme for scheme in schemes if not bits or bits_of(scheme, n, k) <= bits]
    if not allowed:
        with pytest.raises(int4q.InvalidArgumentError, match="options.most_bits"):
            int4q.quantize_best(weights, gram, bits, schemes=schemes)
        return
    best = int4q.quantize_best(weights, gram, bits, schemes=schemes)
    assert best.tensor.scheme in allowed and best.scales is None and not best.cut_short
    assert best.bytes == blob_bytes(best.tensor.scheme, n, k)
    found = losses_of(best.tensor, weights, gram)
    assert best.loss == pytest.approx(found.sum(), rel=1e-6, abs=1e-30)

    nearest = [methods.losses(weights - values_of_nearest(weights, scheme), gram.matrix()).sum() / gram.rows for scheme in allowed]
    assert best.nearest_loss == pytest.approx(min(nearest), rel=1e-4, abs=1e-30)
    assert best.loss <= best.nearest_loss
    tried = [trial.scheme for trial in best.trials if trial.method == Method.NEAREST]
    assert tried == allowed
    assert best.loss <= min(trial.loss for trial in best.trials)
    for trial, loss in zip(best.trials, nearest):
        assert trial.loss == pytest.approx(loss, rel=1e-4, abs=1e-30) and trial.bytes == blob_bytes(trial.scheme, n, k)


def values_of_nearest(weights: np.ndarray, scheme: int4q.Scheme) -> np.ndarray:
    if scheme.codebook_scope == int4q.CodebookScope.ROW or scheme.scale_rule == int4q.ScaleRule.ONE:
        return values_of(int4q.quantize(weights, scheme))
    return rounded(weights, scheme)


def test_best_trials_are_what_the_methods_leave(generator: np.random.Generator) -> None:
    n, k = 35, 130
    weights, gram = weights_of(generator, n, k), gram_of(activations(generator, 300, k))
    weights[:, 5] *= 5
    scheme = int4q.Scheme.offset(32)
    best = int4q.quantize_best(weights, gram, schemes=[scheme])
    found = {trial.method: trial.loss for trial in best.trials}
    assert list(found) == list(Method) and len(best.trials) == len(Method)

    def gptq(chosen: int4q.Scheme, order: int4q.GptqOrder, **options: object) -> int4q.QuantizedTensor:
        return int4q.gptq(weights, gram, chosen, order=order, damping=0.01, **options)[0]

    _, clipped = int4q.awq_clips(weights, gram, scheme)
    alone = {
        Method.NEAREST: int4q.quantize(weights, scheme),
        Method.GPTQ: gptq(scheme, int4q.GptqOrder.COLUMNS),
        Method.GPTQ_WITHIN_GROUPS: gptq(scheme, int4q.GptqOrder.WITHIN_GROUPS),
        Method.GPTQ_ACTIVATIONS: gptq(scheme, int4q.GptqOrder.ACTIVATIONS, static_groups=True),
        Method.CLIP: int4q.quantize(clipped, scheme),
        Method.HQQ: int4q.hqq(weights, scheme),
    }
    rows = np.full(n, np.inf)
    for method, tensor in alone.items():
        own = losses_of(tensor, weights, gram)
        rows = np.minimum(rows, own)
        assert found[method] == pytest.approx(own.sum(), rel=1e-6), method
    evolved = int4q.quantize(clipped, scheme)
    int4q.search_scales(evolved, weights, gram, rounds=20)
    int4q.gram_descend(evolved, weights, gram, refit_scales=True)
    assert found[Method.SEARCH] == pytest.approx(losses_of(evolved, weights, gram).sum(), rel=1e-6)
    rows = np.minimum(rows, losses_of(evolved, weights, gram))
    # Descent starts from the best of all these, and CLIP_GPTQ is among them.
    assert found[Method.CLIP_GPTQ] < found[Method.CLIP]
    assert found[Method.DESCENT] < min(rows.sum(), found[Method.CLIP_GPTQ])
    assert best.loss == found[Method.DESCENT]


def test_best_takes_each_row_from_the_method_that_serves_it(generator: np.random.Generator) -> None:
    weights, gram = weights_of(generator, 40, 96), gram_of(generator.standard_normal((300, 96)).astype(np.float32))
    weights[::2, 7] *= 6
    scheme = int4q.Scheme.asymmetric(32)
    best = int4q.quantize_best(weights, gram, schemes=[scheme], methods=[Method.GPTQ, Method.CLIP])
    assert [trial.method for trial in best.trials] == [Method.NEAREST, Method.GPTQ, Method.CLIP]
    alone = [
        int4q.quantize(weights, scheme),
        int4q.gptq(weights, gram, scheme)[0],
        int4q.quantize(int4q.awq_clips(weights, gram, scheme)[1], scheme),
    ]
    every = np.array([losses_of(tensor, weights, gram) for tensor in alone])
    np.testing.assert_allclose(losses_of(best.tensor, weights, gram), every.min(axis=0), rtol=1e-9)
    assert best.loss < every.sum(axis=1).min() and len(set(every.argmin(axis=0))) > 1


def test_best_is_the_same_everywhere(generator: np.random.Generator) -> None:
    weights, gram = weights_of(generator, 70, 160), gram_of(activations(generator, 300, 160))

    def bytes_of(**options: object) -> tuple[object, ...]:
        best = int4q.quantize_best(weights, gram, 4.3, with_scales=True, **options)
        scales = b"" if best.scales is None else best.scales.tobytes()
        trials = tuple((t.scheme, t.method, t.loss, t.scaled) for t in best.trials)
        return best.tensor.scheme, best.tensor.codes.tobytes(), best.tensor.scales.tobytes(), best.loss, scales, trials

    expected = bytes_of()
    with int4q.Pool(3) as pool:
        assert bytes_of(pool=pool) == expected
    for isa in available_isas():
        with int4q.set_isa_limit(isa):
            assert bytes_of() == expected, isa


@pytest.mark.parametrize("element_type", list(int4q.Type), ids=lambda t: t.name)
def test_best_with_awq_scales(element_type: int4q.Type, generator: np.random.Generator) -> None:
    """Channels of very unequal size gain by scales; the loss is that of the layer whose x is divided."""
    x = activations(generator, 300, 96) * np.exp(1.5 * generator.standard_normal(96)).astype(np.float32)
    weights, gram = in_type(weights_of(generator, 40, 96), element_type), gram_of(x)
    schemes = [int4q.Scheme.symmetric(32), int4q.Scheme.asymmetric(96 // 3)]
    plain = int4q.quantize_best(weights, gram, schemes=schemes, element_type=element_type)
    best = int4q.quantize_best(weights, gram, schemes=schemes, with_scales=True, element_type=element_type)
    assert best.loss <= plain.loss and best.trials[: len(plain.trials)] is not None
    assert [t.loss for t in best.trials if not t.scaled] == [t.loss for t in plain.trials]
    assert best.scales is not None and (best.scales > 0).all() and any(t.scaled for t in best.trials)
    values = exact_weights(best.tensor) / best.scales
    found = methods.losses(as_float32(weights) - values, gram.matrix()).sum() / gram.rows
    assert best.loss == pytest.approx(found, rel=1e-5)


def test_best_may_find_scales_useless(generator: np.random.Generator) -> None:
    weights, gram = np.ones((4, 32), np.float32), gram_of(activations(generator, 100, 32))
    best = int4q.quantize_best(weights, gram, schemes=[int4q.Scheme.symmetric(32, scale_type=int4q.Type.F32)], with_scales=True)
    assert best.scales is None and best.loss == 0 and np.array_equal(best.tensor.dequantize(), weights)


def test_best_within_bytes_and_time(generator: np.random.Generator) -> None:
    weights, gram = weights_of(generator, 64, 256), gram_of(activations(generator, 400, 256))
    usual = int4q.usual_schemes()
    sizes = sorted({blob_bytes(scheme, 64, 256) for scheme in usual})
    last = np.inf
    for size in sizes[::4]:
        best = int4q.quantize_best(weights, gram, max_bytes=size, methods=[Method.GPTQ])
        assert best.bytes <= size and best.loss <= last and best.tensor.scheme in usual
        last = best.loss
    with pytest.raises(int4q.InvalidArgumentError, match=f"options.most_bytes is {sizes[0] - 1}; expected at least {sizes[0]}"):
        int4q.quantize_best(weights, gram, max_bytes=sizes[0] - 1)
    hurried = int4q.quantize_best(weights, gram, seconds=1e-9)
    assert hurried.cut_short and len(hurried.trials) == 1 and hurried.loss == hurried.trials[0].loss
    assert not int4q.quantize_best(weights, gram, 4.2, seconds=1e9).cut_short


def test_best_progress(generator: np.random.Generator) -> None:
    weights, gram = weights_of(generator, 8, 64), gram_of(activations(generator, 100, 64))
    seen: list[tuple[int, int]] = []
    best = int4q.quantize_best(weights, gram, schemes=[int4q.Scheme.asymmetric(32)],
                               progress=lambda done, total: seen.append((done, total)))
    done, totals = zip(*seen)
    assert len(set(totals)) == 1 and list(done) == sorted(done) and done[-1] == totals[0] >= len(best.trials)
    with pytest.raises(int4q.CancelledError):
        int4q.quantize_best(weights, gram, progress=lambda done, _: done >= 3)


def test_best_refuses(generator: np.random.Generator) -> None:
    weights, gram = weights_of(generator, 8, 64), gram_of(activations(generator, 100, 64))
    for options, name in (
        ({"finalists": 0}, "finalists"), ({"sweeps": 0}, "sweeps"), ({"bits": -1}, "most_bits"), ({"bits": np.nan}, "most_bits"),
        ({"seconds": -1}, "seconds"), ({"seconds": np.inf}, "seconds"), ({"bits": 1.0}, "most_bits"),
    ):
        with pytest.raises(int4q.InvalidArgumentError, match=name):
            int4q.quantize_best(weights, gram, **options)
    with pytest.raises(int4q.MismatchError, match="gram"):
        int4q.quantize_best(weights[:, :60], gram)
    huge = weights.copy()
    huge[2, 3] = 1e10
    with pytest.raises(int4q.NotFiniteError, match="scale_type"):
        int4q.quantize_best(huge, gram)
    wide = int4q.Scheme.asymmetric(32, scale_type=int4q.Type.F32)
    best = int4q.quantize_best(huge, gram, schemes=[int4q.Scheme.asymmetric(32), wide])
    assert best.tensor.scheme == wide and np.isinf(best.trials[0].loss)
    huge[2, 3] = np.inf
    with pytest.raises(int4q.NotFiniteError, match="row 2, column 3"):
        int4q.quantize_best(huge, gram)


# ---- Searches of other papers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("k,group_size", [(64, 32), (100, 64), (77, int4q.PER_ROW)])
def test_search_clips(k: int, group_size: int, generator: np.random.Generator) -> None:
    gram, weights = gram_of(activations(generator, 2 * k + 10, k)), weights_of(generator, 21, k)
    shares = np.array([1.1, 1.0, 0.93, 0.85, 0.74, 0.6, 0.4], np.float32)
    for name, scheme in four_kinds(group_size).items():
        clips, clipped = int4q.search_clips(weights, gram, shares, scheme)
        size = methods.group_size(scheme, k)
        for group, begin in enumerate(range(0, k, size)):
            columns = slice(begin, min(begin + size, k))
            w = weights[:, columns]
            largest = np.abs(w).max(axis=1)
            every = []
            for share in shares:
                limit = (largest * share)[:, None]
                values = methods.quantized(np.clip(w, -limit, limit), scheme)
                every.append(methods.losses(w - values, gram.matrix()[columns, columns]))
            chosen = np.abs(largest * shares[:, None] - clips[:, group]).argmin(axis=0)
            assert np.array_equal((largest * shares[:, None])[chosen, np.arange(21)], clips[:, group]), name
            found, least = np.array(every)[chosen, np.arange(21)], np.min(every, axis=0)
            assert (found <= least * 1.2).all() and (found <= least * (1 + 1e-5)).mean() > 0.9, name
            assert np.array_equal(clipped[:, columns], np.clip(w, -clips[:, group, None], clips[:, group, None]))
    same = int4q.search_clips(weights, gram, [1 - i / 20 for i in range(10)], scheme)[0]
    assert np.array_equal(same, int4q.awq_clips(weights, gram, scheme)[0])
    for shares, name in (([], "count"), ([1, 0], "shares"), ([np.nan], "shares"), ([1, -1], "shares"), ([1] * 1001, "count")):
        with pytest.raises(int4q.InvalidArgumentError, match=name):
            int4q.search_clips(weights, gram, shares)


MASK = (1 << 64) - 1


def fraction(seed: int, row: int, rounds: int, group: int) -> float:
    """The first number of SplitMix64 in 0..1 for a group's turn."""
    state = seed + row * 0xD6E8FEB86659FD93 + rounds * 0xA0761D6478BD642F + group * 0xE7037ED1A0B428DB
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def errors_of(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """In binary32, where ties are decided."""
    return (weights - values.astype(np.float32)).astype(np.float64)


@pytest.mark.parametrize("name", ["symmetric-default-full", "asymmetric", "offset", "codebook"])
def test_search_scales(name: str, generator: np.random.Generator) -> None:
    n, k, size, rounds, reach, seed = 19, 75, 32, 6, 0.15, 12345
    scheme, gram = four_kinds(size)[name], gram_of(activations(generator, 200, k))
    weights, matrix = weights_of(generator, n, k), gram.matrix()
    tensor = int4q.quantize(weights, scheme)
    scales = as_float32(tensor.scales).copy()
    offsets = as_float32(tensor.offsets) if tensor.offsets is not None else np.zeros_like(scales)
    zeros = tensor.zero_points if tensor.zero_points is not None else np.zeros(scales.shape, np.uint8)
    values, start = exact_weights(tensor), losses_of(tensor, weights, gram)
    accepted = 0
    for row in range(n):
        for turn in range(rounds):
            for group, begin in enumerate(range(0, k, size)):
                columns = slice(begin, min(begin + size, k))
                old, had = scales[row, group], values[row, columns].copy()
                factor = 1 + reach * (2 * fraction(seed, row, turn, group) - 1)
                before = errors_of(weights[row], values[row])
                scales[row, group] = reference.rounded(np.float32(np.float64(old) * factor), reference.F16)
                levels = methods.levels(scheme, scales, zeros, offsets, row, group)
                distances = np.abs(errors_of(weights[row, columns, None], levels))
                values[row, columns] = levels[distances.argmin(axis=1)]
                after = errors_of(weights[row], values[row])
                if after @ matrix @ after < before @ matrix @ before * (1 - 1e-12):
                    accepted += 1
                else:
                    scales[row, group], values[row, columns] = old, had
    report = int4q.search_scales(tensor, weights, gram, rounds=rounds, reach=reach, seed=seed)
    expected = methods.losses(weights - values, matrix) / gram.rows
    assert report.accepted == accepted > n
    np.testing.assert_array_equal(as_float32(tensor.scales), scales)
    np.testing.assert_allclose(losses_of(tensor, weights, gram), expected, rtol=1e-5)
    assert report.loss == pytest.approx(expected.sum(), rel=1e-5) and report.start_loss == pytest.approx(start.sum(), rel=1e-6)
    assert (expected <= start).all()


def test_search_scales_is_the_same_everywhere(generator: np.random.Generator) -> None:
    weights, gram = weights_of(generator, 300, 256), gram_of(activations(generator, 400, 256))
    expected = None
    for threads in (1, 3):
        for isa in available_isas():
            with int4q.set_isa_limit(isa):
                tensor = int4q.quantize(weights, int4q.Scheme.symmetric(64))
                int4q.search_scales(tensor, weights, gram, rounds=2, threads=threads)
                found = tensor.codes.tobytes() + tensor.scales.tobytes()
                assert found == (expected or found)
                expected = found
    other = int4q.quantize(weights, int4q.Scheme.symmetric(64))
    int4q.search_scales(other, weights, gram, rounds=2, seed=1)
    assert other.scales.tobytes() != tensor.scales.tobytes()
    for options in ({"rounds": 0}, {"reach": 0.0}, {"reach": 1.0}, {"reach": np.nan}):
        with pytest.raises(int4q.InvalidArgumentError, match="search"):
            int4q.search_scales(tensor, weights, gram, **options)
    with pytest.raises(int4q.UnsupportedError, match="code_bits"):
        int4q.search_scales(int4q.quantize(weights, int4q.Scheme.symmetric(64, bits=8)), weights, gram)
    with pytest.raises(int4q.UnsupportedError, match="scale_rule"):
        fitted = int4q.Scheme.gobo(int4q.fit_codebook(weights).values)
        int4q.search_scales(int4q.quantize(weights, fitted), weights, gram)


def left_error(values: np.ndarray, candidates: np.ndarray, importance: np.ndarray) -> float:
    return float((importance * ((values[:, None] - candidates) ** 2).min(axis=1)).sum())


@pytest.mark.parametrize("kept", [1, 2, 5, 16])
def test_greedy_codebook(kept: int, generator: np.random.Generator) -> None:
    weights = generator.standard_normal((12, 40)).astype(np.float32)
    importance = np.exp(generator.standard_normal(40)).astype(np.float32)
    candidates = np.sort(generator.standard_normal(45)).astype(np.float32)
    for weigh in (None, importance):
        flat = weights.ravel().astype(np.float64)
        own = np.ones(flat.size) if weigh is None else np.tile(weigh.astype(np.float64), 12)
        left = list(candidates.astype(np.float64))
        while len(left) > kept:
            errors = [left_error(flat, np.array(left[:i] + left[i + 1 :]), own) for i in range(len(left))]
            left.pop(int(np.argmin(errors)))
        found = int4q.greedy_codebook(weights, candidates, weigh, kept=kept)
        assert found.values == tuple(left + [left[-1]] * (16 - kept))
        assert found.mse == pytest.approx(left_error(flat, np.array(left), own) / own.sum(), rel=1e-9)


def test_greedy_codebook_of_many_weights(generator: np.random.Generator) -> None:
    """More different weights than are kept one by one; candidates that INT8 mode has exactly."""
    weights = generator.standard_normal((300, 400)).astype(np.float32)
    candidates = np.arange(-127, 128).astype(np.float32) / 32
    greedy, best = int4q.greedy_codebook(weights, candidates), int4q.fit_codebook(weights)
    assert set(greedy.values) <= set(candidates.tolist()) and list(greedy.values) == sorted(greedy.values)
    error = np.min([(weights - value) ** 2 for value in np.array(greedy.values, np.float32)], axis=0).mean()
    assert greedy.mse == pytest.approx(error, rel=1e-4)
    assert best.mse <= greedy.mse < 1.3 * best.mse
    every = int4q.greedy_codebook(weights[:1, :10], np.arange(16.0))
    assert every.values == tuple(range(16))


def test_greedy_codebook_refuses() -> None:
    weights = np.ones((2, 3), np.float32)
    for candidates, kept, error, name in (
        ([1, 2], 3, int4q.InvalidArgumentError, "candidate_count"), ([1, 2], 0, int4q.InvalidArgumentError, "kept"),
        ([1, 2], 17, int4q.InvalidArgumentError, "kept"), ([2, 1], 1, int4q.InvalidArgumentError, "candidates"),
        ([1, np.nan], 1, int4q.NotFiniteError, "candidates"), ([0] * 4097, 1, int4q.InvalidArgumentError, "candidate_count"),
    ):
        with pytest.raises(error, match=name):
            int4q.greedy_codebook(weights, candidates, kept=kept)
    with pytest.raises(int4q.NotFiniteError, match="row 1, column 2"):
        int4q.greedy_codebook(np.array([[1, 2, 3], [4, 5, np.inf]]), [1.0], kept=1)
