// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import Int4QCore

// Section 10 of the header.

// MARK: Observers

@c @implementation
public func int4q_observer_size(_ desc: UnsafePointer<int4q_observer_desc>?, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_observer_size") { () throws(Failure) in
        let layout = try ObserverLayout(try require(desc, "desc").pointee)
        try require(bytes, "bytes").pointee = layout.totalBytes
    }
}

@c @implementation
public func int4q_observer_init(_ desc: UnsafePointer<int4q_observer_desc>?, _ observer: UnsafeMutableRawPointer?,
                                _ observer_bytes: UInt64) -> int4q_status {
    attempt("int4q_observer_init") { () throws(Failure) in
        let layout = try ObserverLayout(try require(desc, "desc").pointee)
        let memory = try require(observer, "observer", alignment: Int(INT4Q_ALIGNMENT))
        try requireBytes(observer_bytes, needed: layout.totalBytes, "observer_bytes")
        _ = Observer(layout, in: memory)
    }
}

@c @implementation
public func int4q_observer_push(_ observer: UnsafeMutableRawPointer?, _ observer_bytes: UInt64, _ x: UnsafeRawPointer?,
                                _ x_type: int4q_type, _ rows: Int64, _ columns: Int64, _ ldx: Int64) -> int4q_status {
    attempt("int4q_observer_push") { () throws(Failure) in
        let observer = try Observer(observer, bytes: observer_bytes, .usual)
        try requireAtLeast(rows, 1, "rows")
        try requireAtLeast(columns, 1, "columns")
        let x = try Matrix(x, try ElementType(x_type, "x_type"), rows: rows, columns: columns, stride: ldx, .init("x", stride: "ldx"))
        try observer.push(x, rows: rows, try activeKernels())
    }
}

@c @implementation
public func int4q_observer_merge(_ into: UnsafeMutableRawPointer?, _ into_bytes: UInt64, _ from: UnsafeRawPointer?,
                                 _ from_bytes: UInt64) -> int4q_status {
    attempt("int4q_observer_merge") { () throws(Failure) in
        let target = try Observer(into, bytes: into_bytes, .init("into", "into_bytes"))
        let source = try Observer(from, bytes: from_bytes, .init("from", "from_bytes"))
        try target.validate("into")
        try source.validate("from")
        try target.merge(source)
    }
}

@c @implementation
public func int4q_observer_validate(_ observer: UnsafeRawPointer?, _ observer_bytes: UInt64) -> int4q_status {
    attempt("int4q_observer_validate") { () throws(Failure) in
        try Observer(observer, bytes: observer_bytes, .usual).validate("observer")
    }
}

@c @implementation
public func int4q_observer_get_info(_ observer: UnsafeRawPointer?, _ observer_bytes: UInt64,
                                    _ info: UnsafeMutablePointer<int4q_observer_info>?) -> int4q_status {
    attempt("int4q_observer_get_info") { () throws(Failure) in
        let observer = try Observer(observer, bytes: observer_bytes, .usual)
        let info = try require(info, "info")
        try requireStructSize(info.pointee.struct_size, of: int4q_observer_info.self, "info.struct_size")
        try requireZero(info.pointee.reserved, "info.reserved")
        observer.write(to: info)
    }
}

@c @implementation
public func int4q_observer_statistics(_ observer: UnsafeRawPointer?, _ observer_bytes: UInt64, _ slot_begin: Int64,
                                      _ slot_end: Int64, _ statistics: UnsafeMutablePointer<int4q_statistics>?) -> int4q_status {
    attempt("int4q_observer_statistics") { () throws(Failure) in
        let observer = try Observer(observer, bytes: observer_bytes, .usual)
        let statistics = try require(statistics, "statistics")
        try requireRange(slot_begin, slot_end, of: Int64(observer.layout.slots), "slot_begin", "slot_end")
        observer.write(slots: slot_begin..<slot_end, to: statistics)
    }
}

@c @implementation
public func int4q_observer_histogram(_ observer: UnsafeRawPointer?, _ observer_bytes: UInt64, _ slot: Int64, _ form: Int32,
                                     _ counts: UnsafeMutablePointer<Int64>?, _ capacity: Int64,
                                     _ histogram: UnsafeMutablePointer<int4q_histogram>?) -> int4q_status {
    attempt("int4q_observer_histogram") { () throws(Failure) in
        let copy = try HistogramCopy(try Observer(observer, bytes: observer_bytes, .usual), slot: slot, form: form)
        let counts = try require(counts, "counts")
        let histogram = try require(histogram, "histogram")
        try requireStructSize(histogram.pointee.struct_size, of: int4q_histogram.self, "histogram.struct_size")
        try requireZero(histogram.pointee.reserved, "histogram.reserved")
        try requireAtLeast(capacity, 0, "capacity")
        try requireBytes(UInt64(capacity), needed: UInt64(copy.bins), "capacity")
        copy.write(to: counts, histogram)
    }
}

// MARK: Ranges

@inline(never)
private func checked(_ histogram: UnsafePointer<int4q_histogram>?) throws(Failure) -> Histogram {
    try Histogram(try require(histogram, "histogram").pointee)
}

