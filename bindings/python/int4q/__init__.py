"""4-bit weight quantization and matrix products on packed 4-bit weights.

    weights --quantize--> QuantizedTensor --pack--> Blob --matmul(x)--> y

>>> import numpy, int4q
>>> weights = numpy.random.default_rng(0).standard_normal((64, 128), numpy.float32)
>>> blob = int4q.quantize(weights, int4q.Scheme.asymmetric(32)).pack()
>>> blob.matmul(numpy.ones((2, 128), numpy.float32)).shape
(2, 64)
"""

from ._blob import Blob, BlobInfo, Linear
from ._blocks import Blocks, format_scheme, quantize_blocks
from ._codebooks import (
    FittedCodebook,
    FittedRowCodebooks,
    codebook_values,
    fit_codebook,
    fit_row_codebooks,
    linear_bins,
)
from ._double import DoubleScales, dynamic_map
from ._enums import (
    PER_ROW,
    Activation,
    Bound,
    Codebook,
    CodebookScope,
    CodeRange,
    DoubleRule,
    Format,
    Int4Method,
    Isa,
    Kind,
    Mode,
    NibbleOrder,
    Rounding,
    ScaleRule,
    Search,
    TwinChoice,
    TwinKind,
    TwinSteps,
    Type,
)
from ._errors import (
    BlobVersionError,
    BufferTooSmallError,
    CorruptError,
    Int4QError,
    InvalidArgumentError,
    LibraryNotFoundError,
    MisalignedError,
    MismatchError,
    NotFiniteError,
    NullPointerError,
    OutOfMemoryError,
    SizeOverflowError,
    StructSizeError,
    ThreadError,
    UnsupportedError,
)
from ._experts import Experts
from ._isa import (
    IsaLimit,
    abi_version,
    isa_active,
    isa_detected,
    isa_name,
    library_path,
    library_version,
    set_isa_limit,
)
from ._matmul import MatmulPlan, describe_dispatch
from ._metrics import Metrics, compare
from ._nibbles import Int4Array, dequantize_int4, pack_nibbles, quantize_int4, unpack_nibbles
from ._operands import Steps
from ._outliers import OutlierFit, SparseMatrix, gobo_centroids, gobo_quantize, split_outliers
from ._pool import Pool
from ._scheme import Scheme
from ._tensor import QuantizedTensor, quantize
from ._twin import TwinRanges, TwinTensor, search_twin_ranges, twin_candidates, twin_errors

__version__ = "0.1.0"

__all__ = [
    "PER_ROW",
    "Activation",
    "Blob",
    "BlobInfo",
    "BlobVersionError",
    "Blocks",
    "Bound",
    "BufferTooSmallError",
    "CodeRange",
    "Codebook",
    "CodebookScope",
    "CorruptError",
    "DoubleRule",
    "DoubleScales",
    "Experts",
    "Format",
    "FittedCodebook",
    "FittedRowCodebooks",
    "Int4Array",
    "Int4Method",
    "Int4QError",
    "InvalidArgumentError",
    "Isa",
    "IsaLimit",
    "Kind",
    "LibraryNotFoundError",
    "Linear",
    "MatmulPlan",
    "Metrics",
    "MisalignedError",
    "MismatchError",
    "Mode",
    "NibbleOrder",
    "NotFiniteError",
    "NullPointerError",
    "OutOfMemoryError",
    "OutlierFit",
    "Pool",
    "QuantizedTensor",
    "Rounding",
    "ScaleRule",
    "Scheme",
    "Search",
    "SizeOverflowError",
    "SparseMatrix",
    "Steps",
    "StructSizeError",
    "ThreadError",
    "TwinChoice",
    "TwinKind",
    "TwinRanges",
    "TwinSteps",
    "TwinTensor",
    "Type",
    "UnsupportedError",
    "abi_version",
    "codebook_values",
    "compare",
    "dequantize_int4",
    "describe_dispatch",
    "dynamic_map",
    "format_scheme",
    "gobo_centroids",
    "gobo_quantize",
    "fit_codebook",
    "fit_row_codebooks",
    "isa_active",
    "isa_detected",
    "isa_name",
    "library_path",
    "library_version",
    "linear_bins",
    "pack_nibbles",
    "quantize",
    "quantize_blocks",
    "search_twin_ranges",
    "quantize_int4",
    "set_isa_limit",
    "split_outliers",
    "twin_candidates",
    "twin_errors",
    "unpack_nibbles",
]
