#include "convert/random_checkpoint.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <tuple>

#include "base/error.h"
#include "base/output_file.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "base/units.h"
#include "convert/disk_space.h"
#include "convert/piece_loop.h"
#include "convert/random_tensor.h"
#include "io/safetensors.h"
#include "model/config.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int64_t kPieceBytes = 4 << 20;
constexpr int kMaxFillThreads = 64;

// The config with the quantisation that `dtype` asks for.
ordered_json with_dtype(const RandomOptions& o) {
  ordered_json config = ordered_json::parse(o.config, nullptr, false);
  if (!config.is_object()) fail("{}: expected a JSON object", o.origin);
  if (!config.contains("hidden_size"))
    fail("{}: no hidden_size: expected a Hugging Face config.json", o.origin);
  if (!o.dtype) return config;
  config["torch_dtype"] = *o.dtype == DType::f32 ? "float32" : "bfloat16";
  if (*o.dtype != DType::fp8_e4m3) config.erase("quantization_config");
  if (*o.dtype == DType::fp8_e4m3 && !config.contains("quantization_config"))
    config["quantization_config"] = {{"quant_method", "fp8"},
                                     {"fmt", "e4m3"},
                                     {"scale_fmt", "ue8m0"},
                                     {"activation_scheme", "dynamic"},
                                     {"weight_block_size", {128, 128}}};
  return config;
}

struct Piece {
  size_t tensor = 0;
  int64_t begin = 0, end = 0;  // rows
};

class Maker {
 public:
  using Say = std::function<void(const std::string&)>;
  Maker(const RandomOptions& o, const Say& say)
      : o_(o),
        json_(with_dtype(o)),
        text_(json_.dump(2) + "\n"),
        tensors_(random_tensors(parse_config(text_, o.origin), json_.value("torch_dtype", ""))),
        say_(say) {}

  RandomResult run() {
    cut_into_files();
    describe();
    check_folder();
    if (o_.dry_run) return {total_, 0};
    auto begin = std::chrono::steady_clock::now();
    fs::create_directories(o_.out);
    write();
    double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return {total_, seconds};
  }

 private:
  // At least two files, so that the index is needed at any size; a weight and its scales stay
  // together.
  void cut_into_files() {
    for (const RandomTensor& t : tensors_) total_ += t.bytes();
    uint64_t limit = std::min(o_.file_bytes, total_ / 2), used = 0;
    files_.emplace_back();
    for (const RandomTensor& t : tensors_) {
      if (!files_.back().empty() && !t.is_scale && used + t.bytes() > limit) {
        files_.emplace_back();
        used = 0;
      }
      place_.push_back({files_.size() - 1, files_.back().size()});
      files_.back().push_back({t.name, t.dtype, t.shape});
      used += t.bytes();
    }
  }

  std::string file_name(size_t i) const {
    return fmt::format("model-{:05}-of-{:06}.safetensors", i + 1, files_.size());
  }
  std::string path(const std::string& name) const { return (fs::path(o_.out) / name).string(); }

  void describe() {
    say_(fmt::format("{}: {} tensors in {} files, {} ({} bytes of weights), seed {}", o_.out,
                     tensors_.size(), files_.size(), bytes_text(total_), total_, o_.seed));
    say_("no tokenizer is written: prompts must be token ids");
  }

  void check_folder() {
    std::error_code error;
    if (fs::exists(o_.out, error) && !fs::is_directory(o_.out, error))
      fail("--out {} is a file, expected a folder", o_.out);
    if (fs::is_directory(o_.out, error))
      for (const auto& entry : fs::directory_iterator(o_.out))
        if (entry.path().extension() == ".safetensors" || entry.path().filename() == "config.json")
          fail("{} holds a checkpoint already ({}): choose another folder, or remove it", o_.out,
               entry.path().filename().string());
    check_disk_space(o_.out, total_);
  }

  void write() {
    std::vector<std::unique_ptr<SafetensorsWriter>> writers;
    for (size_t i = 0; i < files_.size(); ++i)
      writers.push_back(std::make_unique<SafetensorsWriter>(path(file_name(i)), files_[i]));
    std::vector<Piece> pieces;
    std::vector<uint64_t> before{0};
    for (size_t t = 0; t < tensors_.size(); ++t) {
      int64_t row = tensors_[t].cols() * static_cast<int64_t>(size_of(tensors_[t].dtype));
      int64_t step = std::max<int64_t>(1, kPieceBytes / row);
      for (int64_t r = 0; r < tensors_[t].rows(); r += step) {
        pieces.push_back({t, r, std::min(r + step, tensors_[t].rows())});
        before.push_back(before.back() + static_cast<uint64_t>((pieces.back().end - r) * row));
      }
    }
    int threads = std::clamp(o_.threads > 0 ? o_.threads : usable_processors(), 1, kMaxFillThreads);
    std::vector<std::vector<std::byte>> buffers(threads);
    RandomFiller filler(o_.seed, tensors_);
    {
      Progress progress("make-checkpoint", total_);
      auto work = [&](uint64_t i, int thread) {
        const Piece& p = pieces[i];
        buffers[thread].resize(before[i + 1] - before[i]);
        filler.fill(p.tensor, p.begin, p.end, buffers[thread].data());
        auto [file, index] = place_[p.tensor];
        int64_t row = tensors_[p.tensor].cols();
        writers[file]->write(
            index, static_cast<uint64_t>(p.begin * row) * size_of(tensors_[p.tensor].dtype),
            buffers[thread].data(), buffers[thread].size());
      };
      run_pieces(
          {0, pieces.size(), threads, work, [&](uint64_t done) { progress.update(before[done]); }});
    }
    for (auto& writer : writers) writer->finish();
    write_index();
    write_output_file(path("config.json"), text_);
  }

  void write_index() {
    ordered_json index;
    index["metadata"]["total_size"] = total_;
    for (size_t t = 0; t < tensors_.size(); ++t)
      index["weight_map"][tensors_[t].name] = file_name(place_[t].first);
    write_output_file(path("model.safetensors.index.json"), index.dump(1) + "\n");
  }

  const RandomOptions& o_;
  ordered_json json_;
  std::string text_;
  std::vector<RandomTensor> tensors_;
  const Say& say_;
  std::vector<std::vector<TensorDecl>> files_;
  std::vector<std::pair<size_t, size_t>> place_;  // by tensor: file, number in it
  uint64_t total_ = 0;
};

}  // namespace

RandomResult make_random_checkpoint(const RandomOptions& options,
                                    const std::function<void(const std::string&)>& say) {
  return Maker(options, say).run();
}

}  // namespace fathom
