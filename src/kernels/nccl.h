// Exchange between GPUs by NCCL, for ranks of several processes, whose GPUs cannot access each
// other's memory. make_nccl_group() loads the library. In a build without CUDA or without NCCL's
// header it throws an Error that says so.
#pragma once

#include <cstdint>
#include <memory>

namespace fathom {

class CommGroup;
class ProcessLink;

// Links `ranks` ranks, each on its own GPU. The ranks of this process join, the i-th with tensors
// in the memory of GPU i. `link` connects the processes and must outlive the group; null: all ranks
// are in this process. Sums are taken in the order of the ranks. Throws Error when NCCL is not
// installed.
std::shared_ptr<CommGroup> make_nccl_group(ProcessLink* link, int ranks);
// Bytes of GPU memory that such a link takes per rank; NCCL's own part is an estimate.
int64_t nccl_exchange_bytes();

}  // namespace fathom
