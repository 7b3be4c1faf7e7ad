# find_package(int4q) gives the target int4q::int4q.
include("${CMAKE_CURRENT_LIST_DIR}/int4qTargets.cmake")
