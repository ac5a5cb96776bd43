// A build without NCCL: asking for it says what is missing.
#include "base/error.h"
#include "kernels/nccl.h"

#if !defined(FATHOM_WITH_NCCL)
namespace fathom {

std::shared_ptr<CommGroup> make_nccl_group(ProcessLink*, int) {
  fail(
      "ranks on GPUs of several processes exchange by NCCL, which this build of fathom has not "
      "(nccl.h was not found when it was built)");
}
int64_t nccl_exchange_bytes() { return 0; }

}  // namespace fathom
#endif