@c @implementation
public func int4q_range_percentile(_ histogram: UnsafePointer<int4q_histogram>?, _ form: Int32, _ percentile: Double,
                                   _ range: UnsafeMutablePointer<int4q_range>?) -> int4q_status {
    attempt("int4q_range_percentile") { () throws(Failure) in
        let histogram = try checked(histogram)
        let isSigned = try isSignedForm(form)
        let range = try require(range, "range")
        range.pointee = try histogram.percentileRange(percentile, isSigned: isSigned)
    }
}

@c @implementation
public func int4q_range_entropy_scratch(_ bins: Int64, _ bytes: UnsafeMutablePointer<UInt64>?) -> int4q_status {
    attempt("int4q_range_entropy_scratch") { () throws(Failure) in
        let scratch = try EntropyScratch(bins: bins)
        try require(bytes, "bytes").pointee = scratch.bytes
    }
}

@c @implementation
public func int4q_range_entropy(_ histogram: UnsafePointer<int4q_histogram>?, _ quantized_bins: Int64,
                                _ scratch: UnsafeMutableRawPointer?, _ scratch_bytes: UInt64,
                                _ range: UnsafeMutablePointer<int4q_range>?) -> int4q_status {
    attempt("int4q_range_entropy") { () throws(Failure) in
        let histogram = try checked(histogram)
        let size = try EntropyScratch(bins: Int64(histogram.bins))
        let memory = try require(scratch, "scratch", alignment: Int(INT4Q_ALIGNMENT))
        try requireBytes(scratch_bytes, needed: size.bytes, "scratch_bytes")
        let range = try require(range, "range")
        var search = try EntropySearch(histogram, quantizedBins: quantized_bins, memory, size)
        range.pointee = search.search()
    }
}

@c @implementation
public func int4q_range_of_least_error(_ histogram: UnsafePointer<int4q_histogram>?, _ search: UnsafePointer<int4q_range_search>?,
                                       _ range: UnsafeMutablePointer<int4q_range>?) -> int4q_status {
    attempt("int4q_range_of_least_error") { () throws(Failure) in
        let histogram = try checked(histogram)
        let search = try RangeSearch(try require(search, "search").pointee)
        let range = try require(range, "range")
        range.pointee = search.best(histogram)
    }
}

// MARK: Analytic clipping

@c @implementation
public func int4q_aciq_clip(_ distribution: Int32, _ bits: Int32, _ scale: Double, _ clip: UnsafeMutablePointer<Double>?,
                            _ mse: UnsafeMutablePointer<Double>?) -> int4q_status {
    attempt("int4q_aciq_clip") { () throws(Failure) in
        let clipping = try AnalyticClipping(distribution: distribution, bits: bits)
        try requireScale(scale, "scale")
        let clip = clip == nil ? nil : try require(clip, "clip")
        let mse = mse == nil ? nil : try require(mse, "mse")
        clipping.write(scale: scale, clip, mse)
    }
}

@inline(never)
private func requireScale(_ value: Double, _ name: Text) throws(Failure) {
    if !(value >= 0 && value.isFinite) {
        throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, name, .number(Float(value)), expected: "a finite number of at least 0")
    }
}

@c @implementation
public func int4q_aciq_share_bits(_ clips: UnsafePointer<Double>?, _ count: Int64, _ lowest: Int32, _ highest: Int32,
                                  _ total: Int64, _ bits: UnsafeMutablePointer<Int32>?) -> int4q_status {
    attempt("int4q_aciq_share_bits") { () throws(Failure) in
        let clips = try require(clips, "clips")
        try requireAtLeast(count, 1, "count")
        let bits = try require(bits, "bits")
        let shares = try BitShares(clips, count: count, lowest: lowest, highest: highest, total: total)
        shares.share(total: total, bits)
    }
}

// MARK: Diagnosis

@c @implementation
public func int4q_outliers_fit_z(_ moments: UnsafePointer<Double>?, _ n: Int64, _ k: Int64, _ z: Double,
                                 _ fit: UnsafeMutablePointer<int4q_outlier_fit>?) -> int4q_status {
    attempt("int4q_outliers_fit_z") { () throws(Failure) in
        let moments = try require(moments, "moments")
        try requireAtLeast(n, 1, "n")
        try requireAtLeast(k, 1, "k")
        _ = try CheckedSize(UInt64(n), "n").times(16)
        try requireScale(z, "z")
        let fit = try require(fit, "fit")
        try requireStructSize(fit.pointee.struct_size, of: int4q_outlier_fit.self, "fit.struct_size")
        try requireZero(fit.pointee.reserved, "fit.reserved")
        try NormalFit(moments, n: n, k: k).write(z: z, to: fit)
    }
}

