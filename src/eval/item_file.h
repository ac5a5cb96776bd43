// Files of questions: JSON Lines (one object per line) or one JSON array of objects, as data sets
// are exported. Items that cannot be used are counted and reported with their line.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "eval/task.h"

namespace fathom::eval {

// How the items of a file are asked and judged. Settings come, in this order of precedence, from
// flags of the command line, the file's own first line {"settings": {...}}, the data set's preset,
// and defaults.
struct ItemSettings {
  std::optional<std::string> name = {};    // of the task, default: the file's
  std::optional<std::string> kind = {};    // choice or answer
  std::optional<std::string> fields = {};  // see Fields
  std::optional<bool> chat = {}, thinking = {};
  // How many items at the beginning of the file are shown as examples instead of being asked.
  std::optional<int> shots = {};
  // Choice.
  std::optional<std::string> style = {};  // letters or text
  std::optional<std::string> score = {};  // logprob, normalised or generate
  std::optional<bool> shuffle = {};       // the choices, by seed and line
  // Answer.
  std::optional<std::string> match = {};      // exact, regex or number
  std::optional<std::string> marker = {};     // number: text before it; empty: the last number
  std::optional<std::string> stop = {};       // the answer ends before this text
  std::optional<std::string> template_ = {};  // {prompt} stands for the item's prompt
  std::optional<int> samples = {};
  std::optional<double> temperature = {}, top_p = {};
  // Both.
  std::optional<int> max_new_tokens = {};

  // Sets what is not set yet from `other`.
  void complete(const ItemSettings& other);
};

// Reads the object of a file's first line. Throws Error, whose message begins with `where`, for
// unknown names and values.
ItemSettings settings_of(const Json& object, const std::string& where);

struct Item {
  size_t line = 0;  // of the file, from 1; in an array the element, from 1
  Json value;       // an object
};

struct ItemFile {
  std::string path;
  ItemSettings settings;
  std::vector<Item> items;
  std::vector<Skipped> skipped;

  std::string where(size_t line) const;
};

// Throws Error for a file without items, and for JSON that is no list of objects.
ItemFile read_items(const std::string& path, std::string_view text);

// Which fields of an item hold what. A spec is a preset's name (mmlu-pro, gpqa, gsm8k, aime) or
// "question=Q,choices=A+B+C+D,answer=Y": several fields joined by + are taken as a list.
struct Fields {
  std::vector<std::string> question = {"question", "prompt"};  // the first that is there
  std::vector<std::string> choices = {"choices"};              // one list, or several fields
  std::vector<std::string> answer = {"answer", "expected"};
};

// The fields, and a preset's settings for its data set.
struct FieldSpec {
  Fields fields;
  ItemSettings preset;
};
FieldSpec fields_of(const std::string& spec);

// Returns a field's value; null if there is none. If no name matches exactly, case is ignored
// ("Problem" and "problem" both occur).
const Json* field_of(const Json& item, const std::string& name);
const Json* first_field(const Json& item, const std::vector<std::string>& names);

// Returns a message such as "no field "question" or "prompt"".
std::string no_field(const std::vector<std::string>& names);

// Returns the text of a string or number; nothing for other values.
std::optional<std::string> plain_text(const Json& value);

}  // namespace fathom::eval
