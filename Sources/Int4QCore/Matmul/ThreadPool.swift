// SPDX-License-Identifier: Apache-2.0
import CInt4Q
import CInt4QShims

/// A pool of threads over futexes. The caller is worker 0; thread i is worker i. Indices are handed out by a counter.
///
/// One run: the caller fills the job, opens it, raises `generation` and wakes those that sleep. A thread steps inside, and if the
/// job is open takes indices until none is left. The caller takes indices, too; when none is left it closes the job and waits
/// for those inside alone: not for threads that have not come because the system has no processor for them. A thread watches
/// `generation` for a short while before it sleeps, since products often follow one another. After a fork the threads are the
/// other process's, and the caller does it all.
public struct ThreadPool {
    /// Rounds of watching before sleeping: tens of microseconds.
    private static let watchRounds = 2000
    /// The bit of `inside` that says that the job is open.
    private static let open: UInt32 = 1 << 31

    var threadCount: UInt32
    var process: Int32
    var startedCount: UInt32 = 0
    var generation: UInt32 = 0
    var sleeping: UInt32 = 0
    var stopping: UInt32 = 0
    /// What is watched stands apart from what changes while indices are taken: two cache lines.
    private var apart = InlineArray<16, UInt64>(repeating: 0)
    /// How many threads may read the job, and `open`.
    var inside: UInt32 = 0
    /// 0 free, 1 held, 2 held and waited for.
    var callers: UInt32 = 0

    var task: int4q_task?
    var context: UnsafeMutableRawPointer?
    var count: Int64 = 0
    var workerLimit: UInt32 = 0
    var next: Int64 = 0

    /// A thread's handle and number, behind the pool in the same allocation.
    struct Member {
        var pool: UnsafeMutablePointer<ThreadPool>
        var handle: UInt64
        var worker: UInt32
    }

    private static var membersOffset: Int { (MemoryLayout<ThreadPool>.size + 63) & ~63 }

    private static func members(_ pool: UnsafeMutablePointer<ThreadPool>) -> UnsafeMutablePointer<Member> {
        (UnsafeMutableRawPointer(pool) + membersOffset).assumingMemoryBound(to: Member.self)
    }

    // MARK: Life

    public static func create(workers: UInt32) throws(Failure) -> OpaquePointer {
        if workers < 1 || workers > 1024 { throw .invalid("worker_count", Int64(workers), expected: "1 to 1024") }
        let bytes = membersOffset + Int(workers) * MemoryLayout<Member>.stride
        guard let memory = i4q_allocate(bytes) else {
            throw Failure(INT4Q_ERROR_OUT_OF_MEMORY, "worker_count", .unsigned(UInt64(workers)), expected: "memory for the pool, bytes:",
                          bound: UInt64(bytes))
        }
        let pool = memory.bindMemory(to: ThreadPool.self, capacity: 1)
        pool.initialize(to: ThreadPool(threadCount: workers - 1, process: i4q_process()))
        for index in 0..<Int(workers - 1) {
            let member = members(pool) + index
            member.initialize(to: Member(pool: pool, handle: 0, worker: UInt32(index + 1)))
            if i4q_thread_start({ ThreadPool.work($0.unsafelyUnwrapped.assumingMemoryBound(to: Member.self)) }, member,
                                &member.pointee.handle) != 0 {
                destroy(pool)
                throw Failure(INT4Q_ERROR_THREAD, "worker_count", .unsigned(UInt64(workers)), expected: "threads that the system allows")
            }
            pool.pointee.startedCount += 1
        }
        return OpaquePointer(pool)
    }

    public static func destroy(_ pool: UnsafeMutablePointer<ThreadPool>) {
        if pool.pointee.process == i4q_process() {
            i4q_atomic_store_u32(&pool.pointee.stopping, 1)
            announce(pool)
            for index in 0..<Int(pool.pointee.startedCount) { i4q_thread_join(members(pool)[index].handle) }
        }
        i4q_release(pool)
    }

    // MARK: Running

