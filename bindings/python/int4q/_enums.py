"""The library's enumerators, by the names of its header without their prefixes."""

from __future__ import annotations

import enum

PER_ROW = -1
"""As a group size: one group for the whole row."""


class Isa(enum.IntEnum):
    """Instruction sets."""

    PORTABLE = 0
    AVX2 = 100
    AVXVNNI = 150
    AVX512VNNI = 200
    AVX512BF16 = 250
    AMX = 300


class Type(enum.IntEnum):
    """Element types."""

    F32 = 1
    F16 = 2
    BF16 = 3


class Kind(enum.IntEnum):
    """What a code means."""

    SYMMETRIC = 1
    ASYMMETRIC = 2
    OFFSET = 3
    CODEBOOK = 4
    BINARY = 5
    TERNARY = 6


class ScaleRule(enum.IntEnum):
    """How a scale comes from its group: four rules for symmetric schemes, ONE for codebooks; GIVEN: it is the caller's."""

    DEFAULT = 0
    AMAX_7 = 1
    AMAX_7_5 = 2
    SIGNED_MAX_8 = 3
    ONE = 4
    POWER_OF_TWO = 5
    GIVEN = 6


class CodeRange(enum.IntEnum):
    """Which codes a symmetric scheme uses: -8..7 or -7..7."""

    FULL = 0
    RESTRICTED = 1


class Rounding(enum.IntEnum):
    """How codes are rounded. NEAREST_LOG, nearest in logarithm, is for codebooks; GGML and MLX do what those projects do."""

    NEAREST_EVEN = 0
    GGML = 1
    NEAREST_LOG = 2
    MLX = 3


class CodebookScope(enum.IntEnum):
    """Whose a codebook's 16 values are: the tensor's, or each row has its own."""

    TENSOR = 0
    ROW = 1


class Codebook(enum.IntEnum):
    """Codebooks that have a name."""

    NF4 = 1
    FP4_E2M1 = 2
    FP4_BITSANDBYTES = 3
    FP4_RADIX4 = 4
    POWERS_OF_TWO = 5
    IQ4_NL = 6
    SEVEN_POWERS_OF_TWO = 7


class NibbleOrder(enum.IntEnum):
    """Where two 4-bit integers stand in a byte."""

    LOW_FIRST = 0
    HIGH_FIRST = 1
    SPLIT_HALF = 2


class Int4Method(enum.IntEnum):
    """How the one scale of `quantize_int4` is found."""

    MINMAX = 0
    ABSMAX = 1


class Mode(enum.IntEnum):
    """How a product is computed."""

    F32 = 1
    INT8 = 2
    BF16 = 3
    BINARY = 4


class Activation(enum.IntEnum):
    """What a product applies to its results after the bias."""

    NONE = 0
    RELU = 1
    GELU_ERF = 2
    GELU_TANH = 3
    SILU = 4


class Bound(enum.IntEnum):
    """How sure an error bound is: never exceeded, or in fewer than one of 10^12 results and much tighter."""

    WORST_CASE = 0
    PROBABLE = 1


class Format(enum.IntEnum):
    """Block formats: ggml's 4-bit types."""

    Q4_0 = 1
    Q4_1 = 2
    Q4_K = 3
    IQ4_NL = 4
    MXFP4 = 5
    NVFP4 = 6


class Search(enum.IntEnum):
    """How a block format's scales are found: as ggml does, or for the smallest error."""

    REFERENCE = 0
    BEST = 1


class MatmulFlag(enum.IntFlag):
    """Flags of a product's description."""

    GATED = 1
    STATIC_SCALES = 2


class PartFlag(enum.IntFlag):
    """What a blob carries beside its codes."""

    PERMUTATION = 1
    ROTATION = 2
    SPARSE = 4
    LOW_RANK = 8


class LowRankForm(enum.IntEnum):
    """How the first factor of a low-rank part lies in memory: row by row, or 16 rows side by side."""

    ROWS = 0
    BLOCKS = 1


class DoubleRule(enum.IntEnum):
    """How scales of scales get their codes: the nearest value, or what bitsandbytes does on a CPU."""

    NEAREST = 0
    BITSANDBYTES = 1


class TwinKind(enum.IntEnum):
    """What two ranges of 4-bit activations are for."""

    SOFTMAX = 1
    GELU = 2


class TwinChoice(enum.IntEnum):
    """Which of two ranges a value after softmax takes: by the first one's end, or the one that comes nearer."""

    THRESHOLD = 0
    ERROR = 1


class TwinSteps(enum.IntEnum):
    """Which steps a search for ranges after GELU tries: a hundred even ones, or powers of two."""

    EVEN = 0
    POWER = 1


class Axis(enum.IntEnum):
    """Which elements of x[rows][columns] share an observer's statistics."""

    TENSOR = 1
    CHANNEL = 2
    TOKEN = 3
    GROUP = 4


class Observe(enum.IntFlag):
    """What an observer keeps besides counts, least and largest values."""

    EXTREMES = 0
    MOMENTS = 1
    HISTOGRAM = 2
    AVERAGE = 4


class HistogramForm(enum.IntEnum):
    """A histogram of values around zero, or of their magnitudes."""

    SIGNED = 1
    MAGNITUDES = 2


class Distribution(enum.IntEnum):
    """What analytic clipping takes values to be distributed like."""

    LAPLACE = 1
    GAUSS = 2


class CodesType(enum.IntEnum):
    """What requantized sums become: bytes, nibbles (two to a byte, the low one first) or int32."""

    INT8 = 1
    UINT8 = 2
    INT4 = 3
    UINT4 = 4
    INT32 = 5
class GptqOrder(enum.IntEnum):
    """The order in which GPTQ rounds columns; the tensor's stay where they are."""

    COLUMNS = 0
    ACTIVATIONS = 1
    WITHIN_GROUPS = 2


class GptqFlag(enum.IntFlag):
    """What else GPTQ may be asked to do."""

    STATIC_GROUPS = 1
    CLEAR_DEAD_CHANNELS = 2
    MEASURE_NEAREST = 4


class DescentFlag(enum.IntFlag):
    """What else coordinate descent may be asked to do."""

    REFIT_SCALES = 1


class LowRankFlag(enum.IntFlag):
    """What else fitting a low-rank matrix may be asked to do."""

    SKIP_LOSS = 1


class LearningMethod(enum.IntEnum):
    """How rounding is learned."""

    AUTOROUND = 0
    ADAROUND = 1


class ReassemblyFlag(enum.IntFlag):
    """What else planning a reassembly of channels may be asked to do."""

    WIDEN = 1
