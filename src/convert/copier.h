// Copier carries out a ShardPlan. Several threads read the source once, from front to back, in
// pieces, and write every piece to all the files that need it.
#pragma once

#include <cstdint>
#include <vector>

#include "convert/shard_plan.h"
#include "convert/staging.h"

namespace fathom {

// Some rows of a job. Pieces are small: several fit into memory, and a resumed run repeats little.
struct Piece {
  size_t job = 0;
  Range rows;
};

class Copier {
 public:
  static constexpr int64_t kPieceBytes = 4 << 20;

  // Opens the source files. Throws Error if one is missing.
  Copier(const Source& source, const ShardPlan& plan, std::vector<PartFile>& outputs, int threads);
  ~Copier();
  Copier(const Copier&) = delete;

  uint64_t pieces() const { return pieces_.size(); }
  // Bytes read for pieces below `i`.
  uint64_t bytes_before(uint64_t i) const { return bytes_before_[i]; }
  void copy(uint64_t piece, int thread);

 private:
  void read_ahead(uint64_t piece) const;
  void read(const CopyJob& job, Range rows, std::byte* to) const;
  void write(const CopyJob& job, const CopyTarget& target, Range rows, int thread);

  const Source& source_;
  const ShardPlan& plan_;
  std::vector<PartFile>& outputs_;
  std::vector<int> files_;
  std::vector<Piece> pieces_;
  std::vector<uint64_t> bytes_before_;
  std::vector<std::vector<std::byte>> read_, gathered_;  // by thread
};

}  // namespace fathom
