// Reads keys of a JSON object and collects what is wrong with them, so that a user sees every
// problem of a file at once. A value that is wrong reads as the least accepted one, to let the
// reading go on.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace fathom {

// Whether a value is more than a switch that is off or a list of nothing.
bool says_something(const nlohmann::json& value);

// The whole number that `value` is; nothing where it is none, or int64 has no room for it. 2048.0
// is one: tools that keep all numbers as floats write it so.
std::optional<int64_t> whole_number(const nlohmann::json& value);

class ConfigReader {
 public:
  // `prefix` names the object inside the file, e.g. "rope_scaling.".
  ConfigReader(const nlohmann::json& object, std::string prefix, std::vector<std::string>& problems)
      : object_(object), prefix_(std::move(prefix)), problems_(problems) {}

  // Null when the key is absent or null. A key that was asked for counts as understood, here and in
  // what reads values below.
  const nlohmann::json* get(const std::string& key) const;
  bool has(const std::string& key) const { return get(key) != nullptr; }
  // The object at `key`; nothing when it is absent, and a problem when it is something else.
  std::optional<ConfigReader> child(const std::string& key);

  // Without a fallback the key is required.
  int64_t integer(const std::string& key, int64_t least, int64_t greatest,
                  std::optional<int64_t> fallback = {});
  double number(const std::string& key, double least, double greatest,
                std::optional<double> fallback = {});
  bool boolean(const std::string& key, bool fallback);
  // One of `accepted`; an empty fallback means required.
  std::string choice(const std::string& key, std::initializer_list<const char*> accepted,
                     const std::string& fallback = {});
  // A switch of the architecture that is implemented in one position only.
  void only(const std::string& key, bool accepted, const char* why);

  // Keys that nobody has asked for, whose name `about` accepts and whose value says something (is
  // not null, false, 0 or empty), are problems: they are about `what`, and to skip them may change
  // what is computed. To be called when everything has been read.
  void no_others(const char* what, const std::function<bool(const std::string&)>& about);

  // Whether these keys read without a problem: rules between keys are only checked then, for what
  // follows from another problem is noise.
  bool sound(std::initializer_list<const char*> keys) const;

  bool all_sound() const { return unsound_.empty(); }

  // `key = value: expected ...`
  void wrong(const std::string& key, const std::string& expected);

 private:
  void missing(const std::string& key, const std::string& expected);

  const nlohmann::json& object_;
  std::string prefix_;
  std::vector<std::string>& problems_;
  std::set<std::string> unsound_;
  mutable std::set<std::string> asked_;
};

}  // namespace fathom
