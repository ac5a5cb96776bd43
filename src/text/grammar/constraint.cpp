#include "text/grammar/constraint.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "base/task_queue.h"
#include "text/grammar/grammar.h"
#include "text/grammar/grammar_answer.h"
#include "text/grammar/grammar_json.h"
#include "text/grammar/grammar_machine.h"
#include "text/grammar/grammar_state.h"
#include "text/grammar/json_schema.h"
#include "text/grammar/token_trie.h"

namespace fathom {
namespace {

constexpr int kThreads = 2;
constexpr size_t kMaxRemembered = 16;  // forms; each may hold some megabytes of masks
// Stacks that an answer has gone through are dropped when there are that many.
constexpr size_t kMaxStacks = 4096;

// What does not change between forms of one factory.
struct Vocabulary {
  Vocabulary(const Tokenizer& t, Encoding e, std::vector<int32_t> stops)
      : tokenizer(t), encoding(e), stop_ids(std::move(stops)), trie(t, stop_ids) {
    FATHOM_CHECK(!stop_ids.empty(), "an answer needs a token that ends it");
    int32_t largest = tokenizer.vocab_size() - 1;
    for (const int32_t id : stop_ids) largest = std::max(largest, id);
    words = static_cast<size_t>(largest) / 64 + 1;
    const JsonGrammar rules(json);
    json.seal(rules.value_rule());
    shared.emplace(json, trie, words);
  }
  bool stops(int32_t token) const {
    return std::find(stop_ids.begin(), stop_ids.end(), token) != stop_ids.end();
  }

  const Tokenizer& tokenizer;
  Encoding encoding;
  std::vector<int32_t> stop_ids;
  TokenTrie trie;
  size_t words;  // of a mask
  // The rules of JSON, with which every form's grammar begins.
  Grammar json;
  mutable std::optional<GrammarMachine::Shared> shared;
};

std::string key_of(const AnswerForm& form) {
  const auto text = [](const OrderedJson& json) {
    return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  };
  std::string key =
      fmt::format("{} {} {} {} {} {}", static_cast<int>(form.kind), form.parallel_calls,
                  form.thinking, form.strict, form.strict_tools, form.tools.size());
  key += '\n' + text(form.schema);
  for (const OrderedJson& tool : form.tools) key += '\n' + text(tool);
  return key;
}

}  // namespace

class CompiledForm {
 public:
  // Throws GrammarRefusal.
  CompiledForm(std::shared_ptr<const Vocabulary> vocabulary, const AnswerForm& form)
      : vocabulary_(std::move(vocabulary)) {
    if (form.kind == AnswerForm::Kind::free) return;
    const JsonGrammar json(grammar_);
    const bool calls = form.kind == AnswerForm::Kind::tool_calls;
    const int32_t rule = grammar_.add_rule(calls ? "tools" : "schema");
    AnswerGrammar answer(json, vocabulary_->tokenizer, vocabulary_->encoding);
    start_ = body(form, json, answer);
    if (form.thinking) start_ = answer.reasoning(start_);
    grammar_.set_start(rule, start_);
    grammar_.seal(rule);
    machine_.emplace(grammar_, vocabulary_->trie, vocabulary_->words, &*vocabulary_->shared);
  }

  bool free() const { return !machine_; }
  const Vocabulary& vocabulary() const { return *vocabulary_; }
  const Grammar& grammar() const { return grammar_; }
  int32_t start() const { return start_; }
  int max_depth() const { return machine_->max_depth(); }

  std::shared_ptr<const GrammarMachine::Next> next(std::span<const Place> places,
                                                   const StackPool& stacks) const {
    const std::lock_guard lock(mutex_);
    return machine_->next(places, stacks);
  }

