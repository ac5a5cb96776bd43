// Hugging Face checkpoint -> model-parallel shards, in the names and files of DeepSeek's own
// converter (docs/formats.md).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace fathom {

struct ConvertOptions {
  std::string source, save;
  int experts = 0;  // must be the model's: catches a command line meant for another checkpoint
  int ranks = 1;
  bool drop_mtp = false;
  bool dry_run = false;
  int threads = 0;  // 0: all processors
  // Written data are synced to disk whenever this many bytes have been written; a later run can
  // resume from there.
  uint64_t sync_bytes = 256 << 20;
};

struct ConvertResult {
  enum class State { planned, written, already_done };
  State state = State::planned;
  uint64_t read_bytes = 0, written_bytes = 0;  // by this run
  double seconds = 0;
};

// Calls `say` with lines for the user: the plan, whether it resumes, what is left out. Throws Error
// before anything is written if the source has a problem. If it fails later, the target folder
// holds nothing that looks like a checkpoint, and the next run resumes.
ConvertResult convert(const ConvertOptions& options,
                      const std::function<void(const std::string&)>& say);

}  // namespace fathom
