// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// Sizes of a clustering, and where its parts lie in the caller's scratch; each starts at a multiple of 64. Rows are padded with
/// zeros to a multiple of 16, centroids in binary32 to a multiple of four.
public struct ClusteringLayout {
    public let bytes: UInt64
    let rows: Int
    let clusters: Int
    let length: Int
    let blockRows: Int
    /// Every row is a cluster: there is nothing to search.
    public let isTrivial: Bool

    let distances: Int // [rows], binary64
    let labels: Int    // [rows]
    let centroids: Int // [clusters][length], binary64
    let sums: Int      // the same: of the rows that have been given to each
    let sizes: Int     // [clusters]
    let origin: Int    // [length], binary32: the mean of all rows
    let points: Int    // [clusters][length], binary32: centroids less the origin
    let halves: Int    // [clusters]: half of their squared lengths
    let block: Int     // [blockRows][length]
    let shifted: Int   // the same, less the origin
    let scores: Int    // [blockRows][clusters]

    @inline(never)
    public init(count: Int64, dimensions: Int64, clusters: Int64) throws(Failure) {
        try requireAtLeast(count, 1, "count")
        try requireAtLeast(dimensions, 1, "dimensions")
        try requireAtLeast(clusters, 1, "clusters")
        if clusters > Int64(Int32.max) { throw .invalid("clusters", clusters, expected: "at most", bound: UInt64(Int32.max)) }
        rows = Int(count)
        self.clusters = Int(min(clusters, count))
        isTrivial = clusters >= count
        let length = try CheckedSize(UInt64(dimensions), "dimensions").roundedUp(to: 16)
        self.length = Int(length.value)
        blockRows = min(64, max(2, (1 << 16) / self.length & ~1))
        let perRow = CheckedSize(UInt64(count), "count"), perCluster = CheckedSize(UInt64(self.clusters), "clusters")
        let fours = try perCluster.roundedUp(to: 4), block = try length.times(UInt64(blockRows)).times(4)
        let isTrivial = self.isTrivial
        var end = CheckedSize(0, "count", argument: count)
        func part(_ size: CheckedSize) throws(Failure) -> Int {
            let begin = Int(end.value)
            if !isTrivial { end = try end.plus(try size.roundedUp(to: 64).value) }
            return begin
        }
        distances = try part(try perRow.times(8))
        labels = try part(try perRow.times(4))
        centroids = try part(try perCluster.times(length.value).times(8))
        sums = try part(try perCluster.times(length.value).times(8))
        sizes = try part(try perCluster.times(8))
        origin = try part(try length.times(4))
        points = try part(try fours.times(length.value).times(4))
        halves = try part(try fours.times(4))
        self.block = try part(block)
        shifted = try part(block)
        scores = try part(try fours.times(UInt64(blockRows)).times(4))
        bytes = max(end.value, 64)
    }
}

/// k-means on a caller's rows. What decides are distances in binary64; a quick product in binary32 only tells which centroids are
/// far enough to be left out.
public struct Clustering {
    private let source: Matrix
    private let layout: ClusteringLayout
    private let memory: UnsafeMutableRawPointer
    private let kernels: i4q_kernels
    /// Centroids there are: fewer than wanted if there are fewer different rows.
    private var clusters: Int
    /// The length of the longest shifted centroid.
    private var reach = 0.0
    public private(set) var iterations: Int64 = 0
    public private(set) var converged = false

    private var distances: UnsafeMutablePointer<Double> { (memory + layout.distances).assumingMemoryBound(to: Double.self) }
    private var labels: UnsafeMutablePointer<Int32> { (memory + layout.labels).assumingMemoryBound(to: Int32.self) }
    private var centroids: UnsafeMutablePointer<Double> { (memory + layout.centroids).assumingMemoryBound(to: Double.self) }
    private var sums: UnsafeMutablePointer<Double> { (memory + layout.sums).assumingMemoryBound(to: Double.self) }
    private var sizes: UnsafeMutablePointer<Int64> { (memory + layout.sizes).assumingMemoryBound(to: Int64.self) }
    private var origin: UnsafeMutablePointer<Float> { (memory + layout.origin).assumingMemoryBound(to: Float.self) }
    private var points: UnsafeMutablePointer<Float> { (memory + layout.points).assumingMemoryBound(to: Float.self) }
    private var halves: UnsafeMutablePointer<Float> { (memory + layout.halves).assumingMemoryBound(to: Float.self) }
    private var block: UnsafeMutablePointer<Float> { (memory + layout.block).assumingMemoryBound(to: Float.self) }
    private var shifted: UnsafeMutablePointer<Float> { (memory + layout.shifted).assumingMemoryBound(to: Float.self) }
    private var scores: UnsafeMutablePointer<Float> { (memory + layout.scores).assumingMemoryBound(to: Float.self) }
    private var scoreStride: Int { (layout.clusters + 3) & ~3 }

