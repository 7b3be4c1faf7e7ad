/* SPDX-License-Identifier: Apache-2.0
 * Threads and futexes. The thread's start record lives on the starter's stack, which waits until the thread has read it:
 * so nothing is allocated here. */
#define _GNU_SOURCE
#include "int4q_platform.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct start_record {
    i4q_thread_main main;
    void *context;
    uint32_t taken;
} start_record;

static void *enter(void *argument) {
    start_record *record = argument;
    const start_record mine = *record;
    i4q_atomic_store_u32(&record->taken, 1); /* the record may be gone from here on */
    mine.main(mine.context);
    return NULL;
}

int i4q_thread_start(i4q_thread_main main, void *context, uint64_t *handle) {
    start_record record = {main, context, 0};
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&thread, NULL, enter, &record);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) return error;
    while (i4q_atomic_load_u32(&record.taken) == 0) sched_yield();
    *handle = (uint64_t)thread;
    return 0;
}

void i4q_thread_join(uint64_t handle) { pthread_join((pthread_t)handle, NULL); }

int32_t i4q_process(void) { return (int32_t)getpid(); }

void i4q_wait(const uint32_t *word, uint32_t value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

void i4q_wake_all(const uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 0x7fffffff, NULL, NULL, 0);
}
