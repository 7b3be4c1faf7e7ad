// SPDX-License-Identifier: Apache-2.0
// Prints what the library chooses in this process's environment; the tests start it with different ones.
#include <cstdio>

#include "int4q.h"

int main() {
    int4q_isa active = -1, detected = -1;
    const int4q_status status = int4q_isa_active(&active);
    int4q_isa_detected(&detected);
    std::printf("active %s detected %s status %d\n", int4q_isa_name(active), int4q_isa_name(detected), status);
    int4q_error error{};
    error.struct_size = sizeof error;
    int4q_last_error(&error);
    std::printf("%s\n", error.message);

    // A limit by call counts instead of the environment's.
    int4q_isa_set_limit(INT4Q_ISA_PORTABLE);
    const int4q_status limited = int4q_isa_active(&active);
    std::printf("limited by call: status %d active %s\n", limited, int4q_isa_name(active));
    return 0;
}
