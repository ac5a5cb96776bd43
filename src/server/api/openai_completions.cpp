#include "server/api/openai_completions.h"

#include <utility>

#include "server/api/chat_request.h"
#include "server/api/legacy_logprobs.h"
#include "server/api/openai_format.h"
#include "server/http/sse.h"

namespace fathom::server {
namespace {

// The ids of a prompt. Special tokens in a text are control tokens, as clients of this endpoint
// expect; in /v1/chat/completions they are plain text.
std::vector<int32_t> ids_of(const Tokenizer& tokenizer, const TextPrompt& prompt, bool special) {
  return prompt.text ? tokenizer.encode(*prompt.text, special) : prompt.ids;
}

// Whether the text begins with the marker that the tokenizer puts in front of texts. The tokenizer
// adds no second one then, and the log says so.
bool brings_its_marker(const Tokenizer& tokenizer, const TextPrompt& prompt) {
  const std::vector<int32_t> markers = tokenizer.encode("");
  return prompt.text && !markers.empty() &&
         prompt.text->starts_with(tokenizer.token_bytes(markers.front()));
}

// An answer in flight; see ChatAnswer.
class CompletionAnswer {
 public:
  CompletionAnswer(Service& service, std::shared_ptr<HttpReply> reply, CompletionRequest request,
                   std::vector<std::vector<int32_t>> prompts, std::string id)
      : service_(service),
        reply_(std::move(reply)),
        request_(std::move(request)),
        prompts_(std::move(prompts)),
        id_(std::move(id)),
        created_(unix_now()),
        n_(static_cast<size_t>(request_.generation.n)),
        usage_(prompts_.size() * n_, request_.generation.n),
        chunks_(service.options, id_, "text_completion", created_, request_.stream.include_usage),
        prompt_logprobs_(prompts_.size()),
        open_(prompts_.size() * n_) {
    for (size_t c = 0; c < open_; ++c) choices_.emplace_back(service.tokenizer);
  }

  void begin() {
    if (request_.stream.stream) begin_events(*reply_);
  }

  void hear(const GenerationEvent& event) {
    if (over_) return;
    if (event.failure) return fail(*event.failure);
    usage_.take(event);
    take(event);
    if (!event.ended || --open_ > 0) return;
    end();
  }

  // Returns the prompts without running the engine.
  void echo_alone() {
    begin();
    for (size_t c = 0; c < choices_.size(); ++c) {
      GenerationEvent event;
      event.choice = static_cast<int>(c);
      event.ended = true;
      event.stats.prompt_tokens = static_cast<int64_t>(prompts_[c / n_].size());
      usage_.take(event);
      take(event);
    }
    end();
  }

 private:
  struct Choice {
    explicit Choice(const Tokenizer& tokenizer) : logprobs(tokenizer) {}
    LegacyLogprobs logprobs;
    bool begun = false;
    std::string text;
    OrderedJson json;  // once it has ended, for a whole answer
  };

  void fail(const Failure& failure) {
    over_ = true;
    if (!request_.stream.stream) return send_error(*reply_, ErrorShape::openai, failure);
    reply_->write(error_event(failure));
    reply_->end();
  }

  std::string echoed(size_t prompt) const {
    const TextPrompt& p = request_.prompts[prompt];
    return p.text ? *p.text : service_.tokenizer.decode(p.ids);
  }

  void take(const GenerationEvent& event) {
    const auto index = static_cast<size_t>(event.choice);
    Choice& choice = choices_[index];
    if (!event.prompt_logprobs.empty()) prompt_logprobs_[index / n_] = event.prompt_logprobs;
    std::string text;
    if (request_.echo && !choice.begun) {
      text = echoed(index / n_);
      if (request_.generation.logprobs >= 0)
        choice.logprobs.add_prompt(prompts_[index / n_], prompt_logprobs_[index / n_]);
    }
    choice.begun = true;
    if (!request_.no_answer) {
      for (const CompletionEvent& piece : event.pieces) text += piece.text;
      choice.logprobs.add_answer(event.logprobs);
    }
    const std::string reason = request_.no_answer ? "length" : event.finish_reason;
    if (request_.stream.stream)
      write_chunks(event, choice, text, reason);
    else
      keep(event, choice, text, reason);
  }

