# SPDX-License-Identifier: Apache-2.0
# Swift modules compiled in Embedded mode: no runtime library, whole module at once, one object each.

set(CMAKE_Swift_COMPILATION_MODE wholemodule)
set(INT4Q_SWIFT_TARGET ${CMAKE_SYSTEM_PROCESSOR}-unknown-linux-gnu)

# int4q_add_swift_module(NAME [KERNELS] [machine flags...]): an OBJECT library from Sources/NAME/*.swift. KERNELS also
# compiles Sources/KernelsShared into it, without checks: kernels' arguments have been checked. The flags go to the clang
# importer, which sets Swift's own code generation too.
function(int4q_add_swift_module name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "KERNELS" "" "")
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/Sources/${name}/*.swift)
  if(arg_KERNELS)
    list(FILTER sources EXCLUDE REGEX /Shared/) # a link, for SwiftPM
    file(GLOB shared CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/Sources/KernelsShared/*.swift)
    list(APPEND sources ${shared})
  endif()
  add_library(${name} OBJECT ${sources})
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON Swift_MODULE_NAME ${name})
  target_include_directories(${name} PRIVATE
    ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/Sources/CInt4QShims/include ${CMAKE_CURRENT_BINARY_DIR})
  target_compile_options(${name} PRIVATE
    "SHELL:-enable-experimental-feature Embedded" "SHELL:-target ${INT4Q_SWIFT_TARGET}" -parse-as-library "SHELL:-Xfrontend -function-sections"
    "SHELL:-Xcc -fvisibility=hidden" -warnings-as-errors "$<$<NOT:$<CONFIG:Debug>>:-O>" $<$<BOOL:${arg_KERNELS}>:-Ounchecked>)
  foreach(flag IN LISTS arg_UNPARSED_ARGUMENTS)
    target_compile_options(${name} PRIVATE "SHELL:-Xcc ${flag}")
  endforeach()
  if(INT4Q_SANITIZE)
    target_compile_options(${name} PRIVATE -sanitize=${INT4Q_SANITIZE} -g)
  endif()
endfunction()
