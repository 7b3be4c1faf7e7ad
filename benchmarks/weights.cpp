// SPDX-License-Identifier: Apache-2.0
#include "weights.hpp"

#include "check.hpp"
#include "random_floats.hpp"

namespace int4q_bench {
namespace {

int4q_tensor_layout LayoutOf(const MatrixShape &shape) {
    const int4q_scheme scheme = SchemeOf(shape);
    int4q_tensor_layout layout = {};
    layout.struct_size = sizeof layout;
    Check(int4q_tensor_sizes(&scheme, shape.n, shape.k, &layout));
    return layout;
}

}  // namespace

int4q_scheme SchemeOf(const MatrixShape &shape) {
    int4q_scheme scheme = {};
    scheme.kind = INT4Q_KIND_SYMMETRIC;
    scheme.group_size = shape.group_size;
    scheme.scale_type = INT4Q_TYPE_F16;
    return scheme;
}

size_t TensorBytes(const MatrixShape &shape) {
    const int4q_tensor_layout layout = LayoutOf(shape);
    return layout.codes_bytes + layout.scales_bytes;
}

int4q_tensor TensorIn(uint8_t *memory, const MatrixShape &shape) {
    const int4q_tensor_layout layout = LayoutOf(shape);
    int4q_tensor tensor = {};
    tensor.struct_size = sizeof tensor;
    tensor.scheme = SchemeOf(shape);
    tensor.n = shape.n;
    tensor.k = shape.k;
    tensor.codes = memory;
    tensor.codes_bytes = layout.codes_bytes;
    tensor.scales = memory + layout.codes_bytes;
    tensor.scales_bytes = layout.scales_bytes;
    return tensor;
}

void Quantize(const int4q_tensor &tensor, const std::vector<float> &source) {
    Check(int4q_quantize_rows(&tensor, source.data(), INT4Q_TYPE_F32, tensor.k, 0, tensor.n));
}

void Pack(const int4q_tensor &tensor, const Buffer &blob) {
    Check(int4q_pack_rows(&tensor, blob.data(), blob.size(), 0, tensor.n));
}

void QuantizePack(const MatrixShape &shape, const std::vector<float> &source, const Buffer &blob, int64_t row_begin,
                  int64_t row_end) {
    const int4q_scheme scheme = SchemeOf(shape);
    Check(int4q_quantize_pack_rows(&scheme, shape.n, shape.k, nullptr, source.data(), INT4Q_TYPE_F32, shape.k,
                                   blob.data(), blob.size(), row_begin, row_end));
}

size_t BlobBytes(const MatrixShape &shape) {
    const int4q_scheme scheme = SchemeOf(shape);
    uint64_t bytes = 0;
    Check(int4q_blob_size(&scheme, shape.n, shape.k, &bytes));
    return bytes;
}

Buffer MakeTensor(const MatrixShape &shape) {
    Buffer memory(TensorBytes(shape));
    Quantize(TensorIn(memory.data(), shape), RandomFloats(shape.n * shape.k));
    return memory;
}

Buffer MakeBlob(const MatrixShape &shape) {
    Buffer blob(BlobBytes(shape));
    QuantizePack(shape, RandomFloats(shape.n * shape.k), blob, 0, shape.n);
    return blob;
}

}  // namespace int4q_bench
