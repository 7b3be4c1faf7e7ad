# SPDX-License-Identifier: Apache-2.0
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

if(INT4Q_PYTHON)
  # The wheel carries the library under one name, found beside the package's modules.
  set(int4q_python_dir int4q)
  if(DEFINED SKBUILD_PLATLIB_DIR)
    set(int4q_python_dir ${SKBUILD_PLATLIB_DIR}/int4q)
  endif()
  install(FILES $<TARGET_FILE:int4q> DESTINATION ${int4q_python_dir} RENAME libint4q.so COMPONENT python)
  return()
endif()

install(TARGETS int4q EXPORT int4qTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/int4q.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(EXISTS ${PROJECT_SOURCE_DIR}/include/int4q.hpp)
  install(FILES include/int4q.hpp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
endif()
install(EXPORT int4qTargets NAMESPACE int4q:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/int4q)

write_basic_package_version_file(int4qConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES cmake/int4qConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/int4qConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/int4q)

configure_file(cmake/int4q.pc.in int4q.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/int4q.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
