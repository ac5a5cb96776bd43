#include "selfcheck/selfcheck.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "model/footprint.h"
#include "selfcheck/checks.h"

namespace fathom {
namespace {

constexpr CheckGroup kGroups[] = {
    {"kernels", "fast kernels = plain float64 loops, op by op, on the same inputs"},
    {"selection", "the lightning indexer picks what the paper says"},
    {"rotation", "rotary embedding and softmax scale, from their formulas"},
    {"router", "experts are chosen as in the paper"},
    {"chunks", "decode = prefill = prefill in pieces"},
    {"sparsity", "sparse attention is sparse beyond top-k, and only there"},
    {"repeat", "the same again, whatever runs it"},
    {"cache", "what is cached comes back"},
    {"text", "tokenizer"},
    {"finite", "results are numbers"},
    {"mtp", "the block that guesses tokens for speculation"},
    {"ranks", "several ranks compute what one does (with --tensor- or --data-parallel-size)"},
};

// Above this, prompts are kept short and weights are sampled: a minute is the budget.
constexpr int64_t kLargeModel = 1'000'000'000;
constexpr int kLargeModelTopk = 64;
// Tokens beyond the top-k: enough for a page border and for pieces of uneven sizes.
constexpr int64_t kBeyond = 72;

std::vector<int32_t> make_prompt(const Config& c, const Tokenizer* tokenizer, size_t length) {
  std::vector<int32_t> ids;
  if (tokenizer && tokenizer->vocab_size() <= c.vocab) {
    ids.push_back(c.bos);
    std::vector<int32_t> text = tokenizer->encode_plain(selfcheck_text());
    while (!text.empty() && ids.size() < length) ids.insert(ids.end(), text.begin(), text.end());
  }
  TestValues random(1);
  while (ids.size() < length)
    ids.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(c.vocab))));
  ids.resize(length);
  return ids;
}

CheckContext make_context(const Config& config, const Weights& weights, const Tokenizer* tokenizer,
                          const SelfcheckOptions& options) {
  CheckContext c{config, weights, tokenizer, options};
  c.large = count_parameters(config).total > kLargeModel;
  c.model_topk = config.index_topk;
  if (c.large) c.config.index_topk = std::min(config.index_topk, kLargeModelTopk);
  int64_t length = (config.has_indexer() ? c.topk() : 64) + kBeyond;
  c.ids = make_prompt(config, tokenizer, static_cast<size_t>(length));
  return c;
}

}  // namespace

std::span<const CheckGroup> selfcheck_groups() { return kGroups; }

bool all_passed(std::span<const CheckResult> results) {
  return std::none_of(results.begin(), results.end(),
                      [](const CheckResult& r) { return r.verdict == Verdict::failed; });
}

std::vector<CheckResult> run_selfcheck(const Config& config, const Weights& weights,
                                       const Tokenizer* tokenizer,
                                       const SelfcheckOptions& options) {
  for (const std::string& name : options.only)
    if (std::none_of(std::begin(kGroups), std::end(kGroups),
                     [&](const CheckGroup& g) { return g.name == name; }))
      fail("there is no group of checks called '{}'", name);
  CheckContext c = make_context(config, weights, tokenizer, options);
  auto wanted = [&](std::string_view group) {
    return options.only.empty() ||
           std::find(options.only.begin(), options.only.end(), group) != options.only.end();
  };
  if (wanted("kernels")) check_kernels(c);
  if (wanted("selection")) {
    check_indexer_formulas(c);
    check_selection(c);
  }
  if (wanted("rotation")) check_rotation(c);
  if (wanted("router")) check_router(c);
  if (wanted("chunks")) check_chunks(c);
  if (wanted("sparsity")) check_sparsity(c);
  if (wanted("repeat")) check_repeat(c);
  if (wanted("cache")) check_cache(c);
  if (wanted("text")) check_tokenizer(c);
  if (wanted("finite")) check_finite(c);
  if (wanted("mtp")) check_mtp(c);
  if (wanted("ranks") && options.compute.layout.ranks() > 1) check_ranks(c);
  return std::move(c.results);
}

std::vector<int64_t> CheckContext::rows() const {
  std::set<int64_t> rows;
  int64_t middle = config.has_indexer() ? topk() : length() / 2;
  for (int64_t r = 0; r < 12; ++r) rows.insert(r);
  for (int64_t r = middle - 3; r < middle + 5; ++r) rows.insert(r);
  for (int64_t r = length() - 12; r < length(); ++r) rows.insert(r);
  rows.erase(rows.begin(), rows.lower_bound(0));
  return {rows.begin(), rows.end()};
}

void CheckContext::add(std::string id, std::string proves, std::string figure, std::string limit,
                       bool passed) {
  results.push_back({std::move(id), std::move(proves), std::move(figure), std::move(limit),
                     passed ? Verdict::passed : Verdict::failed});
  if (options.on_result) options.on_result(results.back());
}

void CheckContext::skip(std::string id, std::string proves, std::string why) {
  results.push_back({std::move(id), std::move(proves), std::move(why), "", Verdict::skipped});
  if (options.on_result) options.on_result(results.back());
}

LogitDistance distance(const LogitRows& a, const LogitRows& b) {
  LogitDistance d;
  for (const auto& [row, x] : a) {
    auto other = b.find(row);
    if (other == b.end()) continue;
    const std::vector<float>& y = other->second;
    ++d.rows;
    d.different += x != y;
    double top_x = *std::max_element(x.begin(), x.end()),
           top_y = *std::max_element(y.begin(), y.end()), sum_x = 0, sum_y = 0, kl = 0;
    for (float v : x) sum_x += std::exp(v - top_x);
    for (float v : y) sum_y += std::exp(v - top_y);
    double log_x = top_x + std::log(sum_x), log_y = top_y + std::log(sum_y);
    for (size_t i = 0; i < x.size(); ++i)
      kl += std::exp(x[i] - log_x) * ((x[i] - log_x) - (y[i] - log_y));
    kl = std::isnan(kl) ? INFINITY : std::max(kl, 0.0);
    d.mean_kl += kl;
    d.max_kl = std::max(d.max_kl, kl);
  }
  if (d.rows) d.mean_kl /= static_cast<double>(d.rows);
  return d;
}

// SplitMix64.
uint64_t TestValues::next() {
  uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace fathom
