// The unfinished result of a conversion. All files are written below SAVE/.convert-part and moved
// to their final names when all are complete, config.json last. So SAVE never holds an incomplete
// set of files that could be taken for a checkpoint. What a killed run left there is continued if
// it belongs to the same plan, and removed otherwise.
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

  // Opens the existing file. Returns false if its header or size is wrong.
  bool reopen();
  // Reserves the whole size on disk, so that a full disk is an error here and not later.
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
  // Makes SAVE if needed and locks it against a second converter. `manifest` identifies the plan.
  Staging(const std::string& save, std::string manifest);
  ~Staging();
  Staging(const Staging&) = delete;

  static std::string path(const std::string& save, const std::string& name);
  std::string path(const std::string& name) const { return path(save_, name); }
  // Whether an interrupted run of the same plan exists, and how many pieces it has finished.
  bool resumable() const { return resumable_; }
  uint64_t done() const { return done_; }
  // Removes what another run left and records the plan.
  void restart();
  // Records that every piece below `pieces` has reached the disk.
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

// Reads a whole file; returns an empty text if it cannot be read.
std::string slurp(const std::string& path);

}  // namespace fathom
