#include "model/config_rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace fathom {
namespace {

using nlohmann::json;

constexpr int64_t kMaxContext = 1 << 30;

struct Rope {
  double theta = 10000;
  std::optional<YarnParams> yarn;

  bool operator==(const Rope& o) const {
    const auto values = [](const YarnParams& y) {
      return std::tuple(y.factor, y.original_context, y.beta_fast, y.beta_slow, y.mscale_all_dim);
    };
    if (theta != o.theta || yarn.has_value() != o.yarn.has_value()) return false;
    return !yarn || values(*yarn) == values(*o.yarn);
  }
};

// One object of rope parameters, and how it is named in the file.
struct RopeObject {
  std::string key;
  ConfigReader reader;
};

// {"full_attention": {...}, "sliding_attention": {...}} instead of the parameters themselves.
bool is_nested(const json& object) {
  const auto is_object = [](const json& value) { return value.is_object(); };
  return std::any_of(object.begin(), object.end(), is_object) &&
         std::all_of(object.begin(), object.end(),
                     [&](const json& value) { return is_object(value) || value.is_null(); });
}

// The types that the layers have, as the config says; nothing when it does not.
std::optional<std::set<std::string>> layer_types(ConfigReader& r) {
  const json* list = r.get("layer_types");
  if (!list) return std::nullopt;
  std::set<std::string> types;
  if (list->is_array())
    for (const json& type : *list)
      if (type.is_string()) types.insert(type.get<std::string>());
  return types;
}

std::vector<RopeObject> rope_objects(ConfigReader& r) {
  const std::optional<std::set<std::string>> types = layer_types(r);
  std::vector<RopeObject> objects;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    std::optional<ConfigReader> outer = r.child(key);
    if (!outer || r.get(key)->empty()) continue;
    if (!is_nested(*r.get(key))) {
      objects.push_back({key, std::move(*outer)});
      continue;
    }
    const size_t before = objects.size();
    for (const auto& [type, value] : r.get(key)->items()) {
      std::optional<ConfigReader> inner = outer->child(type);
      // Parameters of a type that no layer has say nothing about this model.
      if (inner && (!types || types->count(type))) objects.push_back({key, std::move(*inner)});
    }
    if (objects.size() == before) r.wrong(key, "the parameters of a type of layer_types");
  }
  return objects;
}

// Returns "yarn" or "default". rope_parameters without a type and a factor means plain rope.
// rope_scaling without a type is refused, since its meaning is unknown. Some tools write both
// spellings of the key.
std::string read_type(ConfigReader& s, const std::string& key) {
  const char* name = s.has("type") && !s.has("rope_type") ? "type" : "rope_type";
  const bool plain = key == "rope_parameters" && !s.has("factor");
  std::string type = s.choice(name, {"yarn", "default"}, plain ? "default" : "");
  if (s.has("type") && s.has("rope_type") && *s.get("type") != *s.get("rope_type"))
    s.wrong("type", fmt::format("the same as rope_type ({})", type));
  return type;
}

// All rope dims are rotated, so the factor must be 1. Some versions of transformers write the share
// of the whole key instead.
void read_partial(ConfigReader& r, const Config& c) {
  if (!r.has("partial_rotary_factor")) return;
  const double share = r.number("partial_rotary_factor", 0, 1);
  const double of_key = static_cast<double>(c.rope) / std::max(1, c.qk_dim());
  if (r.sound({"partial_rotary_factor"}) && share != 1 && std::abs(share - of_key) > 1e-6)
    r.wrong("partial_rotary_factor",
            fmt::format("1 or {:.6g}: qk_rope_head_dim is rotated", of_key));
}

std::optional<YarnParams> read_yarn(ConfigReader& s, std::optional<int64_t> original) {
  YarnParams y;
  y.factor = s.number("factor", 1, 1e6);
  y.original_context =
      static_cast<double>(s.integer("original_max_position_embeddings", 1, kMaxContext, original));
  if (original && s.has("original_max_position_embeddings") &&
      s.sound({"original_max_position_embeddings"}) &&
      y.original_context != static_cast<double>(*original))
    s.wrong("original_max_position_embeddings", fmt::format("the same as outside ({})", *original));
  y.beta_fast = s.number("beta_fast", 1e-3, 1e6, 32);
  y.beta_slow = s.number("beta_slow", 1e-3, 1e6, 1);
  if (s.sound({"beta_fast", "beta_slow"}) && y.beta_slow >= y.beta_fast)
    s.wrong("beta_slow", fmt::format("below beta_fast ({})", y.beta_fast));
  const bool scaled = y.factor > 1;
  // Other engines multiply cos and sin by mscale / mscale_all_dim. Here they are never scaled,
  // which is right exactly if the two are equal. An absent mscale is 1, as in DeepSeek's own code.
  if (scaled || s.has("mscale_all_dim")) y.mscale_all_dim = s.number("mscale_all_dim", 0, 100);
  const double mscale = s.number("mscale", 0, 100, 1);
  if (scaled && s.sound({"mscale", "mscale_all_dim"}) && mscale != y.mscale_all_dim)
    s.wrong(s.has("mscale") ? "mscale" : "mscale_all_dim",
            s.has("mscale") ? fmt::format("the same as mscale_all_dim ({})", y.mscale_all_dim)
                            : std::string("1, which mscale is where it is not written"));
  s.number("attention_factor", 1, 1, 1);
  s.only("truncate", true, "YaRN's correction range is rounded to whole dims");
  return scaled ? std::optional(y) : std::nullopt;
}

Rope read_object(RopeObject& object, std::optional<double> theta, std::optional<int64_t> original,
                 const Config& c) {
  ConfigReader& s = object.reader;
  Rope rope;
  rope.theta = s.number("rope_theta", 1.001, 1e12, theta.value_or(10000));
  if (theta && s.sound({"rope_theta"}) && rope.theta != *theta)
    s.wrong("rope_theta", fmt::format("the same as rope_theta outside ({})", *theta));
  read_partial(s, c);
  const std::string type = read_type(s, object.key);
  if (!s.sound({"type", "rope_type"})) return rope;
  if (type == "yarn") {
    rope.yarn = read_yarn(s, original);
  } else {
    s.number("factor", 1, 1, 1);
    if (!s.all_sound()) return rope;
    // Without scaling, YaRN's other parameters have no effect.
    for (const char* key : {"original_max_position_embeddings", "beta_fast", "beta_slow", "mscale",
                            "mscale_all_dim", "truncate"})
      s.get(key);
  }
  s.no_others("rope", [](const std::string&) { return true; });
  return rope;
}

}  // namespace

void read_rope(ConfigReader& r, Config& c) {
  std::optional<double> theta;
  if (r.has("rope_theta")) theta = r.number("rope_theta", 1.001, 1e12);
  std::optional<int64_t> original;
  if (r.has("original_max_position_embeddings"))
    original = r.integer("original_max_position_embeddings", 1, kMaxContext);
  read_partial(r, c);
  Rope rope;
  rope.theta = theta.value_or(rope.theta);
  std::string first;
  for (RopeObject& object : rope_objects(r)) {
    const Rope read = read_object(object, theta, original, c);
    if (!object.reader.all_sound()) {
      first = object.key;
      rope = read;
      break;  // what does not agree with something wrong is noise
    }
    if (!first.empty() && !(read == rope))
      r.wrong(object.key, first == object.key ? std::string("the same rope for every type of layer")
                                              : fmt::format("the same rope as in {}", first));
    if (first.empty()) rope = read;
    first = object.key;
  }
  c.rope_theta = rope.theta;
  c.yarn = rope.yarn;
}

}  // namespace fathom
