#include "eval/item_task.h"

#include <fmt/format.h>

#include "base/error.h"
#include "text/utf8.h"

namespace fathom::eval {

ItemTask::ItemTask(const Tokenizer& tokenizer, const ItemFile& file, const ItemSettings& flags)
    : path_(file.path), tokenizer_(tokenizer), settings_(flags) {
  settings_.complete(file.settings);
  FieldSpec spec = fields_of(settings_.fields.value_or(""));
  settings_.complete(spec.preset);
  fields_ = std::move(spec.fields);
  name_ = settings_.name.value_or(path_);
  chat_ = settings_.chat.value_or(false);
  thinking_ = settings_.thinking.value_or(false);
  skipped_ = file.skipped;
}

std::string ItemTask::where(size_t item) const { return fmt::format("{}:{}", path_, lines_[item]); }

void ItemTask::load(const ItemFile& file, int64_t max_context, const Steps& steps) {
  const int shots = settings_.shots.value_or(0);
  int shown = 0;
  for (const Item& item : file.items) {
    std::optional<std::string> wrong = steps.read(item);
    if (!wrong && shown < shots) {
      steps.show();
      ++shown;
      continue;
    }
    if (!wrong)
      if (const int64_t tokens = steps.ask(); tokens > max_context)
        wrong = fmt::format("{} tokens with the answer: the context has {}", tokens, max_context);
    if (wrong) {
      skipped_.push_back({file.where(item.line), *wrong});
      continue;
    }
    steps.keep();
    lines_.push_back(item.line);
  }
  if (shown < shots)
    fail("{}: {} examples are asked for, and {} items can be used", path_, shots, shown);
  if (lines_.empty())
    fail("{}: no item can be used{}", path_,
         skipped_.empty() ? fmt::format(" beside {} examples", shown)
                          : fmt::format("; {}: {}", skipped_[0].where, skipped_[0].reason));
}

std::string ItemTask::text_of_answer(const Outcome& outcome) const {
  constexpr std::string_view kReasoned = "</think>";
  std::string text = replace_invalid_utf8(tokenizer_.decode(outcome.answer));
  if (thinking_)
    if (const size_t end = text.rfind(kReasoned); end != text.npos)
      text.erase(0, end + kReasoned.size());
  return text;
}

void throw_unknown(const char* what, const std::string& value, const std::string& known) {
  fail("{} is \"{}\": {} are known", what, value, known);
}

}  // namespace fathom::eval
