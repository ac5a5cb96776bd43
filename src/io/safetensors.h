// safetensors files: 8 bytes of header length (little endian), a JSON header that names every
// tensor with dtype, shape and byte range, then the data. Every number of the header is checked
// before any data is read.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/mapped_file.h"
#include "tensor/dtype.h"

namespace fathom {

// A tensor as it lies in a mapped file. `data` may be unaligned for its type: files of other
// programs pack tensors without padding.
struct StoredTensor {
  std::string name;
  DType dtype = DType::u8;
  std::vector<int64_t> shape;  // empty: a scalar
  const std::byte* data = nullptr;
  size_t bytes = 0;
  std::string file;

  int64_t elements() const { return static_cast<int64_t>(bytes / size_of(dtype)); }
  bool aligned() const { return reinterpret_cast<uintptr_t>(data) % size_of(dtype) == 0; }
};

// A tensor of a dtype that this program does not compute with (BOOL, F64, I8, F8_E8M0, or an
// unknown one). Files may hold such tensors. If one of them is needed, the checkpoint is refused
// with its name.
struct ForeignTensor {
  std::string name, dtype;  // as the file says
  std::vector<int64_t> shape;
  uint64_t bytes = 0;
  std::string file;
};

// A name from a file, made safe for a message: shortened, and without control characters, which
// could change a terminal.
std::string printable(std::string_view name);

// "[2, 3]"
std::string shape_text(const std::vector<int64_t>& shape);

// The values of a float tensor (f32, bf16, f16 or fp8 without scales) as float32, from any
// alignment. Throws Error for integer dtypes.
std::vector<float> to_floats(const StoredTensor& t);

class SafetensorsFile {
 public:
  // Throws Error that names the file and the tensor, and what was expected and found.
  static SafetensorsFile open(const std::string& path);

  const std::vector<StoredTensor>& tensors() const { return tensors_; }   // in file order
  const StoredTensor* find(std::string_view name) const;                  // null: not there
  const StoredTensor& at(std::string_view name) const;                    // Error: not there
  const std::vector<ForeignTensor>& foreign() const { return foreign_; }  // in file order
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& path() const { return map_.path(); }
  size_t bytes() const { return map_.size(); }
  // Where a tensor of this file starts in it, for readers that copy instead of mapping.
  uint64_t offset_of(const StoredTensor& t) const {
    return static_cast<uint64_t>(t.data - map_.data());
  }

 private:
  explicit SafetensorsFile(MappedFile map) : map_(std::move(map)) {}

  MappedFile map_;
  std::vector<StoredTensor> tensors_;
  std::vector<ForeignTensor> foreign_;
  std::unordered_map<std::string, size_t> index_;  // of tensors_
  std::map<std::string, std::string> metadata_;
};

// A parsed header. Byte ranges are relative to the end of the header. Public for the fuzz target,
// which has no file.
struct SafetensorsHeader {
  struct Entry {
    std::string name;
    std::optional<DType> dtype;  // nothing: a dtype of ForeignTensor
    std::string dtype_name;      // as the file says
    std::vector<int64_t> shape;
    uint64_t begin = 0, end = 0;
  };
  std::vector<Entry> entries;  // by begin
  std::map<std::string, std::string> metadata;
  uint64_t data_start = 0;
};
SafetensorsHeader parse_safetensors(const std::byte* file, size_t bytes, const std::string& origin);

struct TensorDecl {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
};

// How the writer lays a file out: its first bytes, and where each tensor's data goes.
struct SafetensorsLayout {
  std::string front;                     // length, header, padding
  std::vector<uint64_t> offsets, sizes;  // in the file, in bytes; by tensor
  uint64_t file_bytes = 0;
};
SafetensorsLayout layout_safetensors(const std::vector<TensorDecl>& tensors,
                                     const std::map<std::string, std::string>& metadata = {});

// Writes a file whose tensors are declared first. Their data may be written in any order, from any
// thread. The file is called PATH.part until finish(); the destructor of a writer that has not
// finished removes it. A killed process leaves nothing under PATH. Where PATH is a link, that is
// said of what it leads to (base/output_file.h).
//
// The data start is aligned to 64 bytes, and tensors whose size is a multiple of 64 come first, so
// all of these are aligned when the file is mapped; the others are aligned to their element.
class SafetensorsWriter {
 public:
  // Reserves the whole size on disk. Throws Error, also if the disk is full.
  SafetensorsWriter(std::string path, std::vector<TensorDecl> tensors,
                    const std::map<std::string, std::string>& metadata = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  const std::vector<TensorDecl>& tensors() const { return tensors_; }
  size_t index_of(const std::string& name) const;  // of a declared tensor
  uint64_t file_bytes() const { return file_bytes_; }

  // Bytes [offset, offset + bytes) of tensor number `tensor`. Thread-safe.
  void write(size_t tensor, uint64_t offset, const void* data, size_t bytes);
  void write(const std::string& name, const void* data);  // a whole tensor

  // Every byte must have been written once. Syncs to disk, then renames to PATH.
  void finish();

 private:
  void put(uint64_t at, const void* data, size_t bytes);
  void discard();

  std::string path_, file_, part_;  // as named, what that leads to, and what is written
  std::vector<TensorDecl> tensors_;
  std::unordered_map<std::string, size_t> index_;
  std::vector<uint64_t> offsets_, sizes_;  // in the file; by tensor
  uint64_t file_bytes_ = 0;
  std::atomic<uint64_t> written_{0};
  int fd_ = -1;
};

struct TensorData {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  const void* data;
};

// A small file in one call.
void write_safetensors(const std::string& path, const std::vector<TensorData>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace fathom
