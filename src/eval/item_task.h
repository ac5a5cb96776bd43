// ItemTask: the base of tasks from files of questions. It handles settings, examples, and items
// that cannot be used.
#pragma once

#include <functional>

#include "eval/item_file.h"
#include "eval/task.h"
#include "text/tokenizer.h"

namespace fathom::eval {

class ItemTask : public Task {
 public:
  std::string name() const override { return name_; }
  std::string where(size_t item) const override;

 protected:
  // `flags`: settings that override those of the file.
  ItemTask(const Tokenizer& tokenizer, const ItemFile& file, const ItemSettings& flags);

  // What is done with each item, in this order.
  struct Steps {
    // Reads the item. Returns the reason if it cannot be used.
    std::function<std::optional<std::string>(const Item&)> read;
    std::function<void()> show;    // makes it an example shown before every question; or else:
    std::function<int64_t()> ask;  // prepares its requests; returns tokens of the longest
    std::function<void()> keep;    // makes it an item of the task
  };
  // Throws Error when no item is left.
  void load(const ItemFile& file, int64_t max_context, const Steps& steps);

  // Returns a generated answer without its reasoning.
  std::string text_of_answer(const Outcome& outcome) const;

  std::string name_, path_;
  const Tokenizer& tokenizer_;
  ItemSettings settings_;  // flags, file and preset together
  Fields fields_;
  bool chat_ = false, thinking_ = false;
  std::string examples_;
  std::vector<size_t> lines_;  // of each item
};

[[noreturn]] void throw_unknown(const char* what, const std::string& value,
                                const std::string& known);

// Returns the value of a setting by its name. Throws Error that lists the known names.
template <class T>
T choice_of(const std::optional<std::string>& value, const char* what, T otherwise,
            std::initializer_list<std::pair<const char*, T>> known) {
  if (!value) return otherwise;
  std::string names;
  for (const auto& [name, result] : known) {
    if (*value == name) return result;
    names += names.empty() ? name : std::string(", ") + name;
  }
  throw_unknown(what, *value, names);
}

}  // namespace fathom::eval