    /// Checks that all rows are finite. `memory` is of the layout's size.
    @inline(never)
    public init(_ source: Matrix, _ layout: ClusteringLayout, _ memory: UnsafeMutableRawPointer,
                _ kernels: i4q_kernels) throws(Failure) {
        self.source = source
        self.layout = layout
        self.memory = memory
        self.kernels = kernels
        clusters = layout.clusters
        if layout.isTrivial {
            try Clustering.requireFinite(source, rows: layout.rows, kernels)
        } else {
            try findOrigin()
        }
    }

    private static func requireFinite(_ source: Matrix, rows: Int, _ kernels: i4q_kernels) throws(Failure) {
        try FloatRuns.with(source, "features", kernels) { (runs) throws(Failure) in
            for row in 0..<rows {
                var column = 0
                while column < source.columns {
                    let count = runs.load(row, column)
                    _ = try runs.range(count, row, column)
                    column += count
                }
            }
        }
    }

    /// The mean, rounded: distances do not depend on where zero is, but what is left out by binary32 does.
    private func findOrigin() throws(Failure) {
        clear(sums, layout.length)
        for row in 0..<layout.rows {
            load(row, block)
            var range = i4q_group_range()
            kernels.group_range.unsafelyUnwrapped(block, Int64(source.columns), &range)
            if range.first_not_finite >= 0 {
                let column = Int(range.first_not_finite)
                throw Failure(INT4Q_ERROR_NOT_FINITE, "features", .element(row: Int64(row), column: Int64(column), block[column]),
                              expected: "finite values")
            }
            i4q_add_row(block, Int64(layout.length), sums)
        }
        for index in 0..<layout.length { origin[index] = Float(sums[index] / Double(layout.rows)) }
    }

    private func clear(_ values: UnsafeMutablePointer<Double>, _ count: Int) {
        for index in 0..<count { values[index] = 0 }
    }

    private func load(_ row: Int, _ floats: UnsafeMutablePointer<Float>) {
        kernels.load.unsafelyUnwrapped(source.row(row), Int64(source.type.raw), Int64(source.columns), floats)
        for index in source.columns..<layout.length { floats[index] = 0 }
    }

    /// A row to read: where it is, or as floats in the first row of the block.
    @inline(never)
    private func floats(_ row: Int) -> UnsafePointer<Float> {
        if source.type.size == 4 { return source.row(row).assumingMemoryBound(to: Float.self) }
        load(row, block)
        return UnsafePointer(block)
    }

    @inline(never)
    private func distance(_ floats: UnsafePointer<Float>, _ cluster: Int) -> Double {
        i4q_squared_distance(floats, centroids + cluster * layout.length, Int64(source.columns))
    }

    /// With every row a cluster there is nothing to do.
    @inline(never)
    public mutating func cluster(seed: UInt64, initial: UnsafePointer<Int64>?, maxIterations: Int64) throws(Failure) {
        if let initial { try requireRows(initial) }
        converged = layout.isTrivial
        if layout.isTrivial { return }
        if let initial { start(at: initial) } else { start(seed: seed) }
        run(maxIterations: maxIterations)
    }

    // MARK: The first centroids

    private func requireRows(_ rows: UnsafePointer<Int64>) throws(Failure) {
        for index in 0..<clusters where rows[index] < 0 || rows[index] >= Int64(layout.rows) {
            throw Failure(INT4Q_ERROR_INVALID_ARGUMENT, "clustering.initial", .entry(index: Int64(index), rows[index]),
                          expected: "rows of features")
        }
    }

    private func start(at rows: UnsafePointer<Int64>) {
        for index in 0..<clusters { place(index, at: Int(rows[index])) }
    }

