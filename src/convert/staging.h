// The half-made result of a conversion. Everything is written below SAVE/.convert-part and moved to
// its final name when all of it is there, config.json last: at no moment does SAVE hold something
// that passes for a whole checkpoint. What a killed run left there is taken up again if it belongs
// to the same plan, and removed otherwise.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/safetensors.h"

namespace fathom {

// One output file, open for writing at any place from any thread.
class PartFile {
 public:
  PartFile(std::string path, const SafetensorsLayout& layout)
      : path_(std::move(path)), layout_(layout) {}
  ~PartFile();
  PartFile(PartFile&& other) noexcept;
  PartFile(const PartFile&) = delete;

  // Opens what is there if header and size are right.
  bool reopen();
  // Reserves the whole size on disk, so that a full disk is found here.
  void create();
  void write(uint64_t at, const void* data, size_t bytes);
  void sync();
  void close_file();

  const SafetensorsLayout& layout() const { return layout_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const SafetensorsLayout& layout_;
  int fd_ = -1;
};

// True when `path` starts with the layout's header and has its size.
bool has_layout(const std::string& path, const SafetensorsLayout& layout);

class Staging {
 public:
  // Locks SAVE (made if needed) against a second converter. `manifest` identifies the plan.
  Staging(const std::string& save, std::string manifest);
  ~Staging();
  Staging(const Staging&) = delete;

  static std::string path(const std::string& save, const std::string& name);
  std::string path(const std::string& name) const { return path(save_, name); }
  // Pieces an interrupted run of the same plan has finished; none when there was no such run.
  bool resumable() const { return resumable_; }
  uint64_t done() const { return done_; }
  // Removes what an other run left and notes the plan.
  void restart();
  // Everything below `pieces` has reached the disk.
  void note_done(uint64_t pieces);
  // Gives a finished file its final name.
  void publish(const std::string& name);
  // Writes a small file and publishes it at once.
  void publish_text(const std::string& name, const std::string& text);
  void sync_folder() const;
  void remove();

 private:
  std::string save_, manifest_;
  int lock_ = -1;
  bool resumable_ = false;
  uint64_t done_ = 0;
};

// A whole file; empty when it cannot be read.
std::string slurp(const std::string& path);

}  // namespace fathom
