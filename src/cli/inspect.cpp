// fathom inspect: what is in a checkpoint and whether this machine can run it.
#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/units.h"
#include "cli/command.h"
#include "io/machine.h"
#include "model/checkpoint.h"
#include "model/footprint.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InspectFlags {
  std::string path, config;
  bool json = false;
};

struct DTypeShare {
  int64_t tensors = 0, bytes = 0;
};

struct CacheRoom {
  const char* name;
  int64_t per_layer, per_token;
  int64_t context;  // that fits beside the weights, at most the model's own limit
};

// All facts of the report, collected before they are printed as text or JSON.
struct InspectReport {
  Config config;
  std::string layout;
  size_t files = 0;
  std::map<std::string, DTypeShare> dtypes;
  ParameterCount parameters;
  int64_t stored = 0, weights = 0, available = 0;  // bytes
  std::vector<CacheRoom> caches;
  std::vector<std::string> problems, warnings;

  bool fits() const { return weights <= available; }
};

void add_share(std::map<std::string, DTypeShare>& dtypes, const std::string& name, uint64_t bytes) {
  DTypeShare& share = dtypes[name];
  ++share.tensors;
  share.bytes += static_cast<int64_t>(bytes);
}

InspectReport examine(const InspectFlags& o) {
  InspectReport r;
  Config declared = load_config(o.path, o.config);
  CheckpointFiles files = CheckpointFiles::open(o.path);
  CheckpointReport check = check_checkpoint(files, declared);
  r.config = check.config;
  r.problems = std::move(check.problems);
  r.warnings = std::move(check.warnings);
  r.layout = files.converted() ? fmt::format("converted for {} rank{}", files.ranks(),
                                             files.ranks() == 1 ? "" : "s")
                               : "Hugging Face";
  r.files = files.files().size();
  for (const SafetensorsFile& file : files.files()) {
    r.stored += static_cast<int64_t>(file.bytes());
    for (const StoredTensor& t : file.tensors())
      add_share(r.dtypes, std::string(name_of(t.dtype)), t.bytes);
    for (const ForeignTensor& t : file.foreign()) add_share(r.dtypes, t.dtype, t.bytes);
  }
  r.parameters = count_parameters(r.config);
  // An upper bound: pages of shards that have been joined may be dropped again.
  r.weights = r.stored;
  if (r.problems.empty()) r.weights += bytes_to_own(files, r.config);
  r.available = available_memory();
  const Config& c = r.config;
  for (auto [name, format] : {std::pair{"f32", KvFormat::f32}, std::pair{"bf16", KvFormat::bf16},
                              std::pair{"fp8", KvFormat::fp8}}) {
    int64_t token = cache_bytes_per_token(c, format);
    int64_t room = std::max<int64_t>(0, r.available - r.weights) / token;
    r.caches.push_back({name, token / c.layers, token, std::min(room, c.max_positions)});
  }
  return r;
}

