// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace int4q_bench {

void RegisterCalibrationBenchmarks();
void RegisterReconstructionBenchmarks();
void RegisterConversionBenchmarks();
void RegisterMatmulBenchmarks();
void RegisterGatedBenchmarks();
void RegisterExpertsBenchmarks();
void RegisterPoolBenchmarks();

// Adds what int4q_describe_dispatch() says of each mode to what is printed ahead of the results.
void ReportDispatch();

}  // namespace int4q_bench
