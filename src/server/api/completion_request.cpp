#include "server/api/openai_completions.h"

namespace fathom::server {
namespace {

constexpr size_t kMaxPrompts = 1024;  // and choices of all of them together

std::vector<int32_t> read_ids(const JsonField& at, int32_t vocab) {
  std::vector<int32_t> ids;
  ids.reserve(at.array_size());
  for (size_t i = 0; i < at.array_size(); ++i) ids.push_back(at.at(i).integer(0, vocab - 1));
  return ids;
}

// A string, an array of strings, an array of token ids, or an array of arrays of token ids.
std::vector<TextPrompt> read_prompts(const JsonField& at, int32_t vocab) {
  if (at.value().is_string()) return {{at.string(), {}}};
  at.expect(at.value().is_array(), "a string, token ids, or an array of these");
  if (at.array_size() == 0) fail("{}: expected at least one prompt, found none", at.path());
  if (at.at(0).value().is_number()) return {{std::nullopt, read_ids(at, vocab)}};
  if (at.array_size() > kMaxPrompts)
    fail("{}: at most {} prompts are accepted, found {}", at.path(), kMaxPrompts, at.array_size());
  std::vector<TextPrompt> prompts;
  for (size_t i = 0; i < at.array_size(); ++i) {
    const JsonField item = at.at(i);
    item.expect(item.value().is_string() || item.value().is_array(),
                "a string or an array of token ids");
    if (item.value().is_string())
      prompts.push_back({item.string(), {}});
    else
      prompts.push_back({std::nullopt, read_ids(item, vocab)});
  }
  return prompts;
}

void refuse_unsupported_completion(const JsonField& root) {
  refuse_unsupported(root, {{"suffix"},
                            {"logits_processors"},
                            {"use_beam_search"},
                            {"bad_words", "use logit_bias"},
                            {"allowed_token_ids", "use logit_bias"},
                            {"guided_json", "use response_format of /v1/chat/completions"},
                            {"guided_regex"},
                            {"guided_choice"},
                            {"guided_grammar"},
                            {"structured_outputs"},
                            {"response_format", "use /v1/chat/completions", R"({"type": "text"})"},
                            {"prompt_logprobs", "use echo with logprobs"},
                            {"prompt_embeds"},
                            {"truncate_prompt_tokens"},
                            {"include_stop_str_in_output"},
                            {"return_tokens_as_token_ids"},
                            {"length_penalty", "", "1"}});
  if (!root.at("skip_special_tokens").boolean_or(true))
    fail("skip_special_tokens: this server does not support false");
}

}  // namespace

CompletionRequest read_completion_request(const OrderedJson& body, const ServiceOptions& options) {
  const JsonField root(body, "");
  CompletionRequest request;
  GenerationRequest& g = request.generation;
  refuse_unsupported_completion(root);
  request.prompts = read_prompts(root.at("prompt"), options.vocab);
  request.stream = read_stream(root);
  read_sampling(root, options, g);
  g.chat = false;
  if (request.prompts.size() * static_cast<size_t>(g.n) > kMaxPrompts)
    fail("n: {} choices of {} prompts: at most {} together are accepted", g.n,
         request.prompts.size(), kMaxPrompts);
  request.echo = root.at("echo").boolean_or(false);
  request.add_special_tokens = root.at("add_special_tokens").boolean_or(true);
  g.logprobs = static_cast<int>(integer_or(root.at("logprobs"), -1, 0, kMaxTopLogprobs));
  g.prompt_logprobs = request.echo && g.logprobs >= 0;
  g.max_tokens = integer_or(root.at("max_tokens"), 16, 0, int64_t{1} << 40);
  if (g.max_tokens == 0) {
    if (!request.echo) fail("max_tokens: expected at least 1 without echo, found 0");
    request.no_answer = true;
    g.max_tokens = 1;  // the prompt's log-probabilities come with a first token, which is dropped
    g.rules.min_new_tokens = 0;
  }
  const int64_t best_of = integer_or(root.at("best_of"), g.n, 1, kMaxChoices);
  if (best_of != g.n) fail("best_of: only the value of n is accepted ({}), found {}", g.n, best_of);
  return request;
}

}  // namespace fathom::server