  void write_chunks(const GenerationEvent& event, Choice& choice, const std::string& text,
                    const std::string& reason) {
    const OrderedJson logprobs = choice.logprobs.take();
    if (text.empty() && logprobs.is_null() && !event.ended) return;
    const OrderedJson usage =
        request_.stream.continuous_usage ? usage_json(usage_total()) : OrderedJson(nullptr);
    reply_->write(chunks_.choice(
        event.choice,
        fmt::format("\"text\":{},\"logprobs\":{}", json_text(text), dump_json(logprobs)),
        event.ended ? reason : std::string(), usage));
  }

  void keep(const GenerationEvent& event, Choice& choice, const std::string& text,
            const std::string& reason) {
    choice.text += text;
    if (!event.ended) return;
    choice.json["index"] = event.choice;
    choice.json["text"] = std::move(choice.text);
    choice.json["logprobs"] = choice.logprobs.take();
    choice.json["finish_reason"] = reason;
  }

  // The one token that is generated only for the prompt's log-probabilities is not counted.
  Usage usage_total() const {
    Usage usage = usage_.total();
    if (request_.no_answer) usage.completion_tokens = 0;
    return usage;
  }

  void end() {
    over_ = true;
    if (request_.stream.stream) {
      if (request_.stream.include_usage) reply_->write(chunks_.usage(usage_json(usage_total())));
      reply_->write(std::string(kStreamDone));
      reply_->end();
      return;
    }
    OrderedJson json = answer_head(service_.options, id_, "text_completion", created_);
    json["system_fingerprint"] = fingerprint_json(service_.options);
    json["choices"] = OrderedJson::array();
    for (Choice& choice : choices_) json["choices"].push_back(std::move(choice.json));
    json["usage"] = usage_json(usage_total());
    reply_->send(200, "application/json", dump_json(json));
  }

  Service& service_;
  const std::shared_ptr<HttpReply> reply_;
  const CompletionRequest request_;
  const std::vector<std::vector<int32_t>> prompts_;
  const std::string id_;
  const int64_t created_;
  const size_t n_;
  UsageCount usage_;
  const ChunkWriter chunks_;
  std::vector<std::vector<TokenLogprobs>> prompt_logprobs_;  // by prompt; its choices share them
  std::vector<Choice> choices_;
  size_t open_;  // choices that have not ended
  bool over_ = false;
};

}  // namespace

void handle_completions(Service& service, const HttpRequest& http,
                        const std::shared_ptr<HttpReply>& reply) {
  answer_errors(*reply, "prompt", [&] {
    const auto arrival = std::chrono::steady_clock::now();
    const OrderedJson body = parse_json_body(http.body);
    const JsonField root(body, "");
    if (!serves_model(root, service.options))
      return send_model_not_found(*reply, root.at("model").string(), service.options);
    CompletionRequest request = read_completion_request(body, service.options);
    request.generation.arrival = arrival;
    const std::string id = new_id("cmpl-");
    std::vector<std::vector<int32_t>> prompts;
    std::vector<GenerationRequest> generations;
    bool twice = false;
    for (const TextPrompt& prompt : request.prompts) {
      if (prompt.text) check_prompt_bytes(service, prompt.text->size());
      twice = twice || brings_its_marker(service.tokenizer, prompt);
      prompts.push_back(ids_of(service.tokenizer, prompt, request.add_special_tokens));
      GenerationRequest& g = generations.emplace_back(request.generation);
      g.prompt = prompts.back();
      g.id = id;
    }
    if (twice && request.add_special_tokens)
      reply->note("left_out", "a second marker of the beginning");
    const bool silent = request.no_answer && request.generation.logprobs < 0;
    auto answer = std::make_shared<CompletionAnswer>(service, reply, std::move(request),
                                                     std::move(prompts), id);
    if (silent) return answer->echo_alone();
    if (auto failure =
            start_generation(service, reply, std::move(generations),
                             [answer](const GenerationEvent& event) { answer->hear(event); }))
      return send_error(*reply, ErrorShape::openai, *failure);
    answer->begin();
  });
}

}  // namespace fathom::server
