/* SPDX-License-Identifier: Apache-2.0
 * Thread-local storage, which Swift has only with its runtime. CMake compiles this file with -mtls-dialect=gnu2, so that
 * the library needs no __tls_get_addr (a second dependency) and no static TLS (scarce for libraries loaded late). */
#include "int4q_platform.h"

static _Thread_local i4q_error_text thread_error;
static _Thread_local _Alignas(16) char thread_failure[I4Q_FAILURE_BYTES];

/* Not inlined: with gnu2 descriptors the address is computed by a call that glibc before 2.40 let clobber vector
 * registers, which is harmless only where none is live. */
__attribute__((noinline)) i4q_error_text *i4q_thread_error(void) { return &thread_error; }
__attribute__((noinline)) void *i4q_thread_failure(void) { return thread_failure; }