// Paths and shortened names may hold broken UTF-8.
void print_pretty(const Json& json) {
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

// 671026419200 -> "671.03 B"
std::string count_text(int64_t n) {
  double v = static_cast<double>(n);
  if (n >= 1'000'000'000) return fmt::format("{:.2f} B", v / 1e9);
  if (n >= 1'000'000) return fmt::format("{:.2f} M", v / 1e6);
  return fmt::format("{}", n);
}

template <class... Args>
void line(const char* label, fmt::format_string<Args...> format, Args&&... args) {
  fmt::print("{:<14}{}\n", label, fmt::format(format, std::forward<Args>(args)...));
}

void print_architecture(const Config& c) {
  line("architecture", "{}: {}", c.model_type,
       c.has_indexer() ? fmt::format("sparse attention over the {} best positions", c.index_topk)
                       : std::string("no indexer, runs dense"));
  line("layers", "{}: {} dense, {} with experts{}", c.layers, c.experts ? c.dense_layers : c.layers,
       c.experts ? c.layers - c.dense_layers : 0, c.mtp_layers ? "; and 1 for MTP" : "");
  line("sizes", "hidden {}, vocabulary {}, dense MLP {}, expert {}", c.hidden, c.vocab,
       c.intermediate, c.moe_intermediate);
  line("attention", "{} heads of {} + {} (rope), value {}, latent {}, query rank {}", c.heads,
       c.nope, c.rope, c.value, c.latent, c.q_rank);
  if (c.has_indexer())
    line("indexer", "{} heads of {}, top {}", c.index_heads, c.index_dim, c.index_topk);
  if (c.experts > 0)
    line("experts", "{} of {} a token, from {} of {} groups, and {} shared", c.experts_per_token,
         c.experts, c.kept_groups, c.groups, c.shared_experts);
  line("context", "{} positions, {}", c.max_positions,
       c.yarn ? fmt::format("YaRN {:g} x {:g}", c.yarn->factor, c.yarn->original_context)
              : std::string("plain rope"));
}

void print_list(const char* what, const std::vector<std::string>& lines) {
  if (lines.empty()) return;
  fmt::print("\n{} {}{}:\n", lines.size(), what, lines.size() == 1 ? "" : "s");
  for (const std::string& l : lines) fmt::print("  {}\n", l);
}

void print_text(const InspectFlags& o, const InspectReport& r) {
  line("checkpoint", "{} ({}, {} file{}, {})", o.path, r.layout, r.files, r.files == 1 ? "" : "s",
       bytes_text(r.stored));
  print_architecture(r.config);
  line("parameters", "{} in total, {} active a token{}", count_text(r.parameters.total),
       count_text(r.parameters.active),
       r.parameters.mtp ? fmt::format("; MTP adds {}", count_text(r.parameters.mtp)) : "");
  const char* label = "dtypes";
  for (const auto& [name, share] : r.dtypes) {
    line(label, "{:<8} {:>6} tensors {:>12}", name, share.tensors, bytes_text(share.bytes));
    label = "";
  }
  line("weights", "{} in memory", bytes_text(r.weights));
  label = "cache";
  for (const CacheRoom& k : r.caches) {
    line(label, "{:<5} {:>6} bytes a token and layer, {:>8} a token; room for {} tokens", k.name,
         k.per_layer, bytes_text(k.per_token), k.context);
    label = "";
  }
  line("this machine", "{} available: {}", bytes_text(r.available),
       r.fits() ? "the weights fit" : "the weights do not fit; they would be read from disk");
  print_list("warning", r.warnings);
  print_list("problem", r.problems);
}

Json to_json(const InspectFlags& o, const InspectReport& r) {
  const Config& c = r.config;
  Json out = {{"path", o.path},
              {"layout", r.layout},
              {"files", r.files},
              {"file_bytes", r.stored},
              {"model_type", c.model_type},
              {"layers", c.layers},
              {"dense_layers", c.dense_layers},
              {"mtp_layers", c.mtp_layers},
              {"hidden", c.hidden},
              {"vocab", c.vocab},
              {"heads", c.heads},
              {"experts", c.experts},
              {"experts_per_token", c.experts_per_token},
              {"index_topk", c.index_topk},
              {"max_positions", c.max_positions}};
  out["parameters"] = {
      {"total", r.parameters.total}, {"active", r.parameters.active}, {"mtp", r.parameters.mtp}};
  for (const auto& [name, share] : r.dtypes)
    out["dtypes"][name] = {{"tensors", share.tensors}, {"bytes", share.bytes}};
  out["weight_bytes"] = r.weights;
  for (const CacheRoom& k : r.caches)
    out["cache"][k.name] = {{"bytes_per_token", k.per_token}, {"max_context", k.context}};
  out["available_bytes"] = r.available;
  out["fits"] = r.fits();
  out["warnings"] = r.warnings;
  out["problems"] = r.problems;
  return out;
}

// One line of a file's list, of whatever dtype.
struct Listed {
  const std::string& name;
  std::string_view dtype;
  const std::vector<int64_t>& shape;
  uint64_t bytes;
};

std::vector<Listed> tensors_of(const SafetensorsFile& file) {
  std::vector<Listed> all;
  for (const StoredTensor& t : file.tensors())
    all.push_back({t.name, name_of(t.dtype), t.shape, t.bytes});
  for (const ForeignTensor& t : file.foreign()) all.push_back({t.name, t.dtype, t.shape, t.bytes});
  return all;
}

int list_file(const InspectFlags& o) {
  const SafetensorsFile file = SafetensorsFile::open(o.path);
  const std::vector<Listed> tensors = tensors_of(file);
  if (o.json) {
    Json out = {{"path", o.path}, {"file_bytes", file.bytes()}, {"metadata", file.metadata()}};
    out["tensors"] = Json::array();
    for (const Listed& t : tensors)
      out["tensors"].push_back(
          {{"name", t.name}, {"dtype", t.dtype}, {"shape", t.shape}, {"bytes", t.bytes}});
    print_pretty(out);
    return 0;
  }
  size_t width = 4;
  for (const Listed& t : tensors) width = std::max(width, printable(t.name).size());
  for (const Listed& t : tensors)
    fmt::print("{:<{}}  {:<8} {:>16} {:>12}\n", printable(t.name), width, t.dtype,
               shape_text(t.shape), bytes_text(static_cast<int64_t>(t.bytes)));
  fmt::print("{} tensors, {}\n", tensors.size(), bytes_text(static_cast<int64_t>(file.bytes())));
  for (const auto& [key, value] : file.metadata())
    fmt::print("metadata {} = {}\n", printable(key), printable(value));
  return 0;
}

int inspect(const InspectFlags& o) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(o.path, ignored)) return list_file(o);
  InspectReport report = examine(o);
  if (o.json)
    print_pretty(to_json(o, report));
  else
    print_text(o, report);
  return report.problems.empty() ? 0 : 1;
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto o = std::make_shared<InspectFlags>();
  CLI::App* command =
      app.add_subcommand("inspect", "show what is in a checkpoint and whether it fits");
  command->add_option("path", o->path, "checkpoint folder, or one .safetensors file")->required();
  command->add_option("--config", o->config,
                      "config file instead of the folder's config.json (both formats)");
  command->add_flag("--json", o->json, "print one JSON object");
  on_run(*command, [o] { return inspect(*o); });
}

}  // namespace fathom::cli
