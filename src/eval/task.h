// Task: what an evaluation measures. It is a list of items; each is one or more requests to the
// model and is judged by the answers. A task knows texts and tokens, not how the model is run.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "cache/page_key.h"
#include "numerics/sampling.h"

namespace fathom::eval {

using Json = nlohmann::ordered_json;

// Tokens [begin, end) of a prompt.
struct TokenRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

// One request to the model.
struct Ask {
  std::vector<int32_t> ids;
  int64_t score_from = 0;      // report log-probabilities from this index of `ids` on; 0: none
  int64_t max_new_tokens = 1;  // one token costs no step beyond the prompt's
  SamplingParams sampling{.temperature = 0};
  TokenRange watched;  // tokens to watch: how many of them the indexer picks for the answer
};

// The result of an Ask.
struct Outcome {
  std::vector<float> logprobs;  // of ids[score_from], ...; natural
  std::vector<int32_t> answer;  // without the stop token
  bool ended = false;           // by a stop token, not by length
  // By layer: the share of the watched tokens that were picked, mean over the answer's tokens.
  // Empty if nothing was watched.
  std::vector<double> picked;
};

// The measured value of one item; a line of a results file.
struct Record {
  size_t item = 0;
  double value = 0;   // total over
  double weight = 1;  // this many units
  Json detail = Json::object();
};

// An item that cannot be measured, and why. These are counted and reported.
struct Skipped {
  std::string where;  // file and line
  std::string reason;
};

enum class Metric : uint8_t { nats_per_token, accuracy, recall };

constexpr const char* name_of(Metric m) {
  switch (m) {
    case Metric::nats_per_token:
      return "nats_per_token";
    case Metric::accuracy:
      return "accuracy";
    case Metric::recall:
      return "recall";
  }
  return "?";
}

class Task {
 public:
  virtual ~Task() = default;

  virtual std::string name() const = 0;  // for tables and files: "prose", "pass_keys"
  virtual std::string kind() const = 0;  // perplexity, needles, choice, answer
  virtual Metric metric() const = 0;
  // A key of everything that decides what is asked and how it is judged. Results with another key
  // belong to another task.
  virtual PageKey key() const = 0;
  virtual size_t size() const = 0;
  virtual std::string where(size_t item) const = 0;  // where the item comes from: "F.jsonl:12"
  virtual std::vector<Ask> asks(size_t item) const = 0;
  virtual Record judge(size_t item, std::span<const Outcome> outcomes) const = 0;
  // Whether items are ones and zeros, for the statistics of shares.
  virtual bool binary() const = 0;
  // Further figures computed from all records; none by default.
  virtual Json extra(std::span<const Record> records) const {
    (void)records;
    return Json::object();
  }
  const std::vector<Skipped>& skipped() const { return skipped_; }

 protected:
  std::vector<Skipped> skipped_;
};

// Keys of texts and numbers, for Task::key().
inline PageKey with(PageKey key, std::string_view text) {
  const PageKey more = digest(text.data(), text.size());
  return extended(extended(extended(key, more.a), more.b), text.size());
}
inline PageKey with(PageKey key, std::span<const int32_t> ids) { return page_key(key, ids); }
std::string text_of(const PageKey& key);  // 32 hexadecimal digits

// Returns the tokens of the longest item, prompt and answer.
int64_t longest(const Task& task);

}  // namespace fathom::eval
