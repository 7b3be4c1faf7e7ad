# SPDX-License-Identifier: Apache-2.0
# INT4Q_SANITIZE=address or thread: C, C++ and Swift alike. Needs clang, whose runtime Swift's instrumentation matches.
if(INT4Q_SANITIZE)
  if(NOT CMAKE_C_COMPILER_ID MATCHES Clang)
    message(FATAL_ERROR "INT4Q_SANITIZE needs clang: configure with -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++")
  endif()
  add_compile_options(
    "$<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=${INT4Q_SANITIZE};-fno-omit-frame-pointer;-g>")
  add_link_options(-fsanitize=${INT4Q_SANITIZE} -fuse-ld=lld) # lld comes with Swift; gold cannot export the runtime
  if(INT4Q_SANITIZE STREQUAL thread)
    # The thread sanitizer that comes with Swift intercepts libdispatch, and so wants it.
    find_program(int4q_swiftc swiftc REQUIRED)
    file(REAL_PATH ${int4q_swiftc} int4q_swiftc)
    cmake_path(GET int4q_swiftc PARENT_PATH swift_bin)
    set(swift_libraries ${swift_bin}/../lib/swift/linux)
    link_libraries(-L${swift_libraries} -Wl,-rpath,${swift_libraries} -ldispatch -lBlocksRuntime)
  endif()
endif()
