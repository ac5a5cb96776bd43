# Per-file instruction sets: files of src/kernels/cpu named *_amx.cpp, *_avx512.cpp,
# *_avx512f32.cpp and *_avx2.cpp may use what is named here and nothing else in the program may;
# kernels/cpu/cpu_ops.cpp asks the processor first. (-march=native is not used: it resolves wrongly
# on new processors and ties a build to its machine.)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(avx2_options -mavx2 -mfma -mf16c -mbmi2 -O3)
  set(avx512f32_options -mavx512f -mavx512bw -mavx512vl -mavx512dq ${avx2_options})
  set(avx512_options -mavx512vbmi -mavx512vnni -mavx512bf16 ${avx512f32_options})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # With its default regions g++ 12 keeps operands of the innermost loops on the stack although
    # registers are free: products of 13 to 16 rows took a fifth longer.
    list(APPEND avx512_options -fira-region=one)
  endif()
  set(amx_options -mamx-tile -mamx-bf16 ${avx512_options})
  foreach(kernels avx2 avx512f32 avx512 amx)
    file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/kernels/cpu/*_${kernels}.cpp)
    # Their flags are theirs alone: no header compiled for others, no group.
    set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS "${${kernels}_options}"
      SKIP_PRECOMPILE_HEADERS ON SKIP_UNITY_BUILD_INCLUSION ON)
  endforeach()
endif()
