// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <cstdlib>

#include "int4q.h"

namespace int4q_bench {

// A benchmark of a call that fails measures nothing: say why and stop.
inline void Check(int4q_status status) {
    if (status == INT4Q_OK) return;
    int4q_error error = {};
    error.struct_size = sizeof error;
    int4q_last_error(&error);
    std::fprintf(stderr, "%s: %s\n", int4q_status_string(status), error.message ? error.message : "");
    std::exit(1);
}

}  // namespace int4q_bench
