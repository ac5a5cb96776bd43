# The CUDA backend: sm_90a alone (H100, H200). A build without it is complete on CPUs.
# FATHOM_WITH_CUDA says in C++ which of the two this is.
set(FATHOM_WITH_CUDA OFF)
if(NOT FATHOM_CUDA STREQUAL "OFF")
  find_program(FATHOM_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_PATH PATHS /usr/local/cuda/bin PATH_SUFFIXES bin)
  if(FATHOM_NVCC)
    set(CMAKE_CUDA_COMPILER ${FATHOM_NVCC})
    set(CMAKE_CUDA_ARCHITECTURES OFF)  # named below: CMake 3.25 does not know 90a
    set(CMAKE_CUDA_FLAGS "${CMAKE_CUDA_FLAGS} -gencode=arch=compute_90a,code=sm_90a")
    if(CCACHE)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
    endif()
    # CMake 3.25 does not know that nvcc 13 has C++20: the flag is given below.
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED OFF)
    enable_language(CUDA)
    find_package(CUDAToolkit 13 REQUIRED)
    set(FATHOM_WITH_CUDA ON)
    set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")
  elseif(FATHOM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FATHOM_CUDA=ON, but no nvcc was found (CUDA toolkit 13)")
  endif()
endif()
message(STATUS "CUDA backend: ${FATHOM_WITH_CUDA}")

# fathom_cuda_sources(name folder): all sources below src/FOLDER become part of fathom_NAME.
function(fathom_cuda_sources name folder)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${folder}/*.cu
       ${CMAKE_SOURCE_DIR}/src/${folder}/*.cpp)
  target_sources(fathom_${name} PRIVATE ${sources})
  target_compile_options(fathom_${name} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--expt-relaxed-constexpr;-lineinfo;--Werror=all-warnings;-Xcompiler=-Wall,-Wextra,-Werror>")
  set(${name}_cuda_sources ${sources} PARENT_SCOPE)
endfunction()

set(FATHOM_CUDA_PLANS cuda_ops_memory.cpp cuda_ops_plan.cpp attention/mha_plan.cpp attention/mla_decode_plan.cpp)

# fathom_use_cuda(): gives the targets that may see CUDA (docs/architecture.md) what they need.
function(fathom_use_cuda)
  if(NOT FATHOM_WITH_CUDA)
    # Memory of GPUs is planned without CUDA, too: these are plain functions of sizes.
    list(TRANSFORM FATHOM_CUDA_PLANS PREPEND ${CMAKE_SOURCE_DIR}/src/kernels/cuda/)
    target_sources(fathom_kernels PRIVATE ${FATHOM_CUDA_PLANS})
    return()
  endif()
  target_compile_definitions(fathom_tensor PUBLIC FATHOM_WITH_CUDA)
  target_link_libraries(fathom_tensor PUBLIC CUDA::cudart_static)
  fathom_cuda_sources(kernels kernels/cuda)
  list(FILTER kernels_cuda_sources INCLUDE REGEX "\\.cpp$")
  fathom_unite(fathom_kernels ${kernels_cuda_sources})
  # NCCL, for GPUs of several machines: its header now, the library when it is used.
  find_path(FATHOM_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(FATHOM_NCCL_LIBRARY NAMES libnccl.so.2 nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
  if(FATHOM_NCCL_INCLUDE)
    target_include_directories(fathom_kernels PRIVATE ${FATHOM_NCCL_INCLUDE})
    target_compile_definitions(fathom_kernels PRIVATE FATHOM_WITH_NCCL)
    set_source_files_properties(${CMAKE_SOURCE_DIR}/src/kernels/cuda/nccl_group.cpp PROPERTIES
      COMPILE_DEFINITIONS FATHOM_NCCL_LIBRARY="${FATHOM_NCCL_LIBRARY}" SKIP_UNITY_BUILD_INCLUSION ON)
  endif()
  message(STATUS "NCCL: ${FATHOM_NCCL_INCLUDE}")
  fathom_cuda_sources(bench bench/cuda)
endfunction()
