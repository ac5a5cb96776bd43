#include "eval/needles.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"
#include "base/error.h"
#include "eval/filler.h"
#include "text/utf8.h"

namespace fathom::eval {

// The sentences in order, and how many tokens each takes when it follows another.
class Needles::Hay {
 public:
  Hay(const Tokenizer& tokenizer, const std::string& text, uint64_t seed)
      : tokenizer_(tokenizer), numbers_(seed), generated_(text.empty()) {
    if (generated_) return;
    for (std::string& s : sentences_of(text)) add(std::move(s));
  }

  // The first sentences from `begin` on of at most `tokens` tokens.
  std::vector<std::string> take(size_t begin, int64_t tokens) {
    std::vector<std::string> out;
    for (size_t i = begin;; ++i) {
      // Also up to a beginning that no text has reached yet.
      while (i >= sentences_.size() && generated_) add(filler_sentence(numbers_));
      if (i >= sentences_.size())
        fail(
            "the text has {} sentences: from number {} on it is too short for a prompt with {} "
            "more tokens",
            sentences_.size(), begin, tokens);
      tokens -= sizes_[i];
      if (tokens < 0) return out;
      out.push_back(sentences_[i]);
    }
  }
  // Where text `n` of `count` texts of the same length begins. Each begins in another place.
  size_t begin(int n, int count, int64_t tokens) const {
    if (generated_) return static_cast<size_t>(n) * 7;
    int64_t all = 0;
    for (int64_t size : sizes_) all += size;
    const int64_t spare = all - tokens;
    if (spare <= 0) return 0;
    // As far apart as the text allows.
    int64_t skip = spare * n / count;
    size_t i = 0;
    for (; i < sizes_.size() && skip >= sizes_[i]; ++i) skip -= sizes_[i];
    return i;
  }

 private:
  void add(std::string sentence) {
    sizes_.push_back(static_cast<int64_t>(tokenizer_.encode_plain(" " + sentence).size()));
    sentences_.push_back(std::move(sentence));
  }

