# fathom_library(name deps...): static library fathom_NAME of all sources below src/NAME.
function(fathom_library name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "cli/main.cpp$|/cuda/")  # CUDA: see cuda.cmake
  add_library(fathom_${name} STATIC ${sources})
  target_include_directories(fathom_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(fathom_${name} PUBLIC ${ARGN})
  set_target_properties(fathom_${name} PROPERTIES LINKER_LANGUAGE CXX)
endfunction()

# Large headers of others, compiled once a target: they are most of the build's time.
function(fathom_precompile target)
  target_precompile_headers(${target} PRIVATE <algorithm> <functional> <map> <memory> <string> <vector>
                                              <fmt/format.h> ${ARGN})
  # g++ 12 sees std::string's own memcpy out of bounds (its bug 105651); as a precompiled header is
  # not a system header for it, it then says so.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE -Wno-array-bounds -Wno-restrict -Wno-stringop-overflow
                                             -Wno-stringop-overread)
  endif()
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
  fathom_precompile(test_${name} <gmock/gmock.h> <gtest/gtest.h>)
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