 private:
  static int32_t body(const AnswerForm& form, const JsonGrammar& json, AnswerGrammar& answer) {
    if (form.kind == AnswerForm::Kind::tool_calls) return answer.tool_calls(form, Grammar::kEnd);
    int32_t text = -1;
    if (form.kind == AnswerForm::Kind::json_schema) {
      SchemaGrammar schema(json, form.schema, form.schema_place, form.strict);
      text = schema.root(Grammar::kEnd);
      schema.finish();
    } else {
      text = json.object(Grammar::kEnd);
    }
    if (form.tools.empty()) return text;
    return json.grammar().split({text, answer.tool_calls(form, Grammar::kEnd)});
  }

  std::shared_ptr<const Vocabulary> vocabulary_;
  Grammar grammar_;  // not changed once made
  int32_t start_ = Grammar::kEnd;
  // Guards the machine: its caches are shared by all answers of this form, on any thread.
  mutable std::mutex mutex_;
  mutable std::optional<GrammarMachine> machine_;
};

namespace {

class FormMatcher final : public TokenMatcher {
 public:
  explicit FormMatcher(std::shared_ptr<const CompiledForm> form)
      : form_(std::move(form)),
        follower_(form_->grammar(), stacks_, Grammar::kUnbounded),
        places_{{form_->start(), 0}} {}

  void allowed(std::vector<uint64_t>& mask) override {
    if (form_->free()) {
      mask.clear();
      return;
    }
    const auto& stops = form_->vocabulary().stop_ids;
    if (ended_) {
      mask.assign(form_->vocabulary().words, 0);
    } else {
      const auto next = next_tokens();
      mask = next->tokens;
      if (!next->complete && !stuck_) return;
    }
    for (const int32_t id : stops) set_bit(mask, id);
  }

  bool accept(int32_t token) override {
    if (form_->free()) return true;
    if (form_->vocabulary().stops(token)) {
      if (!ended_ && !complete() && !stuck()) return false;
      ended_ = true;
      return true;
    }
    return !ended_ && (form_->vocabulary().tokenizer.is_added(token) ? accept_marker(token)
                                                                     : accept_text(token));
  }

  size_t possible(std::span<const int32_t> tokens) override {
    const std::vector<Place> places = places_;
    const bool ended = ended_, stuck = stuck_;
    const auto next = next_;
    const size_t most_stacks = std::exchange(most_stacks_, SIZE_MAX);  // those of `places` stay
    size_t n = 0;
    while (n < tokens.size() && accept(tokens[n])) ++n;
    places_ = places;
    ended_ = ended;
    stuck_ = stuck;
    next_ = next;
    most_stacks_ = most_stacks;
    return n;
  }

  bool complete() const override { return form_->free() || ended_ || next_tokens()->complete; }

  bool stuck() const override {
    if (form_->free() || ended_) return false;
    next_tokens();
    return stuck_;
  }

 private:
  const std::shared_ptr<const GrammarMachine::Next>& next_tokens() const {
    if (!next_) {
      next_ = form_->next(places_, stacks_);
      const auto& words = next_->tokens;
      stuck_ = !next_->complete &&
               std::all_of(words.begin(), words.end(), [](uint64_t w) { return w == 0; });
    }
    return next_;
  }

  bool accept_text(int32_t token) {
    const std::string_view bytes = form_->vocabulary().tokenizer.token_bytes(token);
    if (bytes.empty()) return false;
    std::vector<Place> targets = places_;
    Reach reach;
    for (const char c : bytes) {
      follower_.follow(targets, form_->max_depth(), reach);
      follower_.targets(reach, static_cast<uint8_t>(c), targets);
      if (targets.empty()) return false;
    }
    return arrive(targets);
  }

  bool accept_marker(int32_t token) {
    Reach reach;
    follower_.follow(places_, form_->max_depth(), reach);
    std::vector<Place> targets;
    for (const Place& p : reach.markers) {
      const Grammar::Node& n = form_->grammar().node(p.node);
      if (n.a == token) targets.push_back({n.b, p.stack});
    }
    return arrive(targets);
  }

