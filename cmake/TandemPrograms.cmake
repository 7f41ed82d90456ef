# Programs made from one source file each, and the packages that some of them need.

find_package(PkgConfig)

# tandem_package(<name>): the target PkgConfig::<name> if the package is there. Sets <name>_FOUND.
macro(tandem_package name)
  if(PkgConfig_FOUND AND NOT TARGET PkgConfig::${name})
    pkg_check_modules(${name} QUIET IMPORTED_TARGET GLOBAL ${name})
  endif()
endmacro()

# tandem_link_packages(<result> <target> <package>...): links them; the names of missing ones go to <result>.
function(tandem_link_packages result target)
  set(missing "")
  foreach(package IN LISTS ARGN)
    tandem_package(${package})
    if(TARGET PkgConfig::${package})
      target_link_libraries(${target} PRIVATE PkgConfig::${package})
    else()
      list(APPEND missing ${package})
    endif()
  endforeach()
  set(${result} "${missing}" PARENT_SCOPE)
endfunction()

# tandem_program(<source> <library> <package>...): an executable named as its source, in the build tree's folder of
# the same name. It is left out, with a message, if a package is missing.
function(tandem_program source library)
  cmake_path(GET source STEM name)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE ${library} m)
  tandem_link_packages(missing ${name} ${ARGN})
  if(missing)
    list(JOIN missing ", " missing)
    message(WARNING "${name} is left out: pkg-config does not find ${missing} (see tools/install-deps)")
    set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL ON)
  endif()
endfunction()