    public static func run(_ pool: UnsafeMutablePointer<ThreadPool>, count: Int64, workers: UInt32, _ task: @escaping int4q_task,
                           _ context: UnsafeMutableRawPointer?) {
        let usable = min(workers, pool.pointee.threadCount + 1)
        if usable <= 1 || count <= 1 {
            runAlone(count: count, task, context)
            return
        }
        lock(&pool.pointee.callers)
        pool.pointee.task = task
        pool.pointee.context = context
        pool.pointee.count = count
        pool.pointee.workerLimit = usable
        i4q_atomic_store_i64(&pool.pointee.next, 0)
        _ = i4q_atomic_add_u32(&pool.pointee.inside, open)
        announce(pool)
        takeIndices(pool, worker: 0)
        _ = i4q_atomic_add_u32(&pool.pointee.inside, 0 &- open)
        awaitNobodyInside(pool)
        unlock(&pool.pointee.callers)
    }

    /// Raises `generation` and wakes who sleeps. A thread counts itself in `sleeping` before it compares generations for the last
    /// time: so either it is seen here, or it sees the new generation.
    private static func announce(_ pool: UnsafeMutablePointer<ThreadPool>) {
        _ = i4q_atomic_add_u32(&pool.pointee.generation, 1)
        if i4q_atomic_load_u32(&pool.pointee.sleeping) != 0 { i4q_wake_all(&pool.pointee.generation) }
    }

    public static func runAlone(count: Int64, _ task: int4q_task, _ context: UnsafeMutableRawPointer?) {
        var index: Int64 = 0
        while index < count {
            task(context, index, 0)
            index += 1
        }
    }

    private static func takeIndices(_ pool: UnsafeMutablePointer<ThreadPool>, worker: UInt32) {
        guard worker < pool.pointee.workerLimit, let task = pool.pointee.task else { return }
        while true {
            let index = i4q_atomic_add_i64(&pool.pointee.next, 1)
            if index >= pool.pointee.count { return }
            task(pool.pointee.context, index, worker)
        }
    }

    private static func work(_ member: UnsafeMutablePointer<Member>) {
        let pool = member.pointee.pool
        var seen: UInt32 = 0
        while true {
            seen = awaitGeneration(pool, after: seen)
            if i4q_atomic_load_u32(&pool.pointee.stopping) != 0 { return }
            // Who comes too late has stepped inside for a moment, too, but reads nothing.
            if i4q_atomic_add_u32(&pool.pointee.inside, 1) & open != 0 { takeIndices(pool, worker: member.pointee.worker) }
            if i4q_atomic_add_u32(&pool.pointee.inside, .max) == 1 { i4q_wake_all(&pool.pointee.inside) }
        }
    }

    // MARK: Waiting

    private static func awaitGeneration(_ pool: UnsafeMutablePointer<ThreadPool>, after seen: UInt32) -> UInt32 {
        for _ in 0..<watchRounds {
            let value = i4q_atomic_load_u32(&pool.pointee.generation)
            if value != seen { return value }
            i4q_pause()
        }
        _ = i4q_atomic_add_u32(&pool.pointee.sleeping, 1)
        defer { _ = i4q_atomic_add_u32(&pool.pointee.sleeping, .max) }
        while true {
            let value = i4q_atomic_load_u32(&pool.pointee.generation)
            if value != seen { return value }
            i4q_wait(&pool.pointee.generation, seen)
        }
    }

    private static func awaitNobodyInside(_ pool: UnsafeMutablePointer<ThreadPool>) {
        for _ in 0..<watchRounds {
            if i4q_atomic_load_u32(&pool.pointee.inside) == 0 { return }
            i4q_pause()
        }
        // A fork may have caught a thread as it looked in.
        if pool.pointee.process != i4q_process() { i4q_atomic_store_u32(&pool.pointee.inside, 0) }
        while true {
            let value = i4q_atomic_load_u32(&pool.pointee.inside)
            if value == 0 { return }
            i4q_wait(&pool.pointee.inside, value)
        }
    }

    private static func lock(_ word: UnsafeMutablePointer<UInt32>) {
        if i4q_atomic_exchange_u32(word, 0, 1) != 0 { return }
        // From here on the holder must wake somebody: take it as "held and waited for".
        while true {
            if i4q_atomic_exchange_u32(word, 0, 2) != 0 { return }
            _ = i4q_atomic_exchange_u32(word, 1, 2)
            i4q_wait(word, 2)
        }
    }

    private static func unlock(_ word: UnsafeMutablePointer<UInt32>) {
        if i4q_atomic_exchange_u32(word, 1, 0) != 0 { return }
        i4q_atomic_store_u32(word, 0)
        i4q_wake_all(word)
    }
}