  const Tokenizer& tokenizer_;
  Numbers numbers_;
  bool generated_;
  std::vector<std::string> sentences_;
  std::vector<int64_t> sizes_;
};

Needles::Needles(std::string name, const Tokenizer& tokenizer, Encoding encoding,
                 const NeedleOptions& options, int64_t max_context)
    : name_(std::move(name)), tokenizer_(tokenizer), options_(options) {
  require_utf8(options.text, "the text to plant in");
  const Prompts prompts(tokenizer, encoding, true);
  Hay hay(tokenizer, options.text, options.seed);
  for (int64_t length : options.lengths) {
    if (length + options.max_new_tokens > max_context)
      fail("a length of {} tokens, and {} of an answer: the context has {}", length,
           options.max_new_tokens, max_context);
    for (double depth : options.depths) {
      if (!(depth >= 0 && depth <= 1)) fail("a depth of {}: 0 to 1 are possible", depth);
      for (int n = 0; n < options.count; ++n)
        needles_.push_back(plant(prompts, hay, length, depth, n));
    }
  }
  if (needles_.empty()) fail("needles need a length, a depth and a count");
}

Needles::Needle Needles::plant(const Prompts& prompts, Hay& hay, int64_t length, double depth,
                               int number) const {
  // The fact depends on the place of its cell alone, not on the cells generated before it.
  Numbers numbers(extended(extended(extended({options_.seed, 0}, static_cast<uint64_t>(length)),
                                    static_cast<uint64_t>(std::llround(depth * 1e6))),
                           static_cast<uint64_t>(number))
                      .a);
  const Fact fact = new_fact(numbers);
  auto text_with = [&](const std::vector<std::string>& sentences) {
    const auto place =
        static_cast<size_t>(std::llround(depth * static_cast<double>(sentences.size())));
    std::string text;
    for (size_t i = 0; i <= sentences.size(); ++i) {
      if (i == place) text += fact.sentence + " ";
      if (i < sentences.size()) text += sentences[i] + " ";
    }
    return text + fact.question;
  };
  const auto overhead = static_cast<int64_t>(prompts.prompt(text_with({})).size());
  if (overhead > length)
    fail("a length of {} tokens: fact and question alone take {}", length, overhead);
  std::vector<std::string> sentences =
      hay.take(hay.begin(number, options_.count, length), length - overhead);
  Needle needle{length, depth, number, fact.number, {}};
  Ask& ask = needle.ask;
  ask.ids = prompts.prompt(text_with(sentences));
  // Joined sentences may take a token more than they do separately.
  while (static_cast<int64_t>(ask.ids.size()) > length && !sentences.empty()) {
    sentences.pop_back();
    ask.ids = prompts.prompt(text_with(sentences));
  }
  ask.max_new_tokens = options_.max_new_tokens;
  // The fact's tokens: those with bytes of its sentence.
  std::string bytes;
  std::vector<size_t> ends;
  for (int32_t id : ask.ids) {
    bytes += tokenizer_.token_bytes(id);
    ends.push_back(bytes.size());
  }
  const size_t at = bytes.find(fact.sentence);
  FATHOM_CHECK(at != bytes.npos, "the fact is not in its prompt: {}", fact.sentence);
  const auto token_at = [&](size_t byte) {
    return std::upper_bound(ends.begin(), ends.end(), byte) - ends.begin();
  };
  ask.watched = {token_at(at), token_at(at + fact.sentence.size() - 1) + 1};
  return needle;
}

PageKey Needles::key() const {
  PageKey key = with(PageKey{}, "needles 1");
  for (const Needle& n : needles_) {
    key = with(key, std::span<const int32_t>(n.ask.ids));
    key = extended(key, static_cast<uint64_t>(n.ask.max_new_tokens));
  }
  return key;
}

std::string Needles::where(size_t item) const {
  const Needle& n = needles_[item];
  return fmt::format("needle {} of {} tokens at {:g} %", n.number + 1, n.length, 100 * n.depth);
}

std::vector<Ask> Needles::asks(size_t item) const { return {needles_[item].ask}; }

Record Needles::judge(size_t item, std::span<const Outcome> outcomes) const {
  const Needle& n = needles_[item];
  const std::string text = replace_invalid_utf8(tokenizer_.decode(outcomes[0].answer));
  Record r;
  // The answer must stand as a number of its own: 5173 is not found in 51734.
  const size_t at = text.find(n.answer);
  auto digit = [&](size_t i) { return i < text.size() && text[i] >= '0' && text[i] <= '9'; };
  r.value = at != text.npos && !(at > 0 && digit(at - 1)) && !digit(at + n.answer.size());
  r.detail = {{"length", n.length},
              {"depth", n.depth},
              {"prompt_tokens", n.ask.ids.size()},
              {"expected", n.answer},
              {"text", text}};
  if (!outcomes[0].picked.empty()) r.detail["picked"] = outcomes[0].picked;
  return r;
}

Json Needles::extra(std::span<const Record> records) const {
  struct Cell {
    double found = 0, picked = 0;
    int items = 0, watched = 0;
  };
  std::map<std::pair<int64_t, double>, Cell> cells;
  std::vector<double> layers;
  int watched = 0;
  for (const Record& r : records) {
    Cell& cell = cells[{r.detail.at("length").get<int64_t>(), r.detail.at("depth").get<double>()}];
    cell.found += r.value;
    ++cell.items;
    if (!r.detail.contains("picked")) continue;
    const auto picked = r.detail["picked"].get<std::vector<double>>();
    layers.resize(picked.size());
    double sum = 0;
    for (size_t i = 0; i < picked.size(); ++i) {
      layers[i] += picked[i];
      sum += picked[i];
    }
    cell.picked += sum / static_cast<double>(picked.size());
    ++cell.watched;
    ++watched;
  }
  Json j;
  Json& list = j["cells"] = Json::array();
  for (const auto& [place, cell] : cells) {
    Json one = {{"length", place.first},
                {"depth", place.second},
                {"recall", cell.found / cell.items},
                {"items", cell.items}};
    if (cell.watched > 0) one["picked"] = cell.picked / cell.watched;
    list.push_back(std::move(one));
  }
  if (watched > 0) {
    for (double& share : layers) share /= watched;
    j["picked_by_layer"] = layers;
  }
  return j;
}

}  // namespace fathom::eval
