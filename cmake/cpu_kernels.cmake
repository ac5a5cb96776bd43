# Per-file instruction sets: src/kernels/cpu/micro_avx512.cpp and micro_avx2.cpp may use what is
# named here and nothing else in the program may; kernels/cpu/micro.cpp asks the processor first.
# (-march=native is not used: it resolves wrongly on new processors and ties a build to its machine.)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  file(GLOB avx512_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/kernels/cpu/*_avx512.cpp)
  file(GLOB avx2_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/kernels/cpu/*_avx2.cpp)
  # Their flags are theirs alone: no header compiled for others, no group.
  set_source_files_properties(${avx512_sources} ${avx2_sources} PROPERTIES
    SKIP_PRECOMPILE_HEADERS ON SKIP_UNITY_BUILD_INCLUSION ON)
  set_source_files_properties(${avx512_sources} PROPERTIES COMPILE_OPTIONS
    "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512vbmi;-mavx512vnni;-mavx512bf16;-mfma;-mf16c;-mbmi2;-O3")
  set_source_files_properties(${avx2_sources} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c;-mbmi2;-O3")
endif()
