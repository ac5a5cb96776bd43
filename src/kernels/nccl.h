// Exchange between GPUs by NCCL: for ranks of several processes, whose GPUs do not reach each
// other's memory. Of a build without CUDA, or without NCCL's header, make_nccl_group() says so; the
// library is loaded when it is called.
#pragma once

#include <cstdint>
#include <memory>

namespace fathom {

class CommGroup;
class ProcessLink;

// `ranks` on a GPU each. Those of this process join, the i-th with tensors in the memory of GPU i;
// `link` (null: all ranks are of this process) leads to the processes of the others and must
// outlive the group. Sums are taken in the order of the ranks. Throws Error when NCCL is not there.
std::shared_ptr<CommGroup> make_nccl_group(ProcessLink* link, int ranks);
// Bytes of GPU memory that a rank takes for that: what NCCL takes is assumed.
int64_t nccl_exchange_bytes();

}  // namespace fathom
