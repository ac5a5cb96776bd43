# fathom_edges(name out): the folders that src/NAME may include by src/layers.txt, as targets.
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/layers.txt)
function(fathom_edges name out)
  file(STRINGS ${CMAKE_SOURCE_DIR}/src/layers.txt lines REGEX "^(${name}(/[^:]*)?:|.tests.$)")
  set(targets "")
  foreach(line ${lines})
    if(line MATCHES "tests.$")  # the lines of other sections follow
      break()
    endif()
    string(REGEX REPLACE "^[^:]*: *" "" line "${line}")
    string(REGEX MATCHALL "[^ ]+" rooms "${line}")
    list(TRANSFORM rooms REPLACE "/.*" "")
    list(REMOVE_ITEM rooms ${name} cuda mpi)
    list(TRANSFORM rooms PREPEND fathom_)
    list(APPEND targets ${rooms})
  endforeach()
  list(REMOVE_DUPLICATES targets)
  set(${out} ${targets} PARENT_SCOPE)
endfunction()

# fathom_library(name libraries...): static library fathom_NAME of all sources below src/NAME,
# linked to the folders it may include and to `libraries` of others.
function(fathom_library name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "cli/main.cpp$|/cuda/")  # CUDA: see cuda.cmake
  add_library(fathom_${name} STATIC ${sources})
  target_include_directories(fathom_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  fathom_edges(${name} edges)
  target_link_libraries(fathom_${name} PUBLIC ${edges} ${ARGN})
  set_target_properties(fathom_${name} PROPERTIES LINKER_LANGUAGE CXX)
  if(name IN_LIST light_rooms)
    fathom_precompile(fathom_${name} light)
    fathom_compile_lightly(fathom_${name})
  else()
    fathom_precompile(fathom_${name} program)
  endif()
  fathom_unite(fathom_${name} ${sources})
endfunction()

# fathom_unite(target sources...): with FATHOM_UNITY the files of a folder are compiled eight at a
# time, each group as one: they share the cost of the headers and of the templates they all use.
function(fathom_unite target)
  if(NOT FATHOM_UNITY)
    return()
  endif()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
  # A source of a group is an included file for g++, which warns of anonymous namespaces in those.
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-subobject-linkage>)
  list(SORT ARGN)
  set(last_folder "")
  foreach(source ${ARGN})
    get_filename_component(folder ${source} DIRECTORY)
    if(NOT folder STREQUAL last_folder)
      set(last_folder ${folder})
      set(number 0)
    endif()
    file(RELATIVE_PATH name ${CMAKE_SOURCE_DIR} ${folder})
    string(REPLACE "/" "_" name ${name})
    math(EXPR group "${number} / 8")
    math(EXPR number "${number} + 1")
    set_source_files_properties(${source} PROPERTIES UNITY_GROUP ${name}_${group})
  endforeach()
endfunction()

# fathom_precompiled(name headers...): large headers of others, compiled once for all targets that
# then call fathom_precompile(TARGET NAME): parsing them was most of the build's time.
function(fathom_precompiled name)
  set(source ${CMAKE_BINARY_DIR}/generated/precompiled_${name}.cpp)
  file(CONFIGURE OUTPUT ${source} CONTENT "// CMake compiles headers in advance for a target that has a source.\n")
  add_library(fathom_precompiled_${name} OBJECT ${source})
  target_link_libraries(fathom_precompiled_${name} PRIVATE fmt::fmt nlohmann_json::nlohmann_json)
  target_precompile_headers(fathom_precompiled_${name} PRIVATE ${ARGN})
  fathom_precompile_flags(fathom_precompiled_${name})
endfunction()

function(fathom_precompile target name)
  target_precompile_headers(${target} REUSE_FROM fathom_precompiled_${name})
  fathom_precompile_flags(${target})
endfunction()

# g++ 12 sees std::string's own memcpy out of bounds (its bug 105651); as a precompiled header is
# not a system header for it, it then says so.
function(fathom_precompile_flags target)
  foreach(warning array-bounds restrict stringop-overflow stringop-overread)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-${warning}>)
  endforeach()
endfunction()

# fathom_compile_lightly(target): for tests, which measure no speed, and for rooms that are named light.
function(fathom_compile_lightly target)
  target_compile_options(${target} PRIVATE $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:-O1>)
endfunction()

# fathom_headers(name): header-only folder.
function(fathom_headers name)
  add_library(fathom_${name} INTERFACE)
  target_include_directories(fathom_${name} INTERFACE ${CMAKE_SOURCE_DIR}/src)
endfunction()

# fathom_test(name deps...): one GoogleTest program of all tests/NAME/*_test.cpp. Suites whose names
# start with Long are a test of their own with the label `long`: `make test-long` runs them.
function(fathom_test name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${name}/*_test.cpp)
  if(NOT sources)
    return()
  endif()
  add_executable(test_${name} ${sources})
  target_link_libraries(test_${name} PRIVATE ${ARGN} GTest::gtest GTest::gmock GTest::gtest_main)
  target_include_directories(test_${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  fathom_precompile(test_${name} tests)
  fathom_compile_lightly(test_${name})
  fathom_unite(test_${name} ${sources})
  target_compile_definitions(test_${name} PRIVATE FATHOM_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                                                  FATHOM_BINARY="$<TARGET_FILE:fathom>")
  add_test(NAME ${name} COMMAND test_${name} --gtest_filter=-Long*)
  foreach(source ${sources})
    file(STRINGS ${source} long_suites REGEX "^TEST(_F|_P)?\\(Long")
    if(long_suites)
      add_test(NAME long_${name} COMMAND test_${name} --gtest_filter=Long*)
      set_tests_properties(long_${name} PROPERTIES LABELS long TIMEOUT 1800)
      break()
    endif()
  endforeach()
endfunction()
