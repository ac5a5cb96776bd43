#include "convert/copier.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace fathom {

Copier::Copier(const Source& source, const ShardPlan& plan, std::vector<PartFile>& outputs,
               int threads)
    : source_(source), plan_(plan), outputs_(outputs), read_(threads), gathered_(threads) {
  bytes_before_.push_back(0);
  for (size_t j = 0; j < plan.jobs.size(); ++j) {
    const CopyJob& job = plan.jobs[j];
    int64_t step = std::max<int64_t>(1, kPieceBytes / job.row_bytes);
    for (int64_t row = 0; row < job.rows; row += step) {
      Range rows{row, std::min(job.rows, row + step)};
      pieces_.push_back({j, rows});
      bytes_before_.push_back(bytes_before_.back() +
                              static_cast<uint64_t>(rows.size() * job.row_bytes));
    }
  }
  for (const SourceFile& file : source.files) {
    int fd = open(file.path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail("cannot open {}: {}", file.path, std::strerror(errno));
    files_.push_back(fd);
  }
}

Copier::~Copier() {
  for (int fd : files_) close(fd);
}

void Copier::copy(uint64_t piece, int thread) {
  const Piece& p = pieces_[piece];
  const CopyJob& job = plan_.jobs[p.job];
  auto bytes = static_cast<size_t>(p.rows.size() * job.row_bytes);
  if (read_[thread].size() < bytes) read_[thread].resize(bytes);
  read_ahead(piece + 3 * read_.size());
  read(job, p.rows, read_[thread].data());
  for (const CopyTarget& target : job.targets) write(job, target, p.rows, thread);
}

// The system's read-ahead follows one reader per file. With several readers it guesses wrong and
// reads little at a time. So each piece requests the one that will be needed a few pieces later.
void Copier::read_ahead(uint64_t piece) const {
  if (piece >= pieces_.size()) return;
  const Piece& p = pieces_[piece];
  const CopyJob& job = plan_.jobs[p.job];
  posix_fadvise(files_[job.file], static_cast<off_t>(job.offset) + p.rows.begin * job.row_bytes,
                p.rows.size() * job.row_bytes, POSIX_FADV_WILLNEED);
}

void Copier::read(const CopyJob& job, Range rows, std::byte* to) const {
  const SourceFile& file = source_.files[job.file];
  uint64_t at = job.offset + static_cast<uint64_t>(rows.begin * job.row_bytes);
  auto left = static_cast<size_t>(rows.size() * job.row_bytes);
  while (left > 0) {
    ssize_t n = pread(files_[job.file], to, left, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("cannot read {}: at byte {}: {}", file.path, at, std::strerror(errno));
    if (n == 0)
      fail("{} ends at byte {}, expected {} bytes: it was shortened meanwhile", file.path, at,
           file.bytes);
    to += n;
    at += static_cast<uint64_t>(n);
    left -= static_cast<size_t>(n);
  }
}

void Copier::write(const CopyJob& job, const CopyTarget& target, Range rows, int thread) {
  Range part{std::max(rows.begin, target.rows.begin), std::min(rows.end, target.rows.end)};
  if (part.size() <= 0) return;
  int64_t width = target.row_bytes.size();
  const std::byte* from = read_[thread].data() + (part.begin - rows.begin) * job.row_bytes;
  if (width != job.row_bytes) {
    // A split by columns: the parts of the rows are gathered first, so that one write takes them
    // all.
    std::vector<std::byte>& packed = gathered_[thread];
    auto bytes = static_cast<size_t>(part.size() * width);
    if (packed.size() < bytes) packed.resize(bytes);
    for (int64_t r = 0; r < part.size(); ++r)
      std::memcpy(packed.data() + r * width, from + r * job.row_bytes + target.row_bytes.begin,
                  static_cast<size_t>(width));
    from = packed.data();
  }
  PartFile& out = outputs_[target.rank];
  uint64_t at = out.layout().offsets[target.tensor] +
                static_cast<uint64_t>((part.begin - target.rows.begin) * width);
  out.write(at, from, static_cast<size_t>(part.size() * width));
}

}  // namespace fathom
