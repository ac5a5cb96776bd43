// Reads keys of a JSON object and collects what is wrong with them, so that a user sees every
// problem of a file at once. A wrong value is read as the smallest accepted one, so that reading
// continues.
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

// Whether a value says anything: it is not null, false, 0, "" or an empty list or object.
bool says_something(const nlohmann::json& value);

// Returns `value` as a whole number; nothing if it is none or does not fit int64. 2048.0 is one:
// tools that keep all numbers as floats write it that way.
std::optional<int64_t> whole_number(const nlohmann::json& value);

class ConfigReader {
 public:
  // `prefix` names the object inside the file, e.g. "rope_scaling.".
  ConfigReader(const nlohmann::json& object, std::string prefix, std::vector<std::string>& problems)
      : object_(object), prefix_(std::move(prefix)), problems_(problems) {}

  // Returns null when the key is absent or null. A key that was asked for, here or by the functions
  // below, counts as known (see no_others).
  const nlohmann::json* get(const std::string& key) const;
  bool has(const std::string& key) const { return get(key) != nullptr; }
  // Returns the object at `key`; nothing when it is absent. Anything else is a problem.
  std::optional<ConfigReader> child(const std::string& key);

  // The functions below read values. Without a fallback the key is required.
  int64_t integer(const std::string& key, int64_t least, int64_t greatest,
                  std::optional<int64_t> fallback = {});
  double number(const std::string& key, double least, double greatest,
                std::optional<double> fallback = {});
  bool boolean(const std::string& key, bool fallback);
  // Returns one of `accepted`. With an empty fallback the key is required.
  std::string choice(const std::string& key, std::initializer_list<const char*> accepted,
                     const std::string& fallback = {});
  // Checks a switch of the architecture for which only the value `accepted` is implemented.
  void only(const std::string& key, bool accepted, const char* why);

  // Reports as problems all keys that nobody has asked for, whose name `about` accepts and whose
  // value says_something(). They are about `what`, and ignoring them could change the results. Call
  // this when everything has been read.
  void no_others(const char* what, const std::function<bool(const std::string&)>& about);

  // Whether these keys were read without a problem. Rules between keys are checked only then,
  // because a problem that follows from another one does not help the user.
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