  // Moves to the targets. Returns false if no token can follow any of them.
  bool arrive(std::vector<Place>& targets) {
    std::sort(targets.begin(), targets.end());
    targets.erase(std::unique(targets.begin(), targets.end()), targets.end());
    Reach reach;
    follower_.follow(targets, form_->max_depth(), reach);
    if (reach.dead()) return false;
    places_ = std::move(targets);
    next_ = nullptr;
    if (stacks_.size() > most_stacks_) drop_old_stacks();
    return true;
  }

  void drop_old_stacks() {
    const StackPool old = std::exchange(stacks_, {});
    for (Place& p : places_) {
      std::vector<Frame> frames;
      for (int32_t s = p.stack; s != 0; s = old.below(s)) frames.push_back(old.top(s));
      p.stack = 0;
      for (auto f = frames.rbegin(); f != frames.rend(); ++f) p.stack = stacks_.push(p.stack, *f);
    }
  }

  std::shared_ptr<const CompiledForm> form_;
  StackPool stacks_;
  Follower follower_;
  size_t most_stacks_ = kMaxStacks;
  std::vector<Place> places_;  // with stacks of stacks_, not followed
  bool ended_ = false;
  mutable bool stuck_ = false;                                // of next_
  mutable std::shared_ptr<const GrammarMachine::Next> next_;  // of places_, once asked for
};

}  // namespace

bool restricts_nothing(const CompiledForm& form) { return form.free(); }

struct ConstraintFactory::Impl {
  std::shared_ptr<const Vocabulary> vocabulary;
  std::mutex mutex;  // of what follows
  struct Remembered {
    std::shared_ptr<const CompiledForm> form;
    uint64_t used = 0;
  };
  std::unordered_map<std::string, Remembered> forms;
  uint64_t uses = 0;
  TaskQueue tasks{kThreads};  // destroyed first: what it runs may use the rest

  void forget_oldest() {
    const auto oldest = std::min_element(
        forms.begin(), forms.end(), [](auto& a, auto& b) { return a.second.used < b.second.used; });
    forms.erase(oldest);
  }
};

ConstraintFactory::ConstraintFactory(const Tokenizer& tokenizer, Encoding encoding,
                                     std::vector<int32_t> stop_ids)
    : impl_(std::make_unique<Impl>()) {
  impl_->vocabulary = std::make_shared<Vocabulary>(tokenizer, encoding, std::move(stop_ids));
}

ConstraintFactory::~ConstraintFactory() = default;

Result<std::shared_ptr<const CompiledForm>> ConstraintFactory::compile(const AnswerForm& form) {
  const std::string key = key_of(form);
  {
    const std::lock_guard lock(impl_->mutex);
    if (const auto at = impl_->forms.find(key); at != impl_->forms.end()) {
      at->second.used = ++impl_->uses;
      return at->second.form;
    }
  }
  // Without the lock: two threads may compile the same form, and one of the two is kept.
  std::shared_ptr<const CompiledForm> compiled;
  try {
    compiled = std::make_shared<CompiledForm>(impl_->vocabulary, form);
  } catch (const GrammarRefusal& refusal) {
    return Failure{400, refusal.what()};
  }
  const std::lock_guard lock(impl_->mutex);
  if (impl_->forms.size() >= kMaxRemembered) impl_->forget_oldest();
  auto& remembered = impl_->forms[key];
  if (!remembered.form) remembered.form = std::move(compiled);
  remembered.used = ++impl_->uses;
  return remembered.form;
}

void ConstraintFactory::post(std::function<void()> task) { impl_->tasks.post(std::move(task)); }

std::unique_ptr<TokenMatcher> ConstraintFactory::matcher(
    std::shared_ptr<const CompiledForm> form) const {
  return std::make_unique<FormMatcher>(std::move(form));
}

}  // namespace fathom
