// Takes a checkpoint apart, lets a test damage it, and writes it again in either layout.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "io/json_file.h"
#include "io/safetensors.h"
#include "model/tensor_list.h"
#include "numerics/bf16.h"
#include "numerics/fp8.h"
#include "support/temp_folder.h"

namespace fathom::test {

struct LooseTensor {
  DType dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

class CheckpointMaker {
 public:
  explicit CheckpointMaker(const std::string& dir) {
    config = read_json_file(dir + "/config.json", 1 << 20);
    for (const auto& entry : std::filesystem::directory_iterator(dir)) {
      if (entry.path().extension() != ".safetensors") continue;
      SafetensorsFile file = SafetensorsFile::open(entry.path());
      for (const StoredTensor& t : file.tensors())
        tensors[t.name] = {t.dtype, t.shape, {reinterpret_cast<const char*>(t.data), t.bytes}};
    }
  }
  static CheckpointMaker tiny() {
    return CheckpointMaker(std::string(FATHOM_SOURCE_DIR) + "/tests/data/tiny");
  }

  // Of a config with FP8 blocks: random weights that keep activations near 1.
  static CheckpointMaker random(nlohmann::json config, unsigned seed) {
    CheckpointMaker made;
    made.config = std::move(config);
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    for (const TensorSpec& spec : tensor_list(parse_config(made.config.dump(), "test"))) {
      int64_t count = 1;
      for (int64_t n : spec.shape) count *= n;
      const float deviation = 1.0f / std::sqrt(static_cast<float>(spec.shape.back()));
      LooseTensor t{DType::f32, spec.shape, {}};
      auto fill = [&](DType dtype, auto value) {
        t.dtype = dtype;
        std::vector<decltype(value())> values(static_cast<size_t>(count));
        for (auto& v : values) v = value();
        t.bytes.assign(reinterpret_cast<const char*>(values.data()),
                       values.size() * sizeof(values[0]));
      };
      if (spec.kind == Kind::norm) {
        fill(DType::bf16, [&] { return to_bf16(1 + 0.01f * normal(generator)); });
      } else if (spec.kind == Kind::f32_vector) {
        fill(DType::f32, [&] { return 0.01f * normal(generator); });
      } else if (spec.kind == Kind::plain) {
        fill(DType::bf16, [&] { return to_bf16(deviation * normal(generator)); });
      } else {
        fill(DType::fp8_e4m3, [&] { return float_to_fp8(64 * normal(generator)); });
        const std::vector<int64_t> blocks{(spec.shape[0] + 127) / 128, (spec.shape[1] + 127) / 128};
        const std::vector<float> scales(static_cast<size_t>(blocks[0] * blocks[1]), deviation / 64);
        made.tensors[spec.name + "_scale_inv"] = {
            DType::f32, blocks,
            std::string(reinterpret_cast<const char*>(scales.data()), 4 * scales.size())};
      }
      made.tensors[spec.name] = std::move(t);
    }
    return made;
  }

  void write_config(const TempFolder& dir) const {
    write_file(dir.file("config.json"), config.dump());
  }

  // One file, no index.
  void write(const TempFolder& dir) const {
    write_config(dir);
    write_tensors(dir.file("model.safetensors"), tensors);
  }

  // model{r}-mp{MP}.safetensors by the split rule, written here from scratch so that the loader is
  // not tested with its own code.
  void write_converted(const TempFolder& dir, int ranks) const {
    write_config(dir);
    Config c = parse_config(config.dump(), "test");
    for (int rank = 0; rank < ranks; ++rank) {
      std::map<std::string, LooseTensor> shard;
      for (const TensorSpec& spec : tensor_list(c)) {
        if (!tensors.count(spec.name)) continue;
        if (spec.expert >= 0 && spec.expert / (c.experts / ranks) != rank) continue;
        const LooseTensor& t = tensors.at(spec.name);
        Box box{0, t.shape[0], 0, t.shape.size() > 1 ? t.shape[1] : 1};
        if (spec.split == Split::rows) {
          box.row_end = t.shape[0] / ranks * (rank + 1);
          box.row_begin = t.shape[0] / ranks * rank;
        } else if (spec.split == Split::cols) {
          box.col_end = t.shape[1] / ranks * (rank + 1);
          box.col_begin = t.shape[1] / ranks * rank;
        }
        shard[converted_name(spec.name)] = cut(t, box);
        std::string scale = spec.name + "_scale_inv";
        if (tensors.count(scale))
          shard[converted_name(scale)] =
              cut(tensors.at(scale), {box.row_begin / 128, (box.row_end + 127) / 128,
                                      box.col_begin / 128, (box.col_end + 127) / 128});
      }
      write_tensors(dir.file(fmt::format("model{}-mp{}.safetensors", rank, ranks)), shard);
    }
  }

  static void write_tensors(const std::string& path,
                            const std::map<std::string, LooseTensor>& all) {
    std::vector<TensorData> list;
    for (const auto& [name, t] : all) list.push_back({name, t.dtype, t.shape, t.bytes.data()});
    write_safetensors(path, list);
  }

  nlohmann::json config;
  std::map<std::string, LooseTensor> tensors;

 private:
  CheckpointMaker() = default;
  struct Box {
    int64_t row_begin, row_end, col_begin, col_end;
  };
  static LooseTensor cut(const LooseTensor& t, const Box& box) {
    if (t.shape.size() < 2) return t;
    int64_t size = static_cast<int64_t>(size_of(t.dtype)), width = t.shape[1];
    LooseTensor part{t.dtype, {box.row_end - box.row_begin, box.col_end - box.col_begin}, {}};
    for (int64_t r = box.row_begin; r < box.row_end; ++r)
      part.bytes += t.bytes.substr((r * width + box.col_begin) * size, part.shape[1] * size);
    return part;
  }
};

}  // namespace fathom::test
