// Makes a GPU the current one of this thread, for as long as the object lives.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda {

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    FATHOM_CUDA(cudaGetDevice(&before_));
    FATHOM_CUDA(cudaSetDevice(device));
  }
  ~DeviceGuard() { cudaSetDevice(before_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
};

}  // namespace fathom::cuda