@c @implementation
public func int4q_find_largest(_ source: UnsafeRawPointer?, _ source_type: int4q_type, _ rows: Int64, _ columns: Int64,
                               _ source_stride: Int64, _ elements: UnsafeMutablePointer<int4q_element>?, _ capacity: Int64,
                               _ count: UnsafeMutablePointer<Int64>?) -> int4q_status {
    attempt("int4q_find_largest") { () throws(Failure) in
        try requireAtLeast(rows, 1, "rows")
        try requireAtLeast(columns, 1, "columns")
        let source = try Matrix(source, try ElementType(source_type, "source_type"), rows: rows, columns: columns,
                                stride: source_stride, .init("source", stride: "source_stride"))
        let elements = try require(elements, "elements")
        try requireAtLeast(capacity, 1, "capacity")
        _ = try CheckedSize(UInt64(capacity), "capacity").times(24)
        let count = try require(count, "count")
        var largest = LargestElements(elements, capacity: capacity)
        try largest.find(in: source, rows: rows, try activeKernels())
        count.pointee = Int64(largest.count)
    }
}

@c @implementation
public func int4q_diagnose_codes(_ tensor: UnsafePointer<int4q_tensor>?, _ scale_floor: Float, _ row_begin: Int64,
                                 _ row_end: Int64, _ report: UnsafeMutablePointer<int4q_code_report>?) -> int4q_status {
    attempt("int4q_diagnose_codes") { () throws(Failure) in
        let tensor = try QuantizedTensor(try require(tensor, "tensor").pointee)
        try requireRange(row_begin, row_end, of: tensor.layout.n, "row_begin", "row_end")
        try requireAtLeast(row_end - row_begin, 1, "row_end")
        let report = try require(report, "report")
        try requireStructSize(report.pointee.struct_size, of: int4q_code_report.self, "report.struct_size")
        try requireZero(report.pointee.reserved, "report.reserved")
        var codes = try CodeReport(tensor, scaleFloor: scale_floor)
        codes.look(rows: row_begin..<row_end)
        codes.write(to: report)
    }
}

/// A tensor and the matrix that it was quantized from.
@inline(never)
private func pair(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ type: int4q_type, _ stride: Int64,
                  _ begin: Int64, _ end: Int64) throws(Failure) -> (QuantizedTensor, Matrix) {
    let tensor = try QuantizedTensor(try require(tensor, "tensor").pointee)
    let matrix = try Matrix(source, try ElementType(type, "source_type"), rows: tensor.layout.n, columns: tensor.layout.k,
                            stride: stride, .init("source", stride: "source_stride"))
    try requireRange(begin, end, of: tensor.layout.n, "row_begin", "row_end")
    return (tensor, matrix)
}

@c @implementation
public func int4q_diagnose_errors(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                                  _ source_stride: Int64, _ group_errors: UnsafeMutablePointer<Double>?,
                                  _ group_squares: UnsafeMutablePointer<Double>?, _ row_errors: UnsafeMutablePointer<Double>?,
                                  _ row_squares: UnsafeMutablePointer<Double>?, _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_diagnose_errors") { () throws(Failure) in
        let (tensor, source) = try pair(tensor, source, source_type, source_stride, row_begin, row_end)
        let report = try ErrorReport(groupErrors: group_errors, groupSquares: group_squares, rowErrors: row_errors,
                                     rowSquares: row_squares)
        try report.write(tensor, source, rows: row_begin..<row_end, try activeKernels())
    }
}

// MARK: Repair

@c @implementation
public func int4q_bias_measure(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                               _ source_stride: Int64, _ shifts: UnsafeMutablePointer<Double>?,
                               _ ratios: UnsafeMutablePointer<Double>?, _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_bias_measure") { () throws(Failure) in
        let (tensor, source) = try pair(tensor, source, source_type, source_stride, row_begin, row_end)
        let shifts = try require(shifts, "shifts")
        let ratios = try require(ratios, "ratios")
        try measureBias(tensor, source, shifts, ratios, rows: row_begin..<row_end, try activeKernels())
    }
}

@c @implementation
public func int4q_bias_apply(_ tensor: UnsafePointer<int4q_tensor>?, _ shifts: UnsafePointer<Double>?,
                             _ ratios: UnsafePointer<Double>?, _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_bias_apply") { () throws(Failure) in
        let tensor = try QuantizedTensor(try require(tensor, "tensor").pointee)
        try requireRange(row_begin, row_end, of: tensor.layout.n, "row_begin", "row_end")
        try BiasCorrection(tensor, shifts: shifts, ratios: ratios).apply(rows: row_begin..<row_end)
    }
}

@c @implementation
public func int4q_bias_output(_ tensor: UnsafePointer<int4q_tensor>?, _ source: UnsafeRawPointer?, _ source_type: int4q_type,
                              _ source_stride: Int64, _ x_means: UnsafePointer<Double>?, _ corrections: UnsafeMutablePointer<Double>?,
                              _ row_begin: Int64, _ row_end: Int64) -> int4q_status {
    attempt("int4q_bias_output") { () throws(Failure) in
        let (tensor, source) = try pair(tensor, source, source_type, source_stride, row_begin, row_end)
        let means = try require(x_means, "x_means")
        let corrections = try require(corrections, "corrections")
        try writeOutputBias(tensor, source, means: means, corrections, rows: row_begin..<row_end, try activeKernels())
    }
}
