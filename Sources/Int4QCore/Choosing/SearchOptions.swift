// SPDX-License-Identifier: Apache-2.0
import CInt4Q

public struct SearchOptions {
    public let raw: int4q_search_options

    @inline(never)
    public init(_ raw: int4q_search_options) throws(Failure) {
        try requireStructSize(raw.struct_size, of: int4q_search_options.self, "options.struct_size")
        try requireWorkers(raw.worker_count, "options.worker_count")
        self.raw = raw
    }

    func report(_ done: Int, _ total: Int, _ parallel: ParallelFor) throws(Failure) {
        try parallel.report(raw.progress, raw.progress_context, done, total)
    }
}

extension ParallelFor {
    @inline(never)
    func report(_ progress: int4q_progress?, _ context: UnsafeMutableRawPointer?, _ done: Int, _ total: Int) throws(Failure) {
        guard let progress else { return }
        if inHostMode({ progress(context, Int64(done), Int64(total)) }) != 0 {
            throw Failure(INT4Q_ERROR_CANCELLED, "options.progress", .text("a wish to end"), expected: "0 to go on")
        }
    }
}