    /// k-means++.
    private mutating func start(seed: UInt64) {
        var random = RandomNumbers(seed: seed)
        for row in 0..<layout.rows { distances[row] = .infinity }
        place(0, at: Int(random.next(below: UInt64(layout.rows))))
        for cluster in 1..<clusters {
            let total = approach(cluster - 1)
            if total == 0 { // no other row is left
                clusters = cluster
                return
            }
            place(cluster, at: drawn(random.fraction() * total))
        }
    }

    /// Takes account of one more centroid; the sum of all rows' squared distances from the nearest one.
    private func approach(_ cluster: Int) -> Double {
        var total = 0.0
        for row in 0..<layout.rows {
            let distance = distance(floats(row), cluster)
            if distance < distances[row] { distances[row] = distance }
            total += distances[row]
        }
        return total
    }

    /// The first row up to which distances add up to more than `sum`; rounding apart there is one.
    private func drawn(_ sum: Double) -> Int {
        var running = 0.0, last = 0
        for row in 0..<layout.rows where distances[row] > 0 {
            running += distances[row]
            last = row
            if running > sum { return row }
        }
        return last
    }

    @inline(never)
    private func place(_ cluster: Int, at row: Int) {
        let centroid = centroids + cluster * layout.length
        let floats = floats(row)
        for index in 0..<source.columns { centroid[index] = Double(floats[index]) }
        for index in source.columns..<layout.length { centroid[index] = 0 }
    }

    // MARK: Lloyd's iteration

    private mutating func run(maxIterations: Int64) {
        for row in 0..<layout.rows { labels[row] = -1 }
        while true {
            let changed = assign()
            converged = !changed
            if !changed || iterations == maxIterations { return }
            move()
            iterations += 1
        }
    }

    /// Gives each row to its nearest centroid and adds it to that one's sum; whether any changed.
    private mutating func assign() -> Bool {
        approximate()
        clear(sums, clusters * layout.length)
        for cluster in 0..<clusters { sizes[cluster] = 0 }
        var changed = false
        var begin = 0
        while begin < layout.rows {
            let count = min(layout.blockRows, layout.rows - begin)
            changed = assign(begin, count) || changed
            begin += count
        }
        return changed
    }

    /// Centroids in binary32, those that fill up the last four far away.
    private mutating func approximate() {
        var longest = 0.0
        for cluster in 0..<scoreStride {
            let point = points + cluster * layout.length
            var square = 0.0
            for index in 0..<layout.length {
                point[index] = cluster < clusters ? Float(centroids[cluster * layout.length + index] - Double(origin[index])) : 0
                square += Double(point[index]) * Double(point[index])
            }
            halves[cluster] = Float(square / 2)
            longest = max(longest, square)
        }
        reach = longest.squareRoot()
    }

    private func assign(_ begin: Int, _ count: Int) -> Bool {
        let length = Int64(layout.length)
        for index in 0..<count {
            let row = block + index * layout.length
            load(begin + index, row)
            // `distances` have no other use while rows are given away.
            distances[begin + index] = i4q_subtract_row(row, origin, length, shifted + index * layout.length)
        }
        var cluster = 0
        while cluster < clusters {
            i4q_score_four(shifted, Int64((count + 1) & ~1), points + cluster * layout.length, length, halves + cluster,
                           scores + cluster, Int64(scoreStride))
            cluster += 4
        }
        var changed = false
        for index in 0..<count {
            let row = begin + index
            let label = nearest(block + index * layout.length, scores + index * scoreStride, distances[row].squareRoot())
            changed = changed || labels[row] != Int32(label)
            labels[row] = Int32(label)
            sizes[label] += 1
            i4q_add_row(block + index * layout.length, length, sums + label * layout.length)
        }
        return changed
    }

    /// scores[c] is half of the squared distance from c less half of the row's own square, in binary32.
    private func nearest(_ floats: UnsafePointer<Float>, _ scores: UnsafePointer<Float>, _ length: Double) -> Int {
        var least = Float.infinity, nearest = 0
        for cluster in 0..<clusters where scores[cluster] < least {
            least = scores[cluster]
            nearest = cluster
        }
        let limit = Double(least) + 2 * scoreError(length)
        var candidates = 0
        // So written that NaN makes every centroid one to look at.
        for cluster in 0..<clusters { candidates += Double(scores[cluster]) > limit ? 0 : 1 }
        if candidates == 1 { return nearest }
        var leastDistance = Double.infinity
        for cluster in 0..<clusters where !(Double(scores[cluster]) > limit) {
            let distance = distance(floats, cluster)
            if distance < leastDistance {
                leastDistance = distance
                nearest = cluster
            }
        }
        return nearest
    }

