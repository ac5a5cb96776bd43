#include "eval/item_file.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "text/utf8.h"

namespace fathom::eval {
namespace {

template <class T>
void set_if_empty(std::optional<T>& to, const std::optional<T>& from) {
  if (!to) to = from;
}

// Every setting by its name in files: `visit(name, optional)`.
template <class Settings, class Visit>
void each_setting(Settings& s, Visit visit) {
  visit("name", s.name);
  visit("kind", s.kind);
  visit("fields", s.fields);
  visit("chat", s.chat);
  visit("thinking", s.thinking);
  visit("shots", s.shots);
  visit("style", s.style);
  visit("score", s.score);
  visit("shuffle", s.shuffle);
  visit("match", s.match);
  visit("marker", s.marker);
  visit("stop", s.stop);
  visit("template", s.template_);
  visit("samples", s.samples);
  visit("temperature", s.temperature);
  visit("top_p", s.top_p);
  visit("max_new_tokens", s.max_new_tokens);
}

void read_setting(std::optional<std::string>& to, const Json& value, const std::string& where) {
  if (!value.is_string()) fail("{}: expected a string, found {}", where, value.dump());
  to = value.get<std::string>();
}
void read_setting(std::optional<bool>& to, const Json& value, const std::string& where) {
  if (!value.is_boolean()) fail("{}: expected true or false, found {}", where, value.dump());
  to = value.get<bool>();
}
void read_setting(std::optional<int>& to, const Json& value, const std::string& where) {
  if (!value.is_number_integer() || value.get<double>() < 0 || value.get<double>() > 1 << 24)
    fail("{}: expected a count, found {}", where, value.dump());
  to = value.get<int>();
}
void read_setting(std::optional<double>& to, const Json& value, const std::string& where) {
  if (!value.is_number()) fail("{}: expected a number, found {}", where, value.dump());
  to = value.get<double>();
}

std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(at, begin), text.size());
    parts.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

FieldSpec preset(const std::string& name) {
  FieldSpec s;
  s.preset.chat = true;
  if (name == "mmlu-pro") {
    s.fields = {{"question"}, {"options"}, {"answer"}};
    s.preset.kind = "choice";
  } else if (name == "gpqa") {
    s.fields = {
        {"Question"},
        {"Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"},
        {"Correct Answer"}};
    s.preset.kind = "choice";
    s.preset.shuffle = true;  // the right one stands first in the file
  } else if (name == "gsm8k") {
    s.fields.question = {"question"};
    s.fields.answer = {"answer"};
    s.preset.kind = "answer";
    s.preset.match = "number";
    s.preset.marker = "####";
    s.preset.template_ =
        "{prompt}\n\nWork it out step by step. End with a line that has #### and the number alone.";
    s.preset.max_new_tokens = 1024;
  } else if (name == "aime") {
    s.fields.question = {"problem"};
    s.fields.answer = {"answer"};
    s.preset.kind = "answer";
    s.preset.match = "number";
    s.preset.marker = "\\boxed{";
    s.preset.template_ = "{prompt}\n\nReason step by step, and put the answer within \\boxed{}.";
    s.preset.max_new_tokens = 16384;
  } else {
    fail(
        "fields \"{}\": mmlu-pro, gpqa, gsm8k, aime, or question=...,choices=...,answer=... are "
        "known",
        name);
  }
  return s;
}

bool blank(std::string_view line) { return line.find_first_not_of(" \t\r") == line.npos; }

}  // namespace

void ItemSettings::complete(const ItemSettings& other) {
  std::vector<const void*> from;
  each_setting(other, [&](const char*, const auto& value) { from.push_back(&value); });
  size_t i = 0;
  each_setting(*this, [&]<class T>(const char*, std::optional<T>& value) {
    set_if_empty(value, *static_cast<const std::optional<T>*>(from[i++]));
  });
}

ItemSettings settings_of(const Json& object, const std::string& where) {
  if (!object.is_object()) fail("{}: settings are an object, found {}", where, object.dump());
  ItemSettings s;
  for (const auto& item : object.items()) {
    const std::string& key = item.key();
    bool known = false;
    each_setting(s, [&](const char* name, auto& setting) {
      if (key != name) return;
      known = true;
      read_setting(setting, item.value(), fmt::format("{}: settings.{}", where, key));
    });
    if (!known) fail("{}: settings.{} is not known", where, key);
  }
  return s;
}

std::string ItemFile::where(size_t line) const { return fmt::format("{}:{}", path, line); }

ItemFile read_items(const std::string& path, std::string_view text) {
  ItemFile file;
  file.path = path;
  auto take = [&](size_t line, Json value) {
    if (!value.is_object()) {
      file.skipped.push_back({file.where(line), "no JSON object"});
    } else if (value.size() == 1 && value.contains("settings")) {
      if (!file.items.empty() || !file.skipped.empty())
        fail("{}: settings stand in the first line alone", file.where(line));
      file.settings = settings_of(value["settings"], file.where(line));
    } else {
      file.items.push_back({line, std::move(value)});
    }
  };
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != text.npos && text[first] == '[') {
    const Json list = Json::parse(text, nullptr, false);
    if (!list.is_array()) fail("{}: begins as a JSON array and is none", path);
    for (size_t i = 0; i < list.size(); ++i) take(i + 1, list[i]);
  } else {
    size_t line = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      const std::string_view one = text.substr(at, end - at);
      at = end + 1;
      ++line;
      if (blank(one)) continue;
      if (const auto bad = first_invalid_utf8(one))
        file.skipped.push_back({file.where(line), fmt::format("no UTF-8 at byte {}", *bad)});
      else if (Json value = Json::parse(one, nullptr, false); value.is_discarded())
        file.skipped.push_back({file.where(line), "no JSON"});
      else
        take(line, std::move(value));
    }
  }
  if (file.items.empty())
    fail("{}: no items: expected a JSON object a line{}", path,
         file.skipped.empty()
             ? ""
             : fmt::format("; {}: {}", file.skipped[0].where, file.skipped[0].reason));
  return file;
}

FieldSpec fields_of(const std::string& spec) {
  if (spec.empty()) return {};
  if (spec.find('=') == spec.npos) return preset(spec);
  FieldSpec s;
  for (const std::string& part : split(spec, ',')) {
    const size_t equals = part.find('=');
    const std::string key = part.substr(0, equals);
    std::vector<std::string>* to = key == "question" || key == "prompt"   ? &s.fields.question
                                   : key == "choices"                     ? &s.fields.choices
                                   : key == "answer" || key == "expected" ? &s.fields.answer
                                                                          : nullptr;
    if (!to || equals == part.npos || equals + 1 == part.size())
      fail("fields \"{}\": expected question=NAME, choices=NAME or NAME+NAME..., answer=NAME",
           part);
    *to = split(std::string_view(part).substr(equals + 1), '+');
  }
  return s;
}

const Json* field_of(const Json& item, const std::string& name) {
  if (const auto it = item.find(name); it != item.end()) return &*it;
  auto lower = [](std::string s) {
    for (char& c : s)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return s;
  };
  for (const auto& [key, value] : item.items())
    if (lower(key) == lower(name)) return &value;
  return nullptr;
}

const Json* first_field(const Json& item, const std::vector<std::string>& names) {
  for (const std::string& name : names)
    if (const Json* value = field_of(item, name)) return value;
  return nullptr;
}

std::string no_field(const std::vector<std::string>& names) {
  return fmt::format("no field \"{}\"", fmt::join(names, "\" or \""));
}

std::optional<std::string> plain_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number()) return value.dump();
  return std::nullopt;
}

}  // namespace fathom::eval
