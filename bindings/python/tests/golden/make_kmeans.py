"""Writes kmeans.npz: what scikit-learn's KMeans makes of a few matrices, from given first centres, by Lloyd's iteration.

Needs scikit-learn. Run it again only to change the matrices: the file is committed, and tests read it where the package is
missing. `python make_kmeans.py --check` compares the file with what the installed package says.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys

import numpy as np

NPZ_PATH = pathlib.Path(__file__).resolve().parent / "kmeans.npz"


def has_sklearn() -> bool:
    return importlib.util.find_spec("sklearn") is not None


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """float32 features and rows that are the first centres."""
    generator = np.random.default_rng(7)
    blobs = generator.standard_normal((6, 12))[generator.integers(0, 6, 300)] * 3 + generator.standard_normal((300, 12))
    noise = generator.standard_normal((400, 24))
    # Rows 0 and 1 are equal, and so are two of the first centres: a cluster is empty at first.
    twins = generator.standard_normal((150, 8))
    twins[1] = twins[0]
    return {
        "blobs": (blobs.astype(np.float32), generator.choice(300, 6, replace=False)),
        "noise": (noise.astype(np.float32), generator.choice(400, 9, replace=False)),
        "far": ((noise[:200] + 1000).astype(np.float32), generator.choice(200, 5, replace=False)),
        "twins": (twins.astype(np.float32), np.array([0, 1, 40, 90])),
    }


def results(features: np.ndarray, initial: np.ndarray) -> dict[str, np.ndarray]:
    from sklearn.cluster import KMeans

    rows = features.astype(np.float64)
    model = KMeans(len(initial), init=rows[initial], n_init=1, algorithm="lloyd", tol=0, max_iter=300).fit(rows)
    return {
        "labels": model.labels_.astype(np.int32),
        "inertia": np.float64(model.inertia_),
        "centers": model.cluster_centers_,
    }


def arrays() -> dict[str, np.ndarray]:
    made: dict[str, np.ndarray] = {}
    for name, (features, initial) in cases().items():
        made |= {f"{name}_features": features, f"{name}_initial": initial}
        made |= {f"{name}_{part}": value for part, value in results(features, initial).items()}
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    made = arrays()
    if not parser.parse_args().check:
        np.savez_compressed(NPZ_PATH, **made)
        return 0
    stored = np.load(NPZ_PATH)
    different = [name for name in made if not np.allclose(made[name], stored[name], rtol=1e-9, atol=0)]
    print(f"different: {different}" if different else "the same")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