    /// No score is farther than this from its value in exact arithmetic. A dot product of n elements in four partial sums has
    /// n / 4 + 2 additions' roundings, a product's, and two of its factors'; the half square and the difference a few more. What
    /// underflows loses 2^-150. The square of the row's length leaves room for the roundings of distances in binary64.
    private func scoreError(_ length: Double) -> Double {
        let count = Double(layout.length)
        let relative = (count / 4 + 16) * 0x1p-24
        return relative * (length * reach + reach * reach + length * length * 0x1p-16) + count * 0x1p-148
    }

    /// Each centroid to the mean of its rows.
    private func move() {
        for cluster in 0..<clusters where sizes[cluster] == 0 {
            fillEmpty()
            break
        }
        for cluster in 0..<clusters where sizes[cluster] > 0 {
            let centroid = centroids + cluster * layout.length, sum = sums + cluster * layout.length
            let size = Double(sizes[cluster])
            for index in 0..<layout.length { centroid[index] = sum[index] / size }
        }
    }

    /// Gives each empty cluster the row that is farthest from its centroid, unless that is its cluster's only one.
    @inline(never)
    private func fillEmpty() {
        for row in 0..<layout.rows { distances[row] = distance(floats(row), Int(labels[row])) }
        for cluster in 0..<clusters where sizes[cluster] == 0 {
            var farthest = -1, largest = 0.0
            for row in 0..<layout.rows where distances[row] > largest && sizes[Int(labels[row])] > 1 {
                largest = distances[row]
                farthest = row
            }
            if farthest < 0 { return }
            let from = Int(labels[farthest])
            let floats = floats(farthest)
            for index in 0..<source.columns {
                sums[from * layout.length + index] -= Double(floats[index])
                sums[cluster * layout.length + index] = Double(floats[index])
            }
            sizes[from] -= 1
            sizes[cluster] = 1
            labels[farthest] = Int32(cluster)
            distances[farthest] = 0
        }
    }

    // MARK: Results

    /// Writes the row nearest to each centroid, in order of rows, and what belongs to it.
    @inline(never)
    public func write(wanted: Int64, _ indices: UnsafeMutablePointer<Int64>, _ sizes: UnsafeMutablePointer<Int64>?,
                      _ labels: UnsafeMutablePointer<Int32>?, to result: UnsafeMutablePointer<int4q_representatives>?) {
        // The sums are done with; a row of them has 16 places, enough for what is kept of a cluster.
        let nearest = sums, rows = UnsafeMutableRawPointer(sums + clusters).assumingMemoryBound(to: Int.self)
        let places = rows + clusters
        let inertia = layout.isTrivial ? 0 : findNearest(nearest, rows)
        var selected = 0
        for row in 0..<layout.rows {
            let cluster = layout.isTrivial ? row : Int(self.labels[row])
            if !layout.isTrivial && rows[cluster] != row { continue }
            if !layout.isTrivial { places[cluster] = selected }
            indices[selected] = Int64(row)
            sizes?[selected] = layout.isTrivial ? 1 : self.sizes[cluster]
            selected += 1
        }
        for place in selected..<Int(wanted) {
            indices[place] = -1
            sizes?[place] = 0
        }
        if let labels {
            for row in 0..<layout.rows { labels[row] = layout.isTrivial ? Int32(row) : Int32(places[Int(self.labels[row])]) }
        }
        if let result {
            result.pointee.converged = converged ? 1 : 0
            result.pointee.selected = Int64(selected)
            result.pointee.iterations = iterations
            result.pointee.inertia = inertia
        }
    }

    private func findNearest(_ nearest: UnsafeMutablePointer<Double>, _ rows: UnsafeMutablePointer<Int>) -> Double {
        for cluster in 0..<clusters { nearest[cluster] = .infinity }
        var inertia = 0.0
        for row in 0..<layout.rows {
            let cluster = Int(labels[row])
            let distance = distance(floats(row), cluster)
            inertia += distance
            if distance < nearest[cluster] {
                nearest[cluster] = distance
                rows[cluster] = row
            }
        }
        return inertia
    }
}
