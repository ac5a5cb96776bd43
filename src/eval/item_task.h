// What tasks from files of questions have in common: settings, examples, and how items that cannot
// be used are told.
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
  // `flags`: settings that win over the file's own.
  ItemTask(const Tokenizer& tokenizer, const ItemFile& file, const ItemSettings& flags);

  // What is done with the item at hand, in this order.
  struct Steps {
    // Reads it; the reason where it cannot be used.
    std::function<std::optional<std::string>(const Item&)> read;
    std::function<void()> show;    // as one of the examples in front of every question, or
    std::function<int64_t()> ask;  // prepares its requests; tokens of the longest with its answer,
    std::function<void()> keep;    // and makes it an item of the task
  };
  // Throws Error when no item is left.
  void load(const ItemFile& file, int64_t max_context, const Steps& steps);

  // A generated answer without what was reasoned in front of it.
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

// The value of a setting by its name. Throws Error that names those that are known.
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
