# SPDX-License-Identifier: Apache-2.0
# Swift modules compiled in Embedded mode: no runtime library, the whole module at once, one object.
#
# Done with commands of our own, since CMake's Swift support always compiles with several code generation threads. Those
# make one object per source, of which only the first honours -function-sections: the linker could then not drop what is
# unused, such as hashing, which needs arc4random_buf and with it glibc 2.36.

find_program(INT4Q_SWIFTC swiftc REQUIRED DOC "The Swift compiler, 6.3 or later")
file(REAL_PATH ${INT4Q_SWIFTC} INT4Q_SWIFTC_REAL)
execute_process(COMMAND ${INT4Q_SWIFTC} --version OUTPUT_VARIABLE int4q_swift_version ERROR_QUIET)
string(REGEX MATCH "Swift version ([0-9.]+)" _ "${int4q_swift_version}")
set(INT4Q_SWIFT_VERSION ${CMAKE_MATCH_1})
if(INT4Q_SWIFT_VERSION VERSION_LESS 6.3)
  message(FATAL_ERROR "libint4q needs Swift 6.3 or later (for @c @implementation); ${INT4Q_SWIFTC} is ${INT4Q_SWIFT_VERSION}")
endif()

set(INT4Q_SWIFT_TARGET ${CMAKE_SYSTEM_PROCESSOR}-unknown-linux-gnu)
# No stack protectors, as in C without the option: sizes are checked at the entry points, and 260 of them cost 10 KB.
set(int4q_swift_flags
  -enable-experimental-feature Embedded -wmo -parse-as-library -warnings-as-errors -Xfrontend -function-sections -Xfrontend -disable-stack-protector
  -I ${PROJECT_SOURCE_DIR}/include -I ${PROJECT_SOURCE_DIR}/Sources/CInt4QShims/include)

# int4q_swift_object(OBJECT NAME [KERNELS folders...] [TARGET triple] [VARIANT name] [IMPORTS modules...] [MACHINE flags...] [SMALL]): sets the
# variable OBJECT to the object file of Sources/NAME/*.swift. KERNELS also compiles Sources/KernelsShared and those folders of
# Sources into it, without checks: kernels' arguments have been checked; with SMALL for size. MACHINE flags go to the clang
# importer, which sets Swift's code generation too. VARIANT keeps objects of the same module with other flags apart.
function(int4q_swift_object object name)
  cmake_parse_arguments(PARSE_ARGV 2 arg "SMALL" "TARGET;VARIANT" "IMPORTS;MACHINE;KERNELS")
  if(NOT arg_TARGET)
    set(arg_TARGET ${INT4Q_SWIFT_TARGET})
  endif()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/Sources/${name}/*.swift)
  set(flags ${int4q_swift_flags} -target ${arg_TARGET} -module-name ${name})
  if(arg_KERNELS)
    list(FILTER sources EXCLUDE REGEX /Shared[^/]*/) # links, for SwiftPM
    list(APPEND arg_KERNELS KernelsShared)
    list(REMOVE_DUPLICATES arg_KERNELS)
    foreach(folder IN LISTS arg_KERNELS)
      file(GLOB shared CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/Sources/${folder}/*.swift)
      list(APPEND sources ${shared})
    endforeach()
    if(arg_SMALL)
      list(APPEND flags -Osize -Xfrontend -remove-runtime-asserts)
    else()
      list(APPEND flags -Ounchecked)
    endif()
  else()
    # For size: what takes the time is in kernels, or marked @_optimize(speed).
    list(APPEND flags -Osize)
  endif()
  foreach(flag IN LISTS arg_MACHINE)
    list(APPEND flags -Xcc ${flag})
  endforeach()
  if(INT4Q_SANITIZE)
    list(APPEND flags -sanitize=${INT4Q_SANITIZE} -g)
    if(INT4Q_BUILD_FUZZERS AND NOT arg_KERNELS)
      # What libFuzzer counts. Not kernels: which of them run depends on the processor, and sums have few branches to find.
      list(APPEND flags -sanitize-coverage=edge,inline-8bit-counters,pc-table,trace-cmp)
    endif()
  endif()
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/*.h
    ${PROJECT_SOURCE_DIR}/include/module.modulemap ${PROJECT_SOURCE_DIR}/Sources/CInt4QShims/include/*)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/swift-${arg_TARGET}${arg_VARIANT})
  set(imports ${arg_IMPORTS})
  list(TRANSFORM imports REPLACE "(.+)" "${folder}/\\1.o")
  set(result ${folder}/${name}.o)
  add_custom_command(
    OUTPUT ${result}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${folder}
    COMMAND ${INT4Q_SWIFTC} ${flags} -I ${folder} -emit-module -emit-module-path ${folder}/${name}.swiftmodule
            -c ${sources} -o ${result}
    DEPENDS ${sources} ${headers} ${imports}
    COMMENT "Compiling Swift module ${name} for ${arg_TARGET}" VERBATIM COMMAND_EXPAND_LISTS)
  set(${object} ${result} PARENT_SCOPE)
endfunction()
