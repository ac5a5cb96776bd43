#include "comm/comm.h"

namespace fathom {
namespace {

class SoloComm final : public Comm {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce(Tensor) override {}
  void all_gather_columns(Tensor) override {}
  void all_gather_rows(Tensor, int) override {}
};

}  // namespace

std::span<const int64_t> Comm::gather_groups(Tensor, Tensor, int) {
  FATHOM_CHECK(false, "this link does not know groups of ranks");
  return {};
}
void Comm::sum_groups(Tensor, Tensor, int) {
  FATHOM_CHECK(false, "this link does not know groups of ranks");
}

GroupStep Comm::agree(const GroupStep& own, int) {
  FATHOM_CHECK(false, "{} rows told to a link that counts them itself", own.rows);
  return own;
}

std::span<const int64_t> Comm::gather_expert_rows(const ExpertRows& all, const ExpertRows& own,
                                                  const ExpertSpread& spread) {
  gather_groups(all.ids, own.ids, spread.group);
  gather_groups(all.weights, own.weights, spread.group);
  return gather_groups(all.hidden, own.hidden, spread.group);
}
void Comm::sum_expert_rows(Tensor sum, Tensor parts, Tensor, const ExpertSpread& spread) {
  sum_groups(sum, parts, spread.group);
}

std::unique_ptr<Comm> make_solo_comm() { return std::make_unique<SoloComm>(); }

}  // namespace fathom
