// Files of questions: JSON Lines (an object a line) or one JSON array of objects, as data sets are
// exported. What cannot be used of them is told with its line, and counted.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "eval/task.h"

namespace fathom::eval {

// How the items of a file are asked and judged. What is not set is up to the next in line: flags of
// the command line, the file's own first line {"settings": {...}}, the data set's preset, defaults.
struct ItemSettings {
  std::optional<std::string> name = {};    // of the task, default: the file's
  std::optional<std::string> kind = {};    // choice or answer
  std::optional<std::string> fields = {};  // see Fields
  std::optional<bool> chat = {}, thinking = {};
  // Items of the file's beginning that are shown as examples instead.
  std::optional<int> shots = {};
  // Choice.
  std::optional<std::string> style = {};  // letters or text
  std::optional<std::string> score = {};  // logprob, normalised or generate
  std::optional<bool> shuffle = {};       // the choices, by seed and line
  // Answer.
  std::optional<std::string> match = {};   // exact, regex or number
  std::optional<std::string> marker = {};  // number: stands in front of it; empty: the last number
  std::optional<std::string> stop = {};    // the answer ends in front of this text
  std::optional<std::string> template_ = {};  // {prompt} stands for the item's prompt
  std::optional<int> samples = {};
  std::optional<double> temperature = {}, top_p = {};
  // Both.
  std::optional<int> max_new_tokens = {};

  // Sets what is not set from `other`.
  void complete(const ItemSettings& other);
};

// From the object of a file's first line. Throws Error, led by `where`, for names and values that
// are not known.
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

// Throws Error for a file without a single item, and for JSON that is no list of objects at all.
ItemFile read_items(const std::string& path, std::string_view text);

// Which fields of an item say what. A spec is a preset's name (mmlu-pro, gpqa, gsm8k, aime) or
// "question=Q,choices=A+B+C+D,answer=Y": several fields joined by + are taken as a list.
struct Fields {
  std::vector<std::string> question = {"question", "prompt"};  // the first that is there
  std::vector<std::string> choices = {"choices"};              // one list, or several fields
  std::vector<std::string> answer = {"answer", "expected"};
};

// The fields, and what else a preset says of its data set. Throws Error for what is neither.
struct FieldSpec {
  Fields fields;
  ItemSettings preset;
};
FieldSpec fields_of(const std::string& spec);

// A field's value; null where there is none. Names are compared without regard to case where none
// matches exactly ("Problem" and "problem" both occur).
const Json* field_of(const Json& item, const std::string& name);
const Json* first_field(const Json& item, const std::vector<std::string>& names);

// "no field "question" or "prompt"".
std::string no_field(const std::vector<std::string>& names);

// Text of a string or number; nothing for other values.
std::optional<std::string> plain_text(const Json& value);

}  // namespace fathom::eval
